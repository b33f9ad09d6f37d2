"""Sizes and settings of the study: the demo's models, three β of DPO, PPO with a critic, one budget for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tokenward.demo.plan import Plan as DemoPlan
from tokenward.errors import InputError

_DEMO = DemoPlan()
PILOT = 8  # prompts on which settings are fitted to the budget


@final
@dataclass(frozen=True)
class Plan:
    """Sizes and settings at scale 1; `scale` multiplies the updates of every run.

    The training settings are the demo's. None was tuned for this study.
    """

    train_prompts: int = _DEMO.train_prompts
    held_prompts: int = _DEMO.held_prompts
    pair_prompts: int = _DEMO.pair_prompts
    pair_samples: int = _DEMO.pair_samples
    betas: tuple[float, ...] = (0.1, 0.3, 1.0)
    beta: float = 0.3  # of the DPO policy that the strategies search with
    beta_kl: float = _DEMO.beta_kl
    offline: Mapping[str, object] = field(default_factory=lambda: dict(_DEMO.dpo))
    reward_model: Mapping[str, object] = field(default_factory=lambda: dict(_DEMO.reward_model))
    online: Mapping[str, object] = field(default_factory=lambda: dict(_DEMO.online))
    width_prompts: int = 64
    widths: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20)  # of DPO at each β, texts compared by their sum
    ppo_widths: tuple[int, ...] = (1, 2, 5, 7)  # of PPO, by sum and by mean
    mean_widths: tuple[int, ...] = (1, 2, 5, 10)  # of DPO at `beta`, texts compared by their mean per token
    prompts: int = 64  # on which the strategies are compared
    budget: int = 500  # tokens that models may read per prompt and strategy

    def __post_init__(self) -> None:
        if self.beta not in self.betas:
            raise InputError(f"beta {self.beta} must be one of betas {self.betas}")
        lists = (self.widths, self.ppo_widths, self.mean_widths)
        if {widths[:1] for widths in lists} != {(1,)} or 5 not in self.widths:
            raise InputError(
                "widths are compared with width 1, and those of DPO with 5: begin each list with 1, and give 5 in "
                f"widths, got {', '.join(map(str, lists))}"
            )
        if self.prompts + PILOT > self.held_prompts:
            raise InputError(
                f"prompts = {self.prompts} and the {PILOT} on which settings are fitted are more than held_prompts = "
                f"{self.held_prompts}"
            )
