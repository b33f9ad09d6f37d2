"""Scoring a whole batch without gradient, in pieces that fit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from tokenward.masking import keep
from tokenward.models.forward import Scorer
from tokenward.types import Batch, TokenStats, present, take


@torch.no_grad()
def score(
    scorer: Scorer, batch: Batch, fields: frozenset[str], *, temperature: float = 1.0, micro_tokens: int = 16384
) -> TokenStats:
    """`Scorer.forward` without gradient, in pieces of at most `micro_tokens` padded tokens (one row at least)."""
    out: dict[str, Tensor] = {}
    for rows in pieces(batch.length, micro_tokens=micro_tokens):
        width = max(int(batch.length[rows].max()), 1)
        part = present(scorer(take(batch, rows, width=width), fields=fields, temperature=temperature))
        for name, value in part.items():
            whole = (*batch.tokens.shape,) if value.ndim == 2 else (batch.rows,)
            target = out.setdefault(name, torch.zeros(whole, dtype=value.dtype, device=value.device))
            if value.ndim == 2:
                target[rows, : value.shape[1]] = keep(value, batch.mask[rows, : value.shape[1]])
            else:
                target[rows] = value
    return TokenStats(**out)


def pieces(length: Int[Tensor, " B"], *, micro_tokens: int) -> Iterator[Int[Tensor, " R"]]:
    """Rows of like length together, each piece at most `micro_tokens` padded tokens."""
    order = torch.argsort(length, descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, micro_tokens // max(1, int(length[order[start]])))
        yield order[start : start + size]
        start += size
