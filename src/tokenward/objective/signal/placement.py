"""On which tokens a dense reward stands: where it arises, at the end of each sentence, all at the end, or taken back.

All placements but `TakenBack` have the same sum over a response, so without discount (γ = 1) the same optimum; with
the exact critic even the same advantage at every token, for every λ (derived here). What they change then, they change
through a critic's errors. With γ < 1 a reward moved by k tokens counts γᵏ times as much: another optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.errors import InputError, nearest
from tokenward.masking import keep, last, row_sum
from tokenward.objective.fields import ask
from tokenward.types import Batch

_NOTHING: frozenset[str] = frozenset()
PlacementName = Literal["token", "sentence", "end", "residual"]


@runtime_checkable
class Placement(Protocol):
    """Token rewards moved within their rows."""

    @property
    def needs(self) -> frozenset[str]: ...
    def __call__(self, reward: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]: ...


@final
@dataclass(frozen=True)
class EachToken:
    """Every reward where it arises: RTO (Zhong et al. 2024, Eq. 4.7)."""

    needs: ClassVar[frozenset[str]] = _NOTHING

    def __call__(self, reward: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        return reward


@final
@dataclass(frozen=True)
class SentenceEnd:
    """The sum over each span of `Batch.segment` at its last trainable token: Semi-RTO, of Zhong et al. 2024's ablation.

    What ends a sentence is the batch's; an end token behind a full stop is a span of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"segment"})

    def __call__(self, reward: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        span = ask(batch, "segment", by=self)
        column = torch.arange(reward.shape[1], device=reward.device).expand(reward.shape)
        written = torch.where(batch.mask, column, -1)
        ends = torch.full_like(column, -1).scatter_reduce(1, span, written, "amax")
        place = ends.gather(1, span).clamp(min=0)
        return torch.zeros_like(reward).scatter_add(1, place, keep(reward, batch.mask))


@final
@dataclass(frozen=True)
class LastToken:
    """The sum over the row at its last trainable token: DDPO, of the same ablation."""

    needs: ClassVar[frozenset[str]] = _NOTHING

    def __call__(self, reward: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        total = row_sum(reward, batch.mask)[:, None]
        return torch.where(_at_end(batch), total, torch.zeros_like(reward))


@final
@dataclass(frozen=True)
class TakenBack:
    """Every reward where it arises, and their sum taken back at the last trainable token: RS-PPO, of the same.

    The row's total is 0, so the optimum is the one without these rewards. Exactly PPO with the critic
    V + Σ_{i<t} reward_i where γ = 1 (derived here).
    """

    needs: ClassVar[frozenset[str]] = _NOTHING

    def __call__(self, reward: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        total = row_sum(reward, batch.mask)[:, None]
        return reward - torch.where(_at_end(batch), total, torch.zeros_like(reward))


def _at_end(batch: Batch) -> Bool[Tensor, "B T"]:
    return torch.arange(batch.mask.shape[1], device=batch.mask.device) == last(batch.mask)[:, None]


PLACEMENTS: dict[str, Placement] = {
    "token": EachToken(),
    "sentence": SentenceEnd(),
    "end": LastToken(),
    "residual": TakenBack(),
}


def placement_of(name: PlacementName) -> Placement:
    """The placement of this name.

    >>> placement_of("end")
    LastToken()
    """
    if name not in PLACEMENTS:
        known = " or ".join(map(repr, PLACEMENTS))
        raise InputError(f"placement must be {known}, got {name!r}.{nearest(name, PLACEMENTS)}")
    return PLACEMENTS[name]
