"""The world of arithmetic chains: sums of at most four steps modulo ten, worked out step by step, and their truth.

    3 a + 5 b - 9 =    →    3 a + 5 = 8 ; 8 b - 9 = 9 , answer 9

Letters name the steps, so that a small model finds its place. The mark that ends a step is free: it says nothing.
`truth` reads any text: which step is the first wrong one, and which later steps follow rightly from a wrong value. The
reward is the final answer's alone. The file itself can be given as a reward, `chains.py:outcome`; `chains.py:watched`
adds nothing to a reward and logs the same parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, final

from tokenward.data.world import words_of

Kind = Literal["copy", "sum", "answer", "form"]
Mark = Literal["right", "wrong", "carried"]
Asked = tuple[str, int]  # sign and number of one step

BASE = 10
SIGNS = ("+", "-")
NAMES = tuple("abcd")  # of the steps
LONGEST = len(NAMES)
DIGITS = tuple(str(digit) for digit in range(BASE))
ENDS: dict[str, float] = {";": 0.6, ",": 0.25, ".": 0.1, "!": 0.05}  # what ends a step: how often writers take it
ANSWER = "answer"
_SHAPE: tuple[tuple[str, ...], ...] = (DIGITS, NAMES, SIGNS, DIGITS, ("=",), DIGITS, tuple(ENDS))
_RESULT = 5  # where a step's result stands


@final
@dataclass(frozen=True)
class Chain:
    """What a prompt asks: a number, and what is added to it or taken from it step by step."""

    first: int
    steps: tuple[Asked, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The value before the first step and behind each step; the last is the answer."""
        return tuple(accumulate(self.steps, lambda value, step: after(value, *step), initial=self.first))

    @property
    def prompt(self) -> str:
        steps = (f"{name} {sign} {number}" for name, (sign, number) in zip(NAMES, self.steps, strict=False))
        return " ".join([str(self.first), *steps, "="])


@final
@dataclass(frozen=True)
class ChainTruth:
    """What the world knows of a text.

    `segment` the step that each word belongs to, from 0; the answer is a step of its own · `wrong` the error that
    stands at a word, at most one a step · `marks` of each step: "wrong" has an error of its own, "carried" has none but
    its value is not the true one · `right` whether the final answer is.

    Errors: "copy" a number, sign or name that is not the prompt's, or not the last result · "sum" a result that does
    not follow from what the step says · "answer" not the last result · "form" anything that is not a chain, or too long
    or too short a one.
    """

    segment: tuple[int, ...]
    wrong: tuple[Kind | None, ...]
    marks: tuple[Mark, ...]
    right: bool

    @property
    def first(self) -> int | None:
        """The first wrong step; None where there is none."""
        return self.marks.index("wrong") if "wrong" in self.marks else None


def after(value: int, sign: str, number: int) -> int:
    """The value after one step, modulo ten.

    >>> after(3, "-", 9)
    4
    """
    return (value + number if sign == "+" else value - number) % BASE


def chain_of(prompt: str) -> Chain | None:
    """What a prompt asks; None when it is not of this world.

    >>> chain_of("3 a + 5 b - 9 =").values
    (3, 8, 9)
    """
    words = words_of(prompt)
    signs, numbers = words[2:-1:3], words[3:-1:3]
    if not 1 <= len(numbers) <= LONGEST or not set(signs) <= set(SIGNS) or not {words[0], *numbers} <= set(DIGITS):
        return None
    found = Chain(int(words[0]), tuple((sign, int(number)) for sign, number in zip(signs, numbers, strict=False)))
    return found if found.prompt.split() == words else None


def truth(prompt: str, words: Sequence[str]) -> ChainTruth | None:
    """The truth of any response; None when the prompt is not of this world."""
    chain = chain_of(prompt)
    if chain is None:
        return None
    wrong: list[Kind | None] = [None] * len(words)
    segment: list[int] = []
    marks: list[Mark] = []
    value, done, answered = chain.first, 0, False
    bounds = _bounds(words)
    for number, (start, end) in enumerate(pairwise(bounds)):
        part, place = words[start:end], 0
        kind: Kind | None = "form"
        segment += [number] * len(part)
        if answered:
            pass  # nothing may stand behind the answer
        elif part[0] == ANSWER:
            place, kind = _answer(part, value=value, complete=done >= len(chain.steps))
            answered = True
        else:
            place, kind = _step(part, value=value, chain=chain, number=done)
            value = int(part[_RESULT]) if len(part) > _RESULT and part[_RESULT] in DIGITS else value
            done += 1
        if kind is not None:
            wrong[start + place] = kind
        true = chain.values[min(done, len(chain.steps))]
        marks.append("wrong" if kind is not None else "right" if value == true else "carried")
    return ChainTruth(tuple(segment), tuple(wrong), tuple(marks), [*words[-2:]] == [ANSWER, str(chain.values[-1])])


def _bounds(words: Sequence[str]) -> list[int]:
    """Where steps begin, and the end: a step ends at its mark, and before the word that opens the answer."""
    inner = [at for at in range(1, len(words)) if words[at - 1] in ENDS or words[at] == ANSWER]
    return [0, *inner, len(words)] if words else [0]


def _step(part: Sequence[str], *, value: int, chain: Chain, number: int) -> tuple[int, Kind | None]:
    """(place, kind) of the first error of step `number`; kind None where it has none."""
    if number >= len(chain.steps):
        return 0, "form"
    asked = chain.steps[number]
    wanted = (str(value), NAMES[number], asked[0], str(asked[1]))
    for place, known in enumerate(_SHAPE):
        if place == len(part):
            return place - 1, "form"
        if part[place] not in known:
            return place, "form"
        if place < len(wanted) and part[place] != wanted[place]:
            return place, "copy"
        if place == _RESULT and int(part[place]) != after(value, *asked):
            return place, "sum"
    return 0, None


def _answer(part: Sequence[str], *, value: int, complete: bool) -> tuple[int, Kind | None]:
    """(place, kind) of the answer's error; kind None where it has none."""
    if not complete or len(part) == 1:
        return 0, "form"
    if part[1] not in DIGITS:
        return 1, "form"
    if part[1] != str(value):
        return 1, "answer"
    return (0, None) if len(part) == 2 else (2, "form")


def outcome(
    prompts: list[str], completions: list[str], columns: list[dict[str, object]]
) -> list[dict[str, float] | None]:
    """1 for a right final answer, else 0; parts: `right`, and `sound` where no step is wrong either."""
    found = watched(prompts, completions, columns)
    return [None if parts is None else {**parts, "score": parts["right"]} for parts in found]


def watched(
    prompts: list[str], completions: list[str], columns: list[dict[str, object]]
) -> list[dict[str, float] | None]:
    """The parts of `outcome` with a score of 0: what a run on another reward logs beside it."""
    found = [truth(p, words_of(c)) for p, c, _ in zip(prompts, completions, columns, strict=True)]
    return [
        None if t is None else {"score": 0.0, "right": float(t.right), "sound": float(t.right and t.first is None)}
        for t in found
    ]


def vocabulary() -> list[str]:
    """Every word of prompts and responses, sorted."""
    return sorted({*DIGITS, *NAMES, *SIGNS, *ENDS, "=", ANSWER})
