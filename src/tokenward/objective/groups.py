"""Numbers of a whole group (the answers to one prompt): its means, and the offsets and weights that terms take of them.

Means are weighted by row weight; rows without trainable tokens do not count. The scope of the parts here is "group": a
micro-batch never cuts one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.masking import count, row_sum
from tokenward.objective.fields import ask, whole_score
from tokenward.types import Batch, Signal, TokenStats, stream_weight

Drawn = Literal["ref_logp", "old_logp", "sampler_logp"]  # the law that wrote the group's answers
_NOTHING: frozenset[str] = frozenset()


def group_mean(
    x: Float[Tensor, " B"], batch: Batch, *, stream: int = 0
) -> tuple[Int[Tensor, " B"], Float[Tensor, " G"]]:
    """The dense group number of each row, and the weighted mean of x over each group's rows of the stream."""
    _, groups = torch.unique(batch.group, return_inverse=True)
    sums = torch.zeros(int(groups.max()) + 1, dtype=x.dtype, device=x.device)
    weight = _row_weight(x, batch, stream)
    total = sums.index_add(0, groups, weight).clamp(min=torch.finfo(x.dtype).tiny)
    counted = torch.where(weight > 0, x, torch.zeros_like(x))
    return groups, sums.index_add(0, groups, weight * counted) / total


def group_log_mean_exp(x: Float[Tensor, " B"], batch: Batch, *, stream: int = 0) -> Float[Tensor, " B"]:
    """log of the weighted mean of exp x over the group's rows of the stream, at every row of the group."""
    counted = torch.where(_row_weight(x, batch, stream) > 0, x, -torch.inf)
    _, groups = torch.unique(batch.group, return_inverse=True)
    top = torch.full((int(groups.max()) + 1,), -torch.inf, dtype=x.dtype, device=x.device)
    top = top.scatter_reduce(0, groups, counted, "amax").clamp(min=torch.finfo(x.dtype).min)
    _, mean = group_mean(torch.exp(counted - top[groups]), batch, stream=stream)
    return (top + mean.log())[groups]


def group_size(batch: Batch, groups: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The samples that each row's group stands for; rows of other streams than the first are none."""
    if batch.group_size is not None:
        return batch.group_size
    counted = torch.ones_like(batch.weight) if batch.origin is None else (batch.origin == 0).to(batch.weight.dtype)
    return torch.bincount(groups, weights=counted)[groups].to(batch.weight.dtype)


def _row_weight(x: Float[Tensor, " B"], batch: Batch, stream: int) -> Float[Tensor, " B"]:
    """The weight of each row, without gradient (the lab's weights may follow the policy)."""
    return stream_weight(batch, stream).detach().to(x.dtype) * (count(batch.mask) > 0)


@final
@dataclass(frozen=True)
class MeanReward:
    """+mean score of the group: a baseline where β log Z belongs (sampler π_ref: derived here).

    Answers of π_ref: ρ = π/π_ref solves β log ρ + λρ = r − mean r, so the optimum is not π_ref·exp(r/β)/Z. Answers of
    the policy itself: any number of the prompt does, and the optimum is that one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    scope: ClassVar[Literal["group"]] = "group"

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        groups, mean = group_mean(whole_score(batch, by=self), batch)
        return mean[groups]


@final
@dataclass(frozen=True)
class MonteCarloNormalizer:
    """+β log of the group's mean of (π_ref/μ) exp(r/β): β log Z from k answers of μ.

    `stream`: whose rows the mean is over; with answers of π_ref beside those of the policy it is A*-PO's V*.
    Its bias is −β Var(e^{r/β})/(2kZ²) + O(k⁻²) for μ = π_ref (derived here).
    """

    beta: float
    drawn: Drawn = "ref_logp"
    stream: int = 0
    reads: ClassVar[frozenset[str]] = _NOTHING
    scope: ClassVar[Literal["group"]] = "group"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"score"}) | _importance_needs(self.drawn)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        tilt = whole_score(batch, by=self) / self.beta + log_importance(batch, stats, drawn=self.drawn, by=self)
        return self.beta * group_log_mean_exp(tilt, batch, stream=self.stream)


@final
@dataclass(frozen=True)
class BoltzmannWeight:
    """w = (π_ref/μ) exp(r/β) ÷ its mean over the group: −w log π on answers of μ descends KL(π^β‖π).

    π^β = π_ref·exp(r/β)/Z. "target": the answers are those of π^β, and w = 1. The weights of k answers are those of a
    self-normalized estimate, biased by O(1/k). Derived here; reward-weighted regression is its case μ = π_ref (Peters
    and Schaal 2007).
    """

    beta: float
    drawn: Drawn | Literal["target"] = "ref_logp"
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "everywhere"
    scope: ClassVar[Literal["group"]] = "group"

    @property
    def needs(self) -> frozenset[str]:
        if self.drawn == "target":
            return _NOTHING
        return frozenset({"score"}) | _importance_needs(self.drawn)

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return self.rows(batch, stats, signal)[:, None].expand(batch.mask.shape)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        if self.drawn == "target":
            return torch.ones_like(batch.weight)
        tilt = whole_score(batch, by=self) / self.beta + log_importance(batch, stats, drawn=self.drawn, by=self)
        return torch.exp(tilt - group_log_mean_exp(tilt, batch))


def log_importance(batch: Batch, stats: TokenStats, *, drawn: Drawn, by: object) -> Float[Tensor, " B"]:
    """log π_ref/μ of each row, without gradient; 0 where μ is π_ref."""
    if drawn == "ref_logp":
        return torch.zeros_like(batch.weight)
    drawn_logp = ask(batch if drawn == "sampler_logp" else stats, drawn, by=by)
    return row_sum((ask(stats, "ref_logp", by=by) - drawn_logp).detach(), batch.mask)


def _importance_needs(drawn: Drawn) -> frozenset[str]:
    return _NOTHING if drawn == "ref_logp" else frozenset({"ref_logp", drawn})
