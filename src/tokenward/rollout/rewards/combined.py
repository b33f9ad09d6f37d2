"""Several rewards with weights as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from tokenward.data.tokenize import Prompt
from tokenward.rollout.rewards.protocol import Reward, give
from tokenward.types import Rollout


@final
@dataclass(frozen=True)
class Part:
    """One of several rewards: its weight, its name in logs, and where it comes from."""

    weight: float
    name: str
    reward: Reward


@final
@dataclass(frozen=True)
class Combined:
    """Σ weight × reward over the parts, for the score and for each token.

    Logged beside, without the weight: each part's own total (score and token rewards) under its name, and what that
    part logs itself under `name/…`.
    """

    parts: tuple[Part, ...]

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add the weighted sum; every part sees the completions without the rewards of the others."""
        bare = [replace(rollout, score=None, parts=None, rewards=None) for rollout in rollouts]
        found = list(rollouts)
        for part in self.parts:
            for row, own in enumerate(part.reward.score(bare, prompts)):
                inner = {f"{part.name}/{name}": value for name, value in (own.parts or {}).items()}
                found[row] = give(
                    found[row],
                    score=part.weight * (own.score or 0.0),
                    parts={part.name: own.total or 0.0, **inner},
                    rewards=None if own.rewards is None else [part.weight * reward for reward in own.rewards],
                )
        return found
