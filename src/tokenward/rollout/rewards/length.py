"""How long a completion is, against a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.rollout.rewards.protocol import give
from tokenward.types import Rollout


@final
@dataclass(frozen=True)
class Length:
    """−max(0, n − N)/N beyond a limit of N tokens, or −|n − N|/N away from a target; derived here.

    n counts the tokens that the model wrote, the end token included. 0 is the best, −1 is one N away.
    """

    tokens: int
    against: Literal["limit", "target"] = "limit"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"length must be 1 token or more, got {self.tokens}")

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add the score of each length."""
        over = [sum(rollout.trainable) - self.tokens for rollout in rollouts]
        away = [max(0, n) if self.against == "limit" else abs(n) for n in over]
        return [give(rollout, score=-n / self.tokens) for rollout, n in zip(rollouts, away, strict=True)]
