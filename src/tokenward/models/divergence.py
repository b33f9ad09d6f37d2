"""Means over a vocabulary that stay right where a token has probability 0: entropy and KL of laws with −∞ in them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def mean_under(law: Float[Tensor, "*N V"], values: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Σ_v exp(law_v) · values_v; a token of probability 0 adds 0, whatever its value is, and has no gradient.

    With law = log π: −mean_under(log π, log π) is the entropy, mean_under(log π, log π − log π′) is KL(π‖π′), which is
    ∞ where π′ rules out a token that π writes. Derived here: 0 · log 0 = 0; by floating point it would be NaN.

    >>> import torch
    >>> law = torch.tensor([0.5, 0.5, 0.0]).log()
    >>> round(float(-mean_under(law, law)), 4)  # log 2
    0.6931
    """
    share = law.exp()
    return (share * values.masked_fill(share == 0, 0.0)).sum(-1)
