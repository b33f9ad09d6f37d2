"""Sizes and settings of the study: the demo's policies, and two controls of the same size."""

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
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run. DPO's settings are the demo's."""

    train_prompts: int = _DEMO.train_prompts
    held_prompts: int = _DEMO.held_prompts
    pair_prompts: int = _DEMO.pair_prompts
    pair_samples: int = _DEMO.pair_samples
    texts: int = 4  # the SFT policy's, of each held-out prompt
    written: int = 4  # texts of the SFT corpus's writer for each held-out prompt; errors are put into the right ones
    beta: float = _DEMO.beta_dpo
    draws: int = 500  # of the bootstrap over prompts
    dpo: Mapping[str, object] = field(default_factory=lambda: dict(_DEMO.dpo))

    def __post_init__(self) -> None:
        if self.pair_samples < 2 or self.texts < 1 or self.written < 1 or self.draws < 100:
            raise InputError(
                "pair_samples must be 2 or more, texts and written 1 or more, draws 100 or more, got "
                f"{self.pair_samples}, {self.texts}, {self.written}, {self.draws}"
            )
