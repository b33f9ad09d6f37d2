"""Marked characters of an answer as marked tokens: human error spans on the tokens of any tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, final

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text, and what is wrong with them."""

    start: int
    end: int
    name: str


def read_spans(value: Any, *, where: str, size: int | None = None) -> tuple[Span, ...]:
    """The spans of a data row's column: a list of [start, end, name]; `where` names the row in messages.

    `size`: the characters of the text that they mark, where it is known; no span ends behind them.

    >>> read_spans([[0, 4, "fact"]], where="f.jsonl:1")
    (Span(start=0, end=4, name='fact'),)
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: spans must be a list of [start, end, name], got {type(value).__name__}")
    found = []
    for item in value:
        start, end, name = item if isinstance(item, list | tuple) and len(item) == 3 else (None, None, None)
        if type(start) is not int or type(end) is not int or not (isinstance(name, str) and name):
            raise InputError(f"{where}: a span is [start, end, name], whole numbers and a text, got {item!r}")
        if not 0 <= start < end:
            raise InputError(f"{where}: a span needs 0 ≤ start < end, got [{start}, {end}, {name!r}]")
        if size is not None and end > size:
            raise InputError(f"{where}: a span ends in the text, of {size} characters, got [{start}, {end}, {name!r}]")
        found.append(Span(start, end, name))
    return tuple(found)


def marks(
    tokens: Sequence[str], spans: Sequence[Span], *, text: str, silent: Collection[int] = ()
) -> tuple[str, ...] | None:
    """The name of the error at each token, "" where there is none; None where the tokens are not those of the text.

    `tokens` are the pieces of the answer (`pieces`), `text` the answer as the spans count it, `silent` the places of
    tokens that write no text: an end token, which is never wrong. A token is wrong if a span holds at least one of its
    characters that is not white space: in "the sky" with "sky" marked, " sky" is wrong, and a span that ends in the
    space before a word does not mark the word. Of several spans the one with most of its characters names it, of
    equals the first. The first bytes of a character that several tokens write are as wrong as its last byte.
    White space of tokens and text may differ (tokenizers change it), every other character must agree; upper and
    lower case are one. The tokens may be those of a beginning of the text: an answer that was cut.

    >>> marks(["the", " sky", " is", "<eos>"], [Span(4, 8, "fact")], text="the sky is", silent={3})
    ('', 'fact', '', '')
    """
    places = _places(tokens, text, silent)
    if places is None:
        return None
    inside: dict[int, list[int]] = {}  # character → numbers of the spans that hold it
    for number, span in enumerate(spans):
        for at in range(span.start, min(span.end, len(text))):
            inside.setdefault(at, []).append(number)
    found = []
    for held in places:
        votes = Counter(number for at in held for number in inside.get(at, ()))
        found.append(spans[min(votes, key=lambda number: (-votes[number], number))].name if votes else "")
    _spread(found, tokens, silent)
    return tuple(found)


def _places(tokens: Sequence[str], text: str, silent: Collection[int]) -> list[list[int]] | None:
    """The places in the text of each token's characters, white space left out; None where they disagree."""
    written = [at for at, character in enumerate(text) if not character.isspace()]
    found: list[list[int]] = []
    reached = 0
    for number, token in enumerate(tokens):
        own = "" if number in silent else "".join(token.split())
        here = written[reached : reached + len(own)]
        if len(here) < len(own) or any(not _same(a, text[at]) for a, at in zip(own, here, strict=True)):
            return None
        found.append(here)
        reached += len(own)
    return found


def _same(one: str, two: str) -> bool:
    return one == two or one.casefold() == two.casefold()


def _spread(found: list[str], tokens: Sequence[str], silent: Collection[int]) -> None:
    """Give tokens without text the mark of the character that they begin: one beyond ASCII, right behind them."""
    for number in range(len(tokens) - 2, -1, -1):
        after = tokens[number + 1]
        begins = number not in silent and number + 1 not in silent and not tokens[number]
        if begins and (not after or not after.lstrip()[:1].isascii()):
            found[number] = found[number + 1]
