"""Sizes and settings of the study: four references, three strengths, one set of pairs read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.errors import InputError

REFERENCES = ("chosen", "both", "rejected", "none")


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run.

    Pairs are two texts of the SFT policy on `pair_prompts` prompts, labeled by draws on the true reward; `tuned` are
    the settings of tuning it on one side of them. Every DPO run reads the same pairs once, in the same order.
    """

    betas: tuple[float, ...] = (0.1, 0.5, 2.0)
    train_prompts: int = 1200
    held_prompts: int = 256
    pair_prompts: int = 400
    pair_samples: int = 12
    held_samples: int = 4  # of each held-out prompt, two to a pair
    texts: int = 4  # fresh ones of each held-out prompt and model, for the report
    tuned: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 150, "rows_per_update": 32, "learning_rate": 1e-3, "warmup_updates": 10, "schedule": "cosine",
        }
    )  # fmt: skip
    offline: Mapping[str, object] = field(
        default_factory=lambda: {
            "updates": 80, "rows_per_update": 16, "learning_rate": 2e-4, "warmup_updates": 10, "schedule": "linear",
            "probe_samples": 64, "probe_every": 10,
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.betas or min(self.betas) <= 0:
            raise InputError(f"betas must be above 0, got {self.betas}")
        if self.pair_samples % 2 or self.held_samples % 2 or self.texts < 2:
            raise InputError("pair_samples and held_samples must be even, texts 2 or more")

    def runs(self) -> list[tuple[str, str, float]]:
        """(name, reference, β) of every DPO run."""
        return [(f"dpo-{name}-{beta:g}", name, beta) for name in REFERENCES for beta in self.betas]
