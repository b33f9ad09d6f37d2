"""The built-in text world: prompts that state three facts, short reviews, and their exact reward token by token.

A prompt tells the color of an item and how it came; a response is a few sentences of a fixed grammar that may restate
facts, praise, complain, repeat or contradict. `truth` scores any text, also one outside the grammar. The file
itself can be given as a reward, `world.py:reward`: it needs the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, final

Kind = Literal["contradiction", "repeat", "broken"]

FACTS: dict[str, tuple[str, ...]] = {
    "color": tuple("red blue green white black yellow pink brown gray purple".split()),
    "item": tuple(
        "lamp chair table phone kettle jacket bag clock cup shirt sofa mirror pillow camera radio bike".split()
    ),
    "event": tuple("late early broken dirty empty open wet bent damaged unpacked".split()),
}
PROMPTS: tuple[str, ...] = (
    "order : {color} {item} . it came {event} . review :",
    "i got a {color} {item} and it arrived {event} . review :",
    "the {item} was {event} . its color is {color} . review :",
)
STATEMENTS: tuple[str, ...] = (
    "i ordered a {color} {item} .",
    "my {item} came {event} .",
    "the {color} {item} arrived {event} .",
    "the {item} is {color} .",
    "it was {event} .",
)
PRAISE: dict[str, tuple[str, float]] = {  # sentence: (the word that carries the valence, its valence)
    "i love it .": ("love", 1.0),
    "great service .": ("great", 0.8),
    "it works well .": ("works", 0.8),
    "i am very happy .": ("happy", 1.0),
    "thank you !": ("thank", 0.6),
}
COMPLAINTS: dict[str, tuple[str, float]] = {
    "i hate it .": ("hate", -1.0),
    "bad service .": ("bad", -0.8),
    "it never works .": ("never", -0.8),
    "i am very sad .": ("sad", -1.0),
    "i want a refund .": ("want", -0.6),
}
NEUTRAL: tuple[str, ...] = ("that is all .", "this is my review .")

COST = 0.1  # of every token
STATED = 0.6  # reward of the first right mention of each fact
PENALTY: dict[Kind, float] = {"contradiction": 2.0, "repeat": 1.0, "broken": 1.0}

VALENCE = PRAISE | COMPLAINTS
SENTENCES: dict[str, tuple[str, ...]] = {s: tuple(s.split()) for s in (*STATEMENTS, *VALENCE, *NEUTRAL)}
_FACT_OF = {f"{{{name}}}": name for name in FACTS}


@final
@dataclass(frozen=True)
class TokenTruth:
    """What the world knows of each word of one response; the text's reward is `total` = Σ_t reward_t.

    `reward` in reward units, cost included · `penalty` ≥ 0, its part for an error (0 where there is none) · `slot` True
    where a fact is stated or an error stands, that is where the world could err · `kind` of the error, or None.
    """

    reward: tuple[float, ...]
    penalty: tuple[float, ...]
    slot: tuple[bool, ...]
    kind: tuple[Kind | None, ...]

    @property
    def total(self) -> float:
        return sum(self.reward, 0.0)

    @property
    def errors(self) -> int:
        return sum(p > 0 for p in self.penalty)


@final
class _Reader:
    """Reads a response word by word and remembers what was said; one instance per text."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts
        self.stated: set[str] = set()  # facts that were given right
        self.said: set[str] = set()  # sentences begun so far
        self.praised = 0
        self.last = ""
        self.options: list[str] = list(SENTENCES)  # sentences that the words since the last stop fit
        self.place = 0  # words since the last stop

    def read(self, word: str) -> tuple[float, bool, Kind | None]:
        """(reward without cost and penalty, whether a fact stands here, kind of error) of the next word."""
        before = self.options
        self.options = [s for s in before if self.place < len(SENTENCES[s]) and _fits(SENTENCES[s][self.place], word)]
        fact = _FACT_OF.get(SENTENCES[self.options[0]][self.place]) if self.options else None
        kind = self._error(word, before)
        if fact is not None and word != self.facts[fact]:
            kind = "contradiction"
        gain = self._gain(word, fact) if kind is None else 0.0
        self._advance(word)
        return gain, fact is not None, kind

    def _error(self, word: str, before: list[str]) -> Kind | None:
        """One error per sentence: where it leaves the grammar, or where it can only be a sentence already said."""
        if not self.options:
            return ("repeat" if word == self.last else "broken") if before else None
        if self.said.issuperset(self.options):
            return None if self.place and self.said.issuperset(before) else "repeat"
        return None

    def _gain(self, word: str, fact: str | None) -> float:
        if fact is not None:
            new = fact not in self.stated
            self.stated.add(fact)
            return STATED if new else 0.0
        key, value = VALENCE.get(self.options[0], ("", 0.0)) if self.options else ("", 0.0)
        if word != key or self.options[0] in self.said:
            return 0.0
        if value > 0:
            value *= 0.5**self.praised  # so that no list of compliments pays for its own length
            self.praised += 1
        return value

    def _advance(self, word: str) -> None:
        self.place, self.last = self.place + 1, word
        if word in (".", "!"):
            self.said.update(s for s in self.options if len(SENTENCES[s]) == self.place)
            self.options, self.place = list(SENTENCES), 0


def _fits(pattern: str, word: str) -> bool:
    name = _FACT_OF.get(pattern)
    return word in FACTS[name] if name else word == pattern


def facts_of(prompt: str) -> dict[str, str] | None:
    """The facts that a prompt states, by name; None when it does not state each of them exactly once.

    >>> facts_of("order : red lamp . it came late . review :")
    {'color': 'red', 'item': 'lamp', 'event': 'late'}
    """
    found = {name: [w for w in prompt.split() if w in values] for name, values in FACTS.items()}
    return {name: words[0] for name, words in found.items()} if all(len(w) == 1 for w in found.values()) else None


def truth(prompt: str, words: Sequence[str]) -> TokenTruth | None:
    """Reward, penalty and slots of each word of any response; None when the prompt is not of this world.

    reward_t = −COST + STATED·[fact given right for the first time] + valence·½^(praise so far) − penalty_t
    """
    facts = facts_of(prompt)
    if facts is None:
        return None
    reader = _Reader(facts)
    marks = [reader.read(word) for word in words]
    if marks and reader.place:  # a text that stops inside a sentence: its last word is the error
        gain, fact, kind = marks[-1]
        marks[-1] = (gain, fact, kind or "broken")
    penalty = tuple(PENALTY[kind] if kind else 0.0 for _, _, kind in marks)
    return TokenTruth(
        reward=tuple(gain - COST - p for (gain, _, _), p in zip(marks, penalty, strict=True)),
        penalty=penalty,
        slot=tuple(fact or kind is not None for _, fact, kind in marks),
        kind=tuple(kind for _, _, kind in marks),
    )


def words_of(text: str) -> list[str]:
    """The words of a text, each punctuation mark a word of its own."""
    return re.findall(r"\w+|[^\w\s]", text)


def error_spans(found: TokenTruth) -> list[tuple[int, int, Kind]]:
    """Maximal runs of wrong words of one kind: (start, end, kind), end excluded."""
    spans: list[tuple[int, int, Kind]] = []
    for kind, run in groupby(range(len(found.kind)), key=found.kind.__getitem__):
        places = list(run)
        if kind is not None:
            spans.append((places[0], places[-1] + 1, kind))
    return spans


def reward(prompts: list[str], completions: list[str], columns: list[dict[str, object]]) -> list[float | None]:
    """The true reward of each text; None where the prompt is not of this world. The prompt's words state the facts."""
    found = [truth(p, words_of(c)) for p, c, _ in zip(prompts, completions, columns, strict=True)]
    return [None if t is None else t.total for t in found]


def vocabulary() -> list[str]:
    """Every word of prompts and responses, sorted."""
    texts = [*PROMPTS, *SENTENCES]
    known = {w for text in texts for w in text.split() if w not in _FACT_OF}
    return sorted(known.union(*FACTS.values()))
