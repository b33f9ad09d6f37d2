"""DAPO's soft penalty for answers that come close to the length limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.masking import count, keep, last
from tokenward.types import Batch, Signal, TokenStats


@final
@dataclass(frozen=True)
class Overlong:
    """r_t −= coef · clip((|y| − (max − buffer))/buffer, 0, 1) at the last trainable token (reward units).

    0 up to max − buffer tokens, then linear, coef from max on. |y| counts trainable tokens: what an environment wrote
    into the answer is not the policy's length (a DAPO answer has no such tokens). Source: Yu et al. 2025, §3.4.

    >>> Overlong(max_tokens=10.0, buffer=4.0).penalty(torch.tensor([6.0, 7.0, 10.0, 12.0]))
    tensor([0.0000, 0.2500, 1.0000, 1.0000])
    """

    max_tokens: float
    buffer: float
    coef: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.max_tokens:
            raise InputError(
                f"Overlong: the buffer is the last part of max_tokens, got buffer {self.buffer:g} of "
                f"{self.max_tokens:g}; give 0 < buffer ≤ max_tokens"
            )

    def penalty(self, length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What an answer of each length pays."""
        return self.coef * ((length - (self.max_tokens - self.buffer)) / self.buffer).clamp(0, 1)

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        dtype = batch.weight.dtype if signal.reward is None else signal.reward.dtype
        at_end = torch.arange(batch.mask.shape[1], device=batch.mask.device) == last(batch.mask)[:, None]
        paid = keep(-self.penalty(count(batch.mask, dtype))[:, None].expand(batch.mask.shape), batch.mask & at_end)
        return replace(signal, reward=paid if signal.reward is None else signal.reward + paid)
