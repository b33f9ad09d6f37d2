"""Reductions over the trainable positions of a row.

`mask [B T]` is True where a token is trained on. Everything else (prompt, tool output, padding) is cut out
with `where`, never by multiplying: NaN times zero is NaN, so a multiplied mask lets padding leak.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def keep(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """x where mask, 0 elsewhere; the gradient at masked positions is exactly 0.

    >>> keep(torch.tensor([[1.0, float("nan")]]), torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def count(mask: Bool[Tensor, "B T"], dtype: torch.dtype = torch.float32) -> Float[Tensor, " B"]:
    """|y|: trainable tokens of each row, the end token included."""
    return mask.sum(-1).to(dtype)


def row_sum(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Σ_t x_t over trainable positions."""
    return keep(x, mask).sum(-1)


def row_mean(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """(1/|y|) Σ_t x_t over trainable positions; 0 for a row without any."""
    return row_sum(x, mask) / count(mask, x.dtype).clamp(min=1)


def unit_sum(x: Float[Tensor, " B"], unit: Int[Tensor, " B"] | None) -> Float[Tensor, " B"]:
    """At each row, Σ of x over the rows of its unit; x itself where every row is its own (None).

    >>> unit_sum(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([7, 7, 3]))
    tensor([3., 3., 5.])
    """
    if unit is None:
        return x
    names, place = torch.unique(unit, return_inverse=True)
    return torch.zeros(len(names), dtype=x.dtype, device=x.device).index_add(0, place, x)[place]


def first(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Index of the first trainable position; 0 for a row without any."""
    return mask.to(torch.int8).argmax(-1)


def last(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Index of the last trainable position; T−1 for a row without any."""
    return mask.shape[-1] - 1 - mask.flip(-1).to(torch.int8).argmax(-1)


def at(x: Float[Tensor, "B T"], index: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """x[b, index[b]]."""
    return x.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def spans(mask: Bool[Tensor, "B T"], ends: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The number of each trainable token's span within its row; a new one begins behind a token that ends one.

    It begins behind tokens that are not trainable, too. Those have the number of the span before them.

    >>> mask = torch.tensor([[False, True, True, True, True, False, True]])
    >>> spans(mask, torch.tensor([[True, False, True, False, False, False, False]]))
    tensor([[0, 0, 0, 1, 1, 1, 2]])
    """
    goes_on = torch.zeros_like(mask)
    goes_on[:, 1:] = (mask & ~ends)[:, :-1]
    return (mask & ~goes_on).cumsum(-1).sub(1).clamp(min=0)
