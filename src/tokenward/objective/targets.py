"""Targets and offsets: what a term's score is compared with.

A target's `access` says what of the reward it has to know, which is what orders the methods in the frame of
Su et al. 2025 (UDRRA): "everywhere" (BDA), "samples" (RA), "differences" (RDA), "labels" (PRA), None (no reward).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.masking import at, first
from tokenward.objective.fields import ask, whole_score
from tokenward.types import Batch, Signal, TokenStats

_NOTHING: frozenset[str] = frozenset()
RowScope = Literal["row", "group"]  # whether a row's number can be told without the other rows of its group


@runtime_checkable
class Target(Protocol):
    """A number for each token or each row."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def access(self) -> str | None: ...
    @property
    def scope(self) -> RowScope: ...
    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]: ...
    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]: ...


@runtime_checkable
class PairTarget(Protocol):
    """A number for each pair."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def access(self) -> str | None: ...
    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]: ...


@runtime_checkable
class Offset(Protocol):
    """A number added to each row's score."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def scope(self) -> RowScope: ...
    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]: ...


def _rows_to_tokens(rows: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, "B T"]:
    return rows[:, None].expand(batch.mask.shape)


def _smoothed(p: Float[Tensor, " P"], *, by: float) -> Float[Tensor, " P"]:
    return (1 - by) * p + by * (1 - p)


@final
@dataclass(frozen=True)
class NoTarget:
    """For links that have none."""

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = None
    scope: ClassVar[RowScope] = "row"

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return _rows_to_tokens(self.rows(batch, stats, signal), batch)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return torch.zeros_like(batch.weight)


@final
@dataclass(frozen=True)
class Advantage:
    """The advantage of each token; of a row: that of its first trainable token (the whole return to come)."""

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"advantage"})
    access: ClassVar[str | None] = "everywhere"
    scope: ClassVar[RowScope] = "row"

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return ask(signal, "advantage", by=self)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return at(self.tokens(batch, stats, signal), first(batch.mask))


@final
@dataclass(frozen=True)
class ReturnStep:
    """returns − V_old per token: how far the critic should have moved."""

    needs: ClassVar[frozenset[str]] = frozenset({"old_value"})
    reads: ClassVar[frozenset[str]] = frozenset({"returns"})
    access: ClassVar[str | None] = None
    scope: ClassVar[RowScope] = "row"

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return ask(signal, "returns", by=self) - ask(stats, "old_value", by=self).detach()

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return at(self.tokens(batch, stats, signal), first(batch.mask))


@final
@dataclass(frozen=True)
class Score:
    """The row's reward, token rewards included."""

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "samples"
    scope: ClassVar[RowScope] = "row"

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return _rows_to_tokens(self.rows(batch, stats, signal), batch)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return whole_score(batch, by=self)


@final
@dataclass(frozen=True)
class Label:
    """1 for a desirable row, 0 for an undesirable one (in the lab: its probability)."""

    needs: ClassVar[frozenset[str]] = frozenset({"label"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"
    scope: ClassVar[RowScope] = "row"

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, "B T"]:
        return _rows_to_tokens(self.rows(batch, stats, signal), batch)

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return ask(batch, "label", by=self)


@final
@dataclass(frozen=True)
class Won:
    """P(first is preferred): `pair_target` where the data have it, else 1; smoothed to (1−ε)p + ε(1−p)."""

    smoothing: float = 0.0
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        p = batch.pair_target
        if p is None:
            p = torch.ones(len(ask(batch, "pairs", by=self)), dtype=batch.weight.dtype, device=batch.weight.device)
        return _smoothed(p, by=self.smoothing)


@final
@dataclass(frozen=True)
class Probability:
    """P(first is preferred), which the data must give."""

    needs: ClassVar[frozenset[str]] = frozenset({"pair_target"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        return ask(batch, "pair_target", by=self)


@final
@dataclass(frozen=True)
class Majority:
    """Who is preferred more often: 1 where P(first is preferred) > ½, ½ where it is ½, else 0; absent: 1."""

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        return (torch.sign(Won().pairs(batch, stats, signal) - 0.5) + 1) / 2


@final
@dataclass(frozen=True)
class ScorePreference:
    """σ((score(first) − score(second))/T): a Bradley–Terry judge of two answers; T = 0: 1, ½ at ties, 0.

    Smoothed to (1−ε)p + ε(1−p). Its access is "labels": the loss sees a judge's probability, and no score.
    """

    temperature: float = 1.0
    smoothing: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        gap = ScoreGap().pairs(batch, stats, signal)
        p = torch.sigmoid(gap / self.temperature) if self.temperature else (torch.sign(gap) + 1) / 2
        return _smoothed(p, by=self.smoothing)


@final
@dataclass(frozen=True)
class ScoreGap:
    """score(first) − score(second), token rewards included."""

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "differences"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        score, pairs = whole_score(batch, by=self), ask(batch, "pairs", by=self)
        return score[pairs[:, 0]] - score[pairs[:, 1]]


@final
@dataclass(frozen=True)
class AdvantageGap:
    """A(first) − A(second) of the rows' whole returns: a gap of rewards shaped in stage one."""

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"advantage"})
    access: ClassVar[str | None] = "differences"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        total = at(ask(signal, "advantage", by=self), first(batch.mask))
        pairs = ask(batch, "pairs", by=self)
        return total[pairs[:, 0]] - total[pairs[:, 1]]


@final
@dataclass(frozen=True)
class LearnedValue:
    """+V(x): a critic's value of the prompt, trained along (the free normalizer of RA)."""

    needs: ClassVar[frozenset[str]] = frozenset({"value"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    scope: ClassVar[RowScope] = "row"

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return at(ask(stats, "value", by=self), first(batch.mask))


@final
@dataclass(frozen=True)
class GivenNormalizer:
    """+β log Z(x), known."""

    needs: ClassVar[frozenset[str]] = frozenset({"normalizer"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    scope: ClassVar[RowScope] = "row"

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return ask(batch, "normalizer", by=self)


@final
@dataclass(frozen=True)
class MinusPoint:
    """−β z₀: KTO's reference point."""

    beta: float
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"point"})
    scope: ClassVar[RowScope] = "row"

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " B"]:
        return -self.beta * ask(signal, "point", by=self)
