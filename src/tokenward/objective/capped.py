"""CISPO's link: a capped importance weight without gradient, times log π."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Capped:
    """−sg[min(ϱ, cap)] A z, ϱ = exp z, z = log π/π_old, sg without gradient: CISPO.

    Every token keeps a gradient, that of REINFORCE times a weight of at most `cap`. The cap is a value of the ratio, as
    TRL's epsilon_high for this loss; the paper and verl write 1 + ε_high, and verl has a lower bound 1 − ε_low as well.
    Source: MiniMax 2025 (M1), who do not tune the lower bound.

    >>> Capped(cap=2.0)(torch.log(torch.tensor(8.0)), torch.tensor(1.0))  # −2 log 8
    tensor(-4.1589)
    """

    cap: float = 5.0

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise InputError(f"Capped: cap is the largest weight of a token, got {self.cap:g}; give a number above 0")

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return -torch.exp(z.detach().clamp(max=math.log(self.cap))) * target * z

    def cut(self, z: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Where the weight is capped, whatever the sign of the advantage; the gradient there is smaller, not 0."""
        return {"high": z > math.log(self.cap)}
