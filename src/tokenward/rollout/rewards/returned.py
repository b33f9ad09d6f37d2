"""What a reward function may return for a completion, checked value by value.

A number, or a mapping: "score" (given at the end), "tokens" (one number per response token) or "steps" (pairs of a
character end and a reward), and any other name: a part, which is logged and not added.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tokenward.errors import InputError

DENSE = ("tokens", "steps")


@final
@dataclass(frozen=True)
class Verdict:
    """What one completion was given: a score at its end, named parts, and token rewards if there are any."""

    score: float
    parts: dict[str, float]
    rewards: tuple[float, ...] | None = None


def verdict(answer: object, *, ends: Callable[[], Sequence[int]], who: str) -> Verdict:
    """The answer for one completion; one line starting with `who` for each fault.

    `ends` gives the character of the completion at which each response token ends; it is asked for token rewards only.
    Without "score", token rewards are all there is: the score is 0.
    """
    if not isinstance(answer, Mapping):
        return Verdict(_number(answer, "score", who), {})
    answer = {str(name): value for name, value in answer.items()}
    dense = [name for name in DENSE if name in answer]
    if "score" not in answer and not dense:
        raise InputError(f"{who} has parts {sorted(answer)} but no 'score', 'tokens' or 'steps'")
    if len(dense) == 2:
        raise InputError(f"{who} has both 'tokens' and 'steps': give one of them")
    rewards = None
    if dense:
        read = _tokens if dense == ["tokens"] else _steps
        rewards = read(answer.pop(dense[0]), ends(), who)
    numbers = {part: _number(value, part, who) for part, value in answer.items()}
    return Verdict(numbers.pop("score", 0.0), numbers, rewards)


def _number(value: object, part: str, who: str) -> float:
    if value is None:
        raise InputError(f"{who} has no {part} (None): a missing score is not 0; drop the prompt or score it")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"{who} has {part} of type {type(value).__name__}, wanted a number") from error
    if isinstance(value, str) or not math.isfinite(number):
        raise InputError(f"{who} has {part} = {value!r}, wanted a finite number")
    return number


def _tokens(given: object, ends: Sequence[int], who: str) -> tuple[float, ...]:
    values = _listed(given, "tokens", f"a list of {len(ends)} numbers", who)
    if len(values) != len(ends):
        raise InputError(f"{who} has {len(values)} token rewards for {len(ends)} response tokens")
    return tuple(_number(value, f"token reward {i}", who) for i, value in enumerate(values))


def _steps(given: object, ends: Sequence[int], who: str) -> tuple[float, ...]:
    """Each step's reward at the token that writes the step's last character."""
    rewards, before, length = [0.0] * len(ends), 0, ends[-1] if ends else 0
    for i, step in enumerate(_listed(given, "steps", "a list of (character end, reward)", who)):
        if not isinstance(step, list | tuple) or len(step) != 2:
            raise InputError(f"{who} has step {i} = {step!r}, wanted (character end, reward)")
        end = step[0]
        if not isinstance(end, int) or isinstance(end, bool) or not before < end <= length:
            raise InputError(
                f"{who} has step {i} ending at {end!r}, wanted a whole number above {before} and at most {length}, "
                "the completion's characters"
            )
        rewards[bisect_left(ends, end)] += _number(step[1], f"step reward {i}", who)
        before = end
    return tuple(rewards)


def _listed(value: object, part: str, wanted: str, who: str) -> list[object] | tuple[object, ...]:
    if value is None:
        raise InputError(f"{who} has no {part} (None): leave the key out, or give {wanted}")
    if not isinstance(value, list | tuple):
        raise InputError(f"{who} has {part} of type {type(value).__name__}, wanted {wanted}")
    return value
