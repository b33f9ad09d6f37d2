"""Aggregation of token losses: how much one token of a row counts, and what the sum is divided by.

With w the row weights and |y| the trainable tokens of a row:

    token_mean      Σ w ℓ_t / Σ w |y|      a long row counts more
    sequence_mean   Σ w ℓ_t/|y| / Σ w      a token of a long row counts less
    token_sum       Σ w ℓ_t / Σ w          neutral to length

The divisor is global: over the whole batch and all ranks, computed before the first micro-batch.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.masking import count

Aggregation = Literal["token_mean", "sequence_mean", "token_sum"]


def token_factor(
    mask: Bool[Tensor, "B T"], weight: Float[Tensor, " B"], *, aggregation: Aggregation
) -> Float[Tensor, " B"]:
    """What multiplies each token loss of a row: w, or w/|y| for "sequence_mean"."""
    if aggregation == "sequence_mean":
        return weight / count(mask, weight.dtype).clamp(min=1)
    return weight


def divisor(mask: Bool[Tensor, "B T"], weight: Float[Tensor, " B"], *, aggregation: Aggregation) -> Float[Tensor, ""]:
    """What the sum over the whole batch is divided by: Σ w|y| for "token_mean", Σ w for the others."""
    if aggregation == "token_mean":
        return (weight * count(mask, weight.dtype)).sum()
    return weight.sum()
