"""Sizes and settings of the demo: what fits into a few minutes of one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings of the demo at scale 1; `scale` multiplies the updates of every stage."""

    train_prompts: int = 1200
    held_prompts: int = 256
    pair_samples: int = 16  # SFT samples of each of `pair_prompts` prompts, two to a pair
    pair_prompts: int = 500
    texts: int = 4  # of each held-out prompt, for the table
    search_prompts: int = 96
    best_of: int = 8
    width: int = 4
    ceiling_prompts: int = 12
    ceiling_samples: int = 1600
    beta_dpo: float = 0.3
    beta_kl: float = 0.1
    beta_guide: float = 0.1
    dpo: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 125, "rows_per_update": 32, "learning_rate": 2e-4, "warmup_updates": 10, "schedule": "linear",
        }
    )  # fmt: skip
    reward_model: Mapping[str, object] = field(  # a head that starts at zero, and errors it must learn to notice
        default_factory=lambda: {
            "updates": 600, "rows_per_update": 16, "learning_rate": 1.5e-3, "critic_learning_rate": 3e-2,
            "warmup_updates": 10, "schedule": "cosine", "adam_beta2": 0.95,
        }
    )  # fmt: skip
    online: Mapping[str, object] = field(  # of PPO and RTO alike
        default_factory=lambda: {
            "updates": 128, "rollout_rows": 128, "mini_rows": 64, "epochs": 2, "learning_rate": 3e-4,
            "critic_learning_rate": 1e-3, "critic": "own", "warmup_updates": 5, "schedule": "linear",
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.beta_guide > self.beta_kl:
            raise InputError(
                f"β_guide {self.beta_guide} is above β_kl {self.beta_kl}: RTO would extrapolate its guide, and collapse"
            )
