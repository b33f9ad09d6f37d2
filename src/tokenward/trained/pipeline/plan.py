"""Sizes and settings of the study: what fits into four minutes of one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.demo.plan import Plan as DemoPlan
from tokenward.errors import InputError

_DEMO = DemoPlan()


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run.

    `sft` and `dpo` are the demo's settings, but for as many SFT rows as two tasks need; `dpo` is that of every run of
    preferences: models trained together and alone take equally many updates on the same pairs.
    """

    beta: float = _DEMO.beta_dpo
    train_prompts: int = _DEMO.train_prompts
    held_prompts: int = _DEMO.held_prompts
    pair_prompts: int = 400
    pair_runs: int = 16  # runs of the SFT pipeline on each of `pair_prompts` prompts, two to a pair
    runs: int = 8  # of each held-out prompt, for the table
    credit_prompts: int = 128  # held-out prompts whose SFT runs are looked at token by token
    max_new_tokens: int = 32
    sft_updates: int = 350
    dpo: Mapping[str, object] = field(default_factory=lambda: {**_DEMO.dpo, "updates": 100})

    def __post_init__(self) -> None:
        if self.pair_runs % 2 or self.runs < 2:
            raise InputError(f"pair_runs must be even and runs 2 or more, got {self.pair_runs} and {self.runs}")
