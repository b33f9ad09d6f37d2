"""From what `--reward` says to something that scores completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, final

from transformers import PreTrainedTokenizerBase

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, nearest
from tokenward.models import load
from tokenward.models.vocabulary import WRAP, same_tokens
from tokenward.rollout.rewards.answer import Answer
from tokenward.rollout.rewards.combined import Combined, Part
from tokenward.rollout.rewards.function import function_reward
from tokenward.rollout.rewards.grammar import Asked, parse
from tokenward.rollout.rewards.implicit import ImplicitReward
from tokenward.rollout.rewards.length import Length
from tokenward.rollout.rewards.lexicon import Lexicon, read_lexicon
from tokenward.rollout.rewards.model import model_reward
from tokenward.rollout.rewards.on_text import Checker, TextReward
from tokenward.rollout.rewards.pattern import Pattern
from tokenward.rollout.rewards.protocol import Reward
from tokenward.rollout.rewards.stop import Stop

T = TypeVar("T")


@final
@dataclass(frozen=True)
class _Setting:
    """What sources need besides their arguments."""

    tokenizer: PreTrainedTokenizerBase
    dtype: str
    device: str
    micro_tokens: int
    timeout_s: float | None


def reward(
    spec: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "float32",
    device: str = "cpu",
    micro_tokens: int = 16384,
    timeout_s: float | None = None,
) -> Reward:
    """The reward that a spec asks for (`grammar.py`): one source as it is, several as `Combined`.

    `timeout_s` limits each call of a function, which then runs in a process of its own.
    """
    check(spec, timeout_s=timeout_s)
    setting = _Setting(tokenizer, dtype, device, micro_tokens, timeout_s)
    parts = [Part(asked.weight, asked.name, _source(asked, setting)) for asked in parse(spec)]
    return parts[0].reward if len(parts) == 1 and parts[0].weight == 1 else Combined(tuple(parts))


def judge(
    spec: str | None, *, tokenizer: PreTrainedTokenizerBase, dtype: str, device: str, timeout_s: float | None
) -> Reward | None:
    """The reward of a spec, where there is one."""
    if spec is None:
        check(spec, timeout_s=timeout_s)
        return None
    return reward(spec, tokenizer=tokenizer, dtype=dtype, device=device, timeout_s=timeout_s)


def check(spec: str | None, *, timeout_s: float | None = None) -> None:
    """One line for what is wrong with a spec, before any model is read or function imported."""
    if spec is None:
        if timeout_s is not None:
            raise InputError(f"reward_timeout_s = {timeout_s:g} limits a reward, and there is none: leave it out")
        return
    asked = parse(spec)
    if timeout_s is not None and not any(part.kind == "function" for part in asked):
        raise InputError(f"reward_timeout_s limits functions, and reward {spec!r} has none: leave it out")
    if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InputError(f"reward_timeout_s must be above 0 and finite, got {timeout_s}")
    for part in asked:
        _checker(part)
        if part.kind == "function" and not Path(part.arguments[0]).is_file():
            raise InputError(f"reward {part.text}: no file {part.arguments[0]}")
        if part.kind == "implicit":
            _implicit(part)


def timed(spec: str | None, timeout_s: float | None) -> float | None:
    """The time-out where the spec has a function, which it limits; None elsewhere."""
    return timeout_s if spec is not None and any(part.kind == "function" for part in parse(spec)) else None


def check_prompts(spec: str, prompts: Iterable[Prompt]) -> None:
    """One line for the first prompt whose row lacks what an answer is compared with, before anything is sampled."""
    checkers = {part.text: found for part in parse(spec) if isinstance(found := _checker(part), Answer)}
    for text, checker in checkers.items():
        for prompt in prompts:
            try:
                checker.check("", prompt)
            except InputError as error:
                raise InputError(f"reward {text}: {prompt.where} {error}") from error


def _source(asked: Asked, setting: _Setting) -> Reward:
    """The source of one part."""
    if asked.kind == "function":
        file, function = asked.arguments
        return function_reward(
            Path(file), function, name=asked.text, tokenizer=setting.tokenizer, timeout_s=setting.timeout_s
        )
    if asked.kind == "model":
        return model_reward(
            asked.arguments[0],
            tokenizer=setting.tokenizer,
            dtype=setting.dtype,
            device=setting.device,
            micro_tokens=setting.micro_tokens,
        )
    if asked.kind == "implicit":
        beta, place = _implicit(asked)
        for path in asked.arguments[:2]:
            same_tokens(path, setting.tokenizer, what="implicit reward:", remedy=WRAP)
        policy, reference = (
            load.policy(path, dtype=setting.dtype, device=setting.device).requires_grad_(False)
            for path in asked.arguments[:2]
        )
        return ImplicitReward(
            policy, reference, beta=beta, name=asked.name, place=place, micro_tokens=setting.micro_tokens
        )
    found = _checker(asked)
    assert found is not None  # every other kind is one
    return (
        found if isinstance(found, Length | Stop) else TextReward(found, name=asked.name, tokenizer=setting.tokenizer)
    )


def _checker(asked: Asked) -> Checker | Length | Stop | None:
    """The checker that a part asks for; None for functions and models."""
    first = asked.arguments[0]
    try:
        match asked.kind:
            case "answer":
                return Answer(first)
            case "regex" | "regex-not":
                return Pattern(first, wanted="found" if asked.kind == "regex" else "absent")
            case "lexicon":
                return Lexicon(read_lexicon(Path(first)), total=_word(asked, 1, LEXICON))
            case "length":
                return Length(_number(first, int, "a whole number of tokens"), against=_word(asked, 1, LENGTH))
            case "stop":
                return Stop(_number(first, float, "a penalty"))
    except InputError as error:
        raise InputError(f"reward {asked.text}: {error}") from error
    return None


LEXICON: tuple[Literal["mean", "sum"], ...] = ("mean", "sum")
LENGTH: tuple[Literal["limit", "target"], ...] = ("limit", "target")
IMPLICIT: tuple[Literal["sum", "tokens"], ...] = ("sum", "tokens")


def _implicit(asked: Asked) -> tuple[float, Literal["sum", "tokens"]]:
    """β and where the log-ratios go."""
    try:
        beta = _number(asked.arguments[2], float, "β, a number")
        if not (math.isfinite(beta) and beta > 0):
            raise InputError(f"β must be above 0, got {beta:g}")
        return beta, _word(asked, 3, IMPLICIT)
    except InputError as error:
        raise InputError(f"reward {asked.text}: {error}") from error


def _number(word: str, kind: Callable[[str], T], wanted: str) -> T:
    try:
        return kind(word)
    except ValueError as error:
        raise InputError(f"wanted {wanted}, got {word!r}") from error


def _word(asked: Asked, place: int, known: tuple[T, ...]) -> T:
    """The word at a place of the arguments, the first known one where it is left out."""
    if len(asked.arguments) <= place:
        return known[0]
    word = asked.arguments[place]
    if word not in known:
        raise InputError(f"unknown word {word!r}.{nearest(word, map(str, known))}")
    return known[known.index(word)]  # type: ignore[arg-type]
