"""Sizes and settings of the study of chains: what fits into a few minutes of one core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run. The three β are the demo's."""

    train_prompts: int = 4000
    held_prompts: int = 256
    pair_prompts: int = 2000
    pair_samples: int = 8  # SFT texts of each of them
    most_pairs: int = 3  # of one prompt
    texts: int = 4  # SFT texts of each held-out prompt, in which natural errors are looked for
    best_of: int = 16  # SFT texts of each held-out prompt to choose among
    max_new_tokens: int = 36
    rounds: int = 6  # of `sft`, at most: until 85 % of training prompts are answered right
    beta_dpo: float = 0.3
    beta_kl: float = 0.1
    beta_guide: float = 0.1
    sums: Mapping[str, object] = field(  # single sums, before whole chains
        default_factory=lambda: {
            "updates": 250, "rows_per_update": 128, "learning_rate": 3e-3, "warmup_updates": 20, "schedule": "cosine",
            "weight_decay": 0.01, "adam_beta2": 0.98,
        }
    )  # fmt: skip
    sft: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 600, "rows_per_update": 32, "learning_rate": 3e-3, "warmup_updates": 20, "schedule": "cosine",
            "weight_decay": 0.01, "adam_beta2": 0.98,
        }
    )  # fmt: skip
    dpo: Mapping[str, object] = field(  # about one pass over the pairs
        default_factory=lambda: {
            "updates": 45, "rows_per_update": 32, "learning_rate": 2e-4, "warmup_updates": 10, "schedule": "linear",
        }
    )  # fmt: skip
    reward_model: Mapping[str, object] = field(  # a head that starts at zero, as in the demo
        default_factory=lambda: {
            "updates": 90, "rows_per_update": 32, "learning_rate": 1e-3, "critic_learning_rate": 3e-2,
            "warmup_updates": 10, "schedule": "cosine", "adam_beta2": 0.95,
        }
    )  # fmt: skip
    online: Mapping[str, object] = field(  # of every PPO run alike
        default_factory=lambda: {
            "updates": 48, "rollout_rows": 128, "mini_rows": 64, "epochs": 2, "learning_rate": 3e-4,
            "critic_learning_rate": 1e-3, "critic": "own", "warmup_updates": 5, "schedule": "linear",
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.held_prompts < 2 or self.pair_prompts > self.train_prompts:
            raise InputError(
                f"held_prompts must be 2 or more and pair_prompts at most train_prompts ({self.train_prompts}), got "
                f"{self.held_prompts} and {self.pair_prompts}"
            )
        if self.beta_guide > self.beta_kl:
            raise InputError(
                f"β_guide {self.beta_guide} is above β_kl {self.beta_kl}: RTO would extrapolate its guide, and collapse"
            )
        if self.best_of < 2 or self.best_of & (self.best_of - 1):
            raise InputError(f"best_of is halved down to 1: give a power of two above 1, got {self.best_of}")
