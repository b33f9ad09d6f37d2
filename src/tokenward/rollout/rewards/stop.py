"""A penalty for completions that never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.rollout.rewards.protocol import give
from tokenward.types import Rollout


@final
@dataclass(frozen=True)
class Stop:
    """−penalty where the completion was cut at its limit and has no end token, else 0 (TRL: missing_eos_penalty).

    A reward model has never seen a text cut in the middle, so what it says of one means little.
    """

    penalty: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.penalty) and self.penalty > 0):
            raise InputError(f"stop must be a penalty above 0, got {self.penalty:g}")

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Subtract the penalty from completions that were cut."""
        return [give(r, score=-self.penalty if r.finish == "length" else 0.0) for r in rollouts]
