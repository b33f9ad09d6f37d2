"""The exact law of the best of n samples, ties included."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError


def best_of_n_law(law: Float[Tensor, "X L"], score: Float[Tensor, "X L"], *, n: int) -> Float[Tensor, "X L"]:
    """P(y) = π(y)/P(s = s_y) · (P(s ≤ s_y)^n − P(s < s_y)^n): the best of n draws of π, each as likely among equals.

    The largest of n scores is ≤ s with probability P(s ≤ s_y)^n; among draws of one score the law is π's (derived here;
    without ties it is that of Beirami et al. 2024).

    >>> best_of_n_law(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.0, 1.0, 1.0]]), n=2)
    tensor([[0.2500, 0.3750, 0.3750]])
    """
    if n < 1:
        raise InputError(f"best of n needs n of 1 or more, got {n}")
    equal = score[..., :, None] == score[..., None, :]  # [X L L]: the score of the second against the first's
    lower = score[..., None, :] < score[..., :, None]
    same, below = (torch.where(mask, law[..., None, :], 0.0).sum(-1) for mask in (equal, lower))
    return torch.where(same > 0, law / same * ((below + same).clamp(max=1) ** n - below**n), 0.0)
