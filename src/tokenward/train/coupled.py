"""The gradient of a loss that couples the whole batch, micro-batch by micro-batch, exactly.

    pass 1, without gradient   the statistics s of every row
    once                       the loss of the whole batch as a function of s, and its slopes g = ∂loss/∂s
    pass 2, with gradient      Σ s·g of each micro-batch, whose gradient is the chain rule's share of it

What a model computes is never held for more than one micro-batch; s and g are a few numbers per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.objective.recipe import Recipe
from tokenward.types import Batch, Signal, TokenStats, present, take


@final
@dataclass(frozen=True)
class Whole:
    """The loss of a whole batch: each term's sum, the statistics it was computed of, and its slopes by them."""

    loss: Float[Tensor, ""]
    sums: dict[str, Float[Tensor, ""]]
    stats: TokenStats
    slopes: dict[str, Tensor]


def gathered(batch: Batch, parts: Sequence[Int[Tensor, " _"]], now: Callable[[Batch], TokenStats]) -> dict[str, Tensor]:
    """What `now` says of each part, in one tensor per field; rows in no part (probes) and padding are 0."""
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for rows in parts:
            micro = take(batch, rows, width=int(batch.length[rows].max()))
            for name, value in present(now(micro)).items():
                shape = (batch.rows, batch.tokens.shape[1])[: value.ndim]
                whole = found.setdefault(name, torch.zeros(shape, dtype=value.dtype, device=value.device))
                place = rows.to(value.device)
                if value.ndim == 2:
                    whole[place, : value.shape[1]] = value
                else:
                    whole[place] = value
    return found


def whole_loss(
    recipe: Recipe,
    batch: Batch,
    frozen: TokenStats,
    signal: Signal,
    *,
    now: dict[str, Tensor],
    weights: Mapping[str, Float[Tensor, ""]],
) -> Whole:
    """The loss as a function of the statistics of now, and its slopes by those that carry gradient."""
    leaves = {name: value.clone().requires_grad_(name in recipe.trained) for name, value in now.items()}
    stats = replace(frozen, **leaves)
    sums = recipe.sums(batch, stats, signal)
    loss = recipe.loss(sums, weights)
    trained = [name for name, value in leaves.items() if value.requires_grad]
    slopes = torch.autograd.grad(loss, [leaves[name] for name in trained], materialize_grads=True)
    detached = replace(frozen, **{name: value.detach() for name, value in leaves.items()})
    return Whole(loss.detach(), sums, detached, dict(zip(trained, slopes, strict=True)))


def share(stats: TokenStats, batch: Batch, slopes: dict[str, Tensor], rows: Int[Tensor, " R"]) -> Float[Tensor, ""]:
    """Σ s·g over the rows of one micro-batch: its gradient is these rows' part of the whole gradient."""
    known = present(stats.masked(batch.mask))
    total = [
        (known[name] * _of(slope, rows, like=known[name])).sum() for name, slope in slopes.items() if name in known
    ]
    return torch.stack(total).sum()


def _of(slope: Tensor, rows: Int[Tensor, " R"], *, like: Tensor) -> Tensor:
    """The slopes of these rows, cut to the micro-batch's width."""
    own = slope[rows.to(slope.device)]
    return own[:, : like.shape[1]] if own.ndim == 2 else own
