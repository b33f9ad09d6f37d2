"""Sizes and settings of the study: the demo's, one τ for all, as many scored texts for PPO as the pairs hold."""

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

    `offline` and `online` are the demo's settings, not tuned for this comparison; PPO's number of updates is such that
    it samples as many texts as the pairs hold.
    """

    tau: float = 0.5
    cooler: float = 0.7  # sampling temperatures of the SFT policy, for the texts chosen over its own at 1
    hotter: float = 1.4
    train_prompts: int = _DEMO.train_prompts
    held_prompts: int = _DEMO.held_prompts
    pair_prompts: int = _DEMO.pair_prompts
    pair_samples: int = _DEMO.pair_samples
    texts: int = 8  # of each held-out prompt
    offline: Mapping[str, object] = field(default_factory=lambda: dict(_DEMO.dpo))
    online: Mapping[str, object] = field(default_factory=lambda: {**_DEMO.online, "updates": 256})

    def __post_init__(self) -> None:
        if not 0 < self.cooler < 1 < self.hotter:
            raise InputError(f"cooler {self.cooler} and hotter {self.hotter} must lie on the two sides of 1")
        if self.pair_samples % 2 or self.texts < 2:
            raise InputError(f"pair_samples must be even and texts 2 or more, got {self.pair_samples} and {self.texts}")

    @property
    def laws(self) -> dict[str, float]:
        """The two other laws of chosen texts: name and temperature."""
        return {"cooler": self.cooler, "hotter": self.hotter}
