"""Errors put into right texts of the built-in world, one at a time or a second one after a first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from tokenward.data.world import FACTS, Kind, facts_of, truth, vocabulary

_TRIES = 50


@final
@dataclass(frozen=True)
class Injected:
    """A text with errors put in: its words, and the kind of error that stands at each of `errors`."""

    words: tuple[str, ...]
    errors: dict[int, Kind]


@final
@dataclass(frozen=True)
class Pairwise:
    """A right text in which two facts are stated, places `first` < `second`, and its three wrong versions.

    All four have the same words but for the one or two facts: what is said of `second` differs by the context alone.
    """

    prompt: str
    first: int
    second: int
    clean: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    both: tuple[str, ...]


def fact_places(prompt: str, words: Sequence[str]) -> list[int]:
    """Where a fact is stated; empty when the text has an error already, or the prompt is not of the world."""
    found = truth(prompt, words)
    return [] if found is None or found.errors else [i for i, slot in enumerate(found.slot) if slot]


def wrong_fact(prompt: str, words: Sequence[str], rng: random.Random) -> Injected | None:
    """One stated fact replaced by another of its kind; None where no fact is stated."""
    places = fact_places(prompt, words)
    if not places:
        return None
    place = rng.choice(places)
    return _confirmed(prompt, _replaced(words, place, _other(words[place], rng)), {place: "contradiction"})


def repeat(prompt: str, words: Sequence[str], rng: random.Random) -> Injected | None:
    """One sentence said again at the end; None where this is no error of the world at one single word."""
    starts = [0, *(i + 1 for i, word in enumerate(words) if word in (".", "!"))]
    start, stop = rng.choice([*pairwise(starts)] or [(0, 0)])
    given = (*words, *words[start:stop])
    found = truth(prompt, given)
    if found is None or not fact_places(prompt, words):
        return None
    wrong = [i for i, kind in enumerate(found.kind) if kind]
    return _confirmed(prompt, given, {wrong[0]: "repeat"}) if len(wrong) == 1 and wrong[0] >= len(words) else None


def broken(prompt: str, words: Sequence[str], rng: random.Random) -> Injected | None:
    """One word that states no fact replaced by a word that no sentence has there; None where none was found."""
    facts = fact_places(prompt, words)
    places = [i for i, word in enumerate(words) if i not in facts and word not in (".", "!")]
    known = vocabulary()
    for _ in range(_TRIES if facts and places else 0):
        place = rng.choice(places)
        found = _confirmed(prompt, _replaced(words, place, rng.choice(known)), {place: "broken"})
        if found is not None:
            return found
    return None


def second_error(prompt: str, words: Sequence[str], rng: random.Random) -> Pairwise | None:
    """Two facts of different kinds in one right text, wrong or right each; None where it does not state two."""
    places = fact_places(prompt, words)
    choices = [(i, j) for i in places for j in places if i < j and words[i] != words[j]]
    if not choices:
        return None
    first, second = rng.choice(choices)
    one, two = _other(words[first], rng), _other(words[second], rng)
    only_first, only_second = _replaced(words, first, one), _replaced(words, second, two)
    both = _replaced(only_first, second, two)
    wanted: list[tuple[tuple[str, ...], dict[int, Kind]]] = [
        (only_first, {first: "contradiction"}), (only_second, {second: "contradiction"}),
        (both, {first: "contradiction", second: "contradiction"}),
    ]  # fmt: skip
    if any(_confirmed(prompt, given, errors) is None for given, errors in wanted):
        return None
    return Pairwise(prompt, first, second, tuple(words), only_first, only_second, both)


def _other(word: str, rng: random.Random) -> str:
    """Another value of the fact that this word states."""
    (values,) = (values for values in FACTS.values() if word in values)
    return rng.choice([value for value in values if value != word])


def _replaced(words: Sequence[str], place: int, word: str) -> tuple[str, ...]:
    return (*words[:place], word, *words[place + 1 :])


def _confirmed(prompt: str, words: tuple[str, ...], errors: dict[int, Kind]) -> Injected | None:
    """The text, if the world sees these errors in it and no others."""
    found = truth(prompt, words)
    seen = {} if found is None else {i: kind for i, kind in enumerate(found.kind) if kind}
    return Injected(words, errors) if facts_of(prompt) is not None and seen == errors else None
