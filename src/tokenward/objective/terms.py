"""Terms: the summands of a loss, `coef · Σ_u w_u link(score_u ; target_u) ÷ Σ_u w_u`.

Three kinds by the unit u: a token, a row (one response), a pair of rows. A term gives its sum and its weight apart;
`Recipe.loss` divides once, by the global weight. Scores are pooled log-ratios to an anchor, or a head's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.masking import count, keep, row_sum, unit_sum
from tokenward.objective.fields import ask
from tokenward.objective.links import Link
from tokenward.objective.targets import NoTarget, Offset, PairTarget, Target
from tokenward.objective.weights import Aggregation, divisor, token_factor
from tokenward.types import Batch, Signal, TokenStats, pair_share, stream_weight

__all__ = [
    "Aggregation",
    "LogRatio",
    "ModelScore",
    "PairTerm",
    "RowTerm",
    "Statistic",
    "Term",
    "TokenTerm",
    "ValueStep",
]

Anchor = Literal["ref_logp", "old_logp"]


@runtime_checkable
class TokenScore(Protocol):
    """A score of each token, [B T]."""

    @property
    def needs(self) -> frozenset[str]: ...
    def tokens(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]: ...


@runtime_checkable
class RowScore(Protocol):
    """A score of each row, [B]."""

    @property
    def needs(self) -> frozenset[str]: ...
    def rows(self, batch: Batch, stats: TokenStats) -> Float[Tensor, " B"]: ...


@final
@dataclass(frozen=True)
class LogRatio:
    """β·(log π − log anchor): per token, or summed or averaged over a row's trainable tokens. No anchor: log π.

    Rows of one `Batch.unit` are pooled as if they were one row: each of them has the unit's score.
    """

    anchor: Anchor | None = None
    beta: float = 1.0
    pool: Literal["sum", "mean"] = "sum"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logp"} | ({self.anchor} if self.anchor else set()))

    def tokens(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]:
        logp = ask(stats, "logp", by=self)
        return self.beta * (logp - ask(stats, self.anchor, by=self).detach() if self.anchor else logp)

    def rows(self, batch: Batch, stats: TokenStats) -> Float[Tensor, " B"]:
        total = unit_sum(row_sum(self.tokens(batch, stats), batch.mask), batch.unit)
        if self.pool == "sum":
            return total
        return total / unit_sum(count(batch.mask, total.dtype), batch.unit).clamp(min=1)


@final
@dataclass(frozen=True)
class Statistic:
    """A per-token statistic as it stands: `kl_ref` = KL(π‖π_ref), `kl_old` = KL(π‖π_old), both exact, or `entropy`."""

    field: Literal["kl_ref", "kl_old", "entropy"]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.field})

    def tokens(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]:
        return ask(stats, self.field, by=self)


@final
@dataclass(frozen=True)
class ValueStep:
    """V − V_old per token: the critic's move since the batch was made."""

    needs: ClassVar[frozenset[str]] = frozenset({"value", "old_value"})

    def tokens(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]:
        return ask(stats, "value", by=self) - ask(stats, "old_value", by=self).detach()


@final
@dataclass(frozen=True)
class ModelScore:
    """A reward model's score of the row: its head after the last token."""

    needs: ClassVar[frozenset[str]] = frozenset({"model_score"})

    def rows(self, batch: Batch, stats: TokenStats) -> Float[Tensor, " B"]:
        return ask(stats, "model_score", by=self)


@runtime_checkable
class Term(Protocol):
    """A summand of the loss. `needs`: fields of Batch and TokenStats; `reads`: fields of the Signal."""

    @property
    def name(self) -> str: ...
    @property
    def coef(self) -> float: ...
    @property
    def scope(self) -> Literal["row", "pair", "group", "batch"]: ...
    @property
    def access(self) -> str | None: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    def weight(self, batch: Batch) -> Float[Tensor, ""]: ...
    def sum(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, ""]: ...


@final
@dataclass(frozen=True)
class TokenTerm:
    """Σ_rows c_row Σ_t link(score_t ; target_t) over the rows of one stream, c_row and the divisor by `aggregation`."""

    name: str
    score: TokenScore
    link: Link
    target: Target = NoTarget()
    aggregation: Aggregation = "token_mean"
    coef: float = 1.0
    stream: int = 0

    @property
    def scope(self) -> Literal["row", "group"]:
        return self.target.scope

    @property
    def needs(self) -> frozenset[str]:
        return self.score.needs | self.target.needs

    @property
    def reads(self) -> frozenset[str]:
        return self.target.reads

    @property
    def access(self) -> str | None:
        return self.target.access

    def weight(self, batch: Batch) -> Float[Tensor, ""]:
        return divisor(batch.mask, stream_weight(batch, self.stream), aggregation=self.aggregation)

    def sum(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, ""]:
        loss = self.link(self.score.tokens(batch, stats), self.target.tokens(batch, stats, signal))
        factor = token_factor(batch.mask, stream_weight(batch, self.stream), aggregation=self.aggregation)
        rows = keep(loss, batch.mask).sum(-1)
        return torch.where(factor > 0, factor * rows, torch.zeros_like(rows)).sum()


@final
@dataclass(frozen=True)
class RowTerm:
    """Σ_rows w link(score + offset ; target) over the rows of one stream. Rows of weight 0 count for nothing."""

    name: str
    score: RowScore
    link: Link
    target: Target
    offset: Offset | None = None
    coef: float = 1.0
    stream: int = 0

    @property
    def scope(self) -> Literal["row", "group"]:
        return "group" if "group" in (self.target.scope, self.offset and self.offset.scope) else "row"

    @property
    def needs(self) -> frozenset[str]:
        return self.score.needs | self.target.needs | (self.offset.needs if self.offset else frozenset())

    @property
    def reads(self) -> frozenset[str]:
        return self.target.reads | (self.offset.reads if self.offset else frozenset())

    @property
    def access(self) -> str | None:
        return self.target.access

    def weight(self, batch: Batch) -> Float[Tensor, ""]:
        return stream_weight(batch, self.stream).sum()

    def sum(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, ""]:
        z = self.score.rows(batch, stats)
        if self.offset is not None:
            z = z + self.offset.rows(batch, stats, signal)
        loss = self.link(z, self.target.rows(batch, stats, signal))
        weight = stream_weight(batch, self.stream)
        return torch.where(weight > 0, weight * loss, torch.zeros_like(loss)).sum()


@final
@dataclass(frozen=True)
class PairTerm:
    """Σ_pairs w link(z ; target) with z = score(first) − score(second); row weights do not enter.

    `streams`: between the rows of which two streams (both orders); by default within the first.
    compare "preferred" takes z = p·score(first) + (1−p)·score(second) instead: a term on the preferred answer alone.
    """

    name: str
    score: RowScore
    link: Link
    target: PairTarget
    compare: Literal["difference", "preferred"] = "difference"
    coef: float = 1.0
    streams: tuple[int, int] = (0, 0)
    scope: ClassVar[Literal["pair"]] = "pair"

    @property
    def needs(self) -> frozenset[str]:
        return self.score.needs | self.target.needs | {"pairs"}

    @property
    def reads(self) -> frozenset[str]:
        return self.target.reads

    @property
    def access(self) -> str | None:
        return self.target.access

    def weight(self, batch: Batch) -> Float[Tensor, ""]:
        ask(batch, "pairs", by=self)
        return pair_share(batch, self.streams).sum()

    def sum(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, ""]:
        pairs = ask(batch, "pairs", by=self)
        target = self.target.pairs(batch, stats, signal)
        score = self.score.rows(batch, stats)
        win, lose = score[pairs[:, 0]], score[pairs[:, 1]]
        z = win - lose if self.compare == "difference" else target * win + (1 - target) * lose
        loss = self.link(z, target)
        share = pair_share(batch, self.streams)
        return torch.where(share > 0, share * loss, torch.zeros_like(loss)).sum()
