"""What every source of rewards is: rollouts in, the same rollouts with its rewards added out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from tokenward.data.tokenize import Prompt
from tokenward.types import Rollout


@runtime_checkable
class Reward(Protocol):
    """Anything that scores completions."""

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """The same rollouts with the rewards of this source added (`give`); `prompts` by their id."""
        ...


def give(
    rollout: Rollout,
    *,
    score: float,
    parts: Mapping[str, float] | None = None,
    rewards: Sequence[float] | None = None,
) -> Rollout:
    """The rollout with a score, named parts and token rewards added to those it has, as from an environment.

    >>> r = Rollout(0, (1,), (5, 6), (True, True), (-1.0, -1.0), "stop", score=1.0, rewards=(0.5, 0.0))
    >>> r = give(r, score=2.0, rewards=[0.0, 0.25])
    >>> r.score, r.rewards, r.total
    (3.0, (0.5, 0.25), 3.75)
    """
    named = {**(rollout.parts or {}), **(parts or {})}
    tokens = rollout.rewards
    if rewards is not None:
        tokens = tuple(a + b for a, b in zip(tokens or (0.0,) * len(rewards), rewards, strict=True))
    return dataclasses.replace(rollout, score=(rollout.score or 0.0) + score, parts=named or None, rewards=tokens)


def place(rollout: Rollout, prompts: Mapping[int, Prompt]) -> str:
    """The prompt of a completion as messages name it: its line in the file, or its number."""
    prompt = prompts.get(rollout.prompt_id)
    return (prompt.where if prompt is not None else "") or str(rollout.prompt_id)
