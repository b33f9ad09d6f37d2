"""Sizes and settings of the two stories: what fits into a few minutes of one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run.

    `sharpness` is κ in P(first preferred) = σ(κ (r_first − r_second)): rewards here lie between 0 and 1.
    """

    train_prompts: int = 320
    held_prompts: int = 128
    pair_episodes: int = 12  # SFT episodes of each training prompt, two to a pair
    sharpness: float = 5.0
    episodes: int = 4  # of each held-out prompt and policy
    max_new_tokens: int = 32  # of an episode, observations included
    max_turns: int = 4
    beta_dpo: float = 0.1
    beta_kl: float = 0.02
    beta_guide: float = 0.02
    copy: Mapping[str, object] = field(  # words said twice: what teaches a small model to look back and copy
        default_factory=lambda: {
            "updates": 150, "rows_per_update": 32, "learning_rate": 3e-3, "warmup_updates": 20, "schedule": "cosine",
            "weight_decay": 0.01,
        }
    )  # fmt: skip
    sft: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 200, "rows_per_update": 32, "learning_rate": 3e-3, "warmup_updates": 20, "schedule": "cosine",
            "weight_decay": 0.01,
        }
    )  # fmt: skip
    dpo: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 60, "rows_per_update": 32, "learning_rate": 2e-4, "warmup_updates": 10, "schedule": "linear",
        }
    )  # fmt: skip
    online: Mapping[str, object] = field(  # of PPO, RTO and the control alike
        default_factory=lambda: {
            "updates": 160, "rollout_rows": 128, "mini_rows": 64, "epochs": 2, "learning_rate": 3e-4,
            "critic_learning_rate": 1e-3, "critic": "own", "warmup_updates": 5, "schedule": "linear",
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.beta_guide > self.beta_kl:
            raise InputError(
                f"β_guide {self.beta_guide} is above β_kl {self.beta_kl}: RTO would extrapolate its guide, and collapse"
            )
        if self.pair_episodes % 2 or self.held_prompts < 2:
            raise InputError(
                f"pair_episodes must be even and held_prompts 2 or more, got {self.pair_episodes} and "
                f"{self.held_prompts}"
            )
