"""Use a calculator: the model writes a call, the environment the result, the model the answer.

    what is 3 4 7 * 6 ?   →  call 3 4 7 * 6  →  2 0 8 2 .  →  answer 2 0 8 2

Three digits times one, the product written with four. A right answer is worth 1, a wrong one 0, every turn before it
costs COST. BEST = 1 − COST is what one call and copying earn; whoever multiplies in the head earns 1, and whoever knows
nothing but how products spread earns BLIND at most: the share of the likeliest product of each pair of last digits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice, product
from typing import Any, final

from tokenward.data.tokenize import Prompt
from tokenward.environments.protocol import Observation
from tokenward.errors import InputError

FIRST, SECOND = range(100, 1000), range(2, 10)
WIDTH = 4  # digits of a product
COST = 0.05
BEST = 1 - COST
ERROR = "error ."
CALLS, WRONG_CALLS = 0.3, 0.25  # of the demonstrations: shares with a right call, with a wrong digit; the rest guess
SLIP = 0.1  # how often a demonstration answers with a digit other than the calculator's

Row = dict[str, Any]


@final
class Calculator:
    """The environment: the question is read from the columns of the prompt's row."""

    def start(self, prompt: Prompt, seed: int) -> Calculating:
        del seed  # the row decides everything
        try:
            return Calculating(int(prompt.columns["a"]), int(prompt.columns["b"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"row {prompt.where or prompt.id} needs whole numbers in the columns a and b") from error


@final
class Calculating:
    """One question."""

    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b

    def reply(self, text: str) -> Observation:
        """`call A * B` is computed, `answer N` ends the episode; anything else is an error, and costs."""
        words = text.split()
        if words[:1] == ["answer"]:
            right = float(words[1:] == list(digits(self.a * self.b)))
            return Observation(reward=right, done=True, counts={"right": right})
        if words[:1] == ["call"] and words.count("*") == 1:
            at = words.index("*")
            a, b = _number(words[1:at]), _number(words[at + 1 :])
            if a is not None and b is not None and a * b < 10**WIDTH:
                well = float((a, b) == (self.a, self.b))
                return Observation(shown(a * b), reward=-COST, counts={"calls": 1.0, "calls_well": well})
        return Observation(ERROR, reward=-COST)


def digits(number: int) -> str:
    """The number with WIDTH digits."""
    return f"{number:0{WIDTH}d}"


def shown(number: int) -> str:
    """The calculator's answer, a word for each digit.

    >>> shown(2082)
    '2 0 8 2 .'
    """
    return f"{' '.join(digits(number))} ."


def _number(words: Sequence[str]) -> int | None:
    good = 0 < len(words) <= WIDTH and all(len(word) == 1 and word.isdecimal() for word in words)
    return int("".join(words)) if good else None


def blind() -> float:
    """The share of right answers of whoever knows the last digits of a question and how products spread."""
    seen: dict[tuple[int, int], Counter[int]] = {}
    for a, b in product(FIRST, SECOND):
        seen.setdefault((a % 10, b), Counter())[a * b] += 1
    return sum(counts.most_common(1)[0][1] for counts in seen.values()) / (len(FIRST) * len(SECOND))


def prompt_rows(*, train: int, heldout: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Two lists of rows {"prompt", "a", "b"} that share no question."""
    rng = random.Random(seed)
    questions = list(product(FIRST, SECOND))
    if train + heldout > len(questions):
        raise InputError(f"calculator: {train} + {heldout} prompts asked of a world of {len(questions)} questions")
    rows = [
        {"prompt": f"what is {' '.join(str(a))} * {b} ?", "a": a, "b": b}
        for a, b in rng.sample(questions, train + heldout)
    ]
    return rows[:train], rows[train:]


def demonstrations(rows: Sequence[Row], *, count: int, seed: int) -> list[Row]:
    """{"prompt", "turns"} of a careless clerk: right calls, calls with a wrong digit, guesses; answers slip."""
    rng = random.Random(seed)
    return [{"prompt": row["prompt"], "turns": _clerk(row["a"], row["b"], rng)} for row in islice(cycle(rows), count)]


def _clerk(a: int, b: int, rng: random.Random) -> list[dict[str, str]]:
    draw = rng.random()
    if draw >= CALLS + WRONG_CALLS:
        guess = rng.choice(FIRST) * b
        return [{"role": "assistant", "content": f"answer {' '.join(digits(guess))}"}]
    typed = str(a) if draw < CALLS else _mistyped(str(a), rng)
    result = digits(int(typed) * b)
    answer = result if rng.random() >= SLIP else _mistyped(result, rng)
    return [
        {"role": "assistant", "content": f"call {' '.join(typed)} * {b}"},
        {"role": "user", "content": shown(int(typed) * b)},
        {"role": "assistant", "content": f"answer {' '.join(answer)}"},
    ]


def _mistyped(number: str, rng: random.Random) -> str:
    """The number with another digit at one place, not a leading one."""
    place = rng.randrange(1, len(number))
    other = rng.choice([d for d in "0123456789" if d != number[place]])
    return number[:place] + other + number[place + 1 :]


def vocabulary() -> list[str]:
    """Every word of questions, calls and answers, sorted."""
    return sorted({*"what is ? * call answer . error".split(), *"0123456789"})
