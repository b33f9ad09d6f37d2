"""Distributionally robust terms: the worst mean of a batch's losses over weights near the nominal ones.

    sup_q Σ_i q_i ℓ_i   over laws q with D(q‖p) ≤ ρ,   ℓ_i = mean token loss of atom i (a response, or a span of one)

Its gradient is Σ q*_i ∇ℓ_i with q* held (envelope theorem). Of "Distributionally Robust Token Optimization" (Jin, Hu
and Paschalidis 2026) the abstracts and summaries were known to us, not the theorems, the definition of a span, ρ or η:
what stands here is standard duality, derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.masking import count, keep
from tokenward.objective.fields import ask
from tokenward.objective.links import Link
from tokenward.objective.targets import Target
from tokenward.objective.terms import TokenScore
from tokenward.types import Batch, Signal, TokenStats, stream_weight

Atoms = Literal["trajectory", "span"]
Nominal = Literal["tokens", "uniform"]


@final
@dataclass(frozen=True)
class Worst:
    """The worst weights q of the atoms, Σ q = 1, and the value Σ q ℓ (or a bound on it).

    `eta`: the tilt q ∝ p e^{ηℓ}, infinite where only the largest losses count; None for sets without one.
    """

    weight: Float[Tensor, " N"]
    value: Float[Tensor, ""]
    eta: float | None = None


@runtime_checkable
class Ambiguity(Protocol):
    """A set of laws around the nominal one; `worst` of losses in float64, with p > 0 and Σ p = 1."""

    @property
    def radius(self) -> float: ...
    def worst(self, loss: Float[Tensor, " N"], nominal: Float[Tensor, " N"]) -> Worst: ...


@final
@dataclass(frozen=True)
class KLBall:
    """KL(q‖p) ≤ ρ: sup = inf_η (1/η) log Σ p e^{ηℓ} + ρ/η, attained by q ∝ p e^{ηℓ} with KL(q‖p) = ρ.

    From ρ = −log P(largest ℓ) on it is the largest loss (η = ∞). `eta` fixes η instead: the dual there, an upper bound,
    in which ρ is a constant. Standard duality.

    >>> loss = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> found = KLBall(0.1).worst(loss, torch.tensor([0.5, 0.5], dtype=torch.float64))
    >>> [round(q, 4) for q in found.weight.tolist()]
    [0.2802, 0.7198]
    """

    radius: float
    eta: float | None = None

    def __post_init__(self) -> None:
        _not_negative(self.radius)
        if self.eta is not None and not self.eta > 0:
            raise InputError(f"the tilt η of a KL set must be above 0, got {self.eta:g}")

    def worst(self, loss: Float[Tensor, " N"], nominal: Float[Tensor, " N"]) -> Worst:
        if self.eta is not None:
            q = torch.softmax(nominal.log() + self.eta * loss, 0)
            level = torch.logsumexp(nominal.log() + self.eta * loss, 0) / self.eta
            return Worst(q, level + self.radius / self.eta, self.eta)
        spread = float(loss.max() - loss.min())
        if self.radius == 0 or spread == 0:
            return Worst(nominal, nominal @ loss, 0.0)
        unit = (loss - loss.max()) / spread
        top = torch.where(unit == 0, nominal, 0.0)
        if self.radius >= -float(top.sum().log()):
            return Worst(top / top.sum(), loss.max(), float("inf"))
        tilt = _tilt(unit, nominal.log(), radius=self.radius)
        q = torch.softmax(nominal.log() + tilt * unit, 0)
        return Worst(q, q @ loss, tilt / spread)


@final
@dataclass(frozen=True)
class ChiSquareBall:
    """½ Σ p (q/p − 1)² ≤ ρ with q ≥ 0, exactly: q/p = a + b·ℓ on the atoms of largest loss, 0 on the others.

    Which atoms count is found by sorting: with threshold ν the weights p·(ℓ − ν)₊ have the divergence
    h(ν) = ½ Σ p (ℓ − ν)₊² / (Σ p (ℓ − ν)₊)² − ½, which rises with ν; atom i counts iff h(ℓ_i) > ρ. Derived here.

    >>> loss = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    >>> found = ChiSquareBall(0.8).worst(loss, torch.full((3,), 1 / 3, dtype=torch.float64))
    >>> [round(q, 4) for q in found.weight.tolist()]
    [0.0, 0.0718, 0.9282]
    """

    radius: float

    def __post_init__(self) -> None:
        _not_negative(self.radius)

    def worst(self, loss: Float[Tensor, " N"], nominal: Float[Tensor, " N"]) -> Worst:
        if self.radius == 0 or bool((loss == loss[0]).all()):
            return Worst(nominal, nominal @ loss)
        down, order = (loss - loss.max()).sort(descending=True)
        p = nominal[order]
        mass, first, second = p.cumsum(0), (p * down).cumsum(0), (p * down**2).cumsum(0)
        linear = first - down * mass
        square = second - 2 * down * first + down**2 * mass
        level = torch.where(linear > 0, 0.5 * square / linear**2 - 0.5, torch.inf)
        counted = int((level > self.radius).sum())
        q = torch.zeros_like(p)
        q[order[:counted]] = _line(down[:counted], p[:counted], radius=self.radius)
        return Worst(q, q @ loss)


@final
@dataclass(frozen=True)
class ChiSquareBound:
    """ℓ̄ + √(2ρ Var_p ℓ), by q = p·(1 + √(2ρ/Var)(ℓ − ℓ̄)): an upper bound of `ChiSquareBall`, whose q may be negative.

    Equal to it iff no q is. With the ½ in the divergence; without it ρ stands for 2ρ. Standard duality.

    >>> loss = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    >>> ChiSquareBound(0.02).worst(loss, torch.full((3,), 1 / 3, dtype=torch.float64)).value
    tensor(2.4320, dtype=torch.float64)
    """

    radius: float

    def __post_init__(self) -> None:
        _not_negative(self.radius)

    def worst(self, loss: Float[Tensor, " N"], nominal: Float[Tensor, " N"]) -> Worst:
        if self.radius == 0 or bool((loss == loss[0]).all()):  # else rounding would pass for a deviation
            return Worst(nominal, nominal @ loss)
        apart = loss - nominal @ loss
        deviation = (nominal @ apart**2).sqrt()
        if not bool(deviation > 0):  # the nominal law sees one loss alone
            return Worst(nominal, nominal @ loss)
        q = nominal * (1 + (2 * self.radius) ** 0.5 / deviation * apart)
        return Worst(q, q @ loss)


@final
@dataclass(frozen=True)
class RobustTerm:
    """sup_q Σ_i q_i ℓ_i over the atoms of one stream: responses, or the spans of `Batch.segment`.

    ℓ_i is the mean of link(score_t ; target_t) over the atom's trainable tokens. Nominal p_i ∝ row weight × tokens of
    the atom ("tokens": at ρ = 0 the token mean of the batch), or × 1 ("uniform": of responses, the sequence mean). It
    couples the whole batch: its weight is 1, and a micro-batch cannot stand for it.
    """

    name: str
    score: TokenScore
    link: Link
    target: Target
    ambiguity: Ambiguity
    atoms: Atoms = "trajectory"
    nominal: Nominal = "tokens"
    coef: float = 1.0
    stream: int = 0
    scope: ClassVar[Literal["batch"]] = "batch"

    @property
    def needs(self) -> frozenset[str]:
        return self.score.needs | self.target.needs | ({"segment"} if self.atoms == "span" else frozenset())

    @property
    def reads(self) -> frozenset[str]:
        return self.target.reads

    @property
    def access(self) -> str | None:
        return self.target.access

    def weight(self, batch: Batch) -> Float[Tensor, ""]:
        entered = (stream_weight(batch, self.stream) * count(batch.mask, batch.weight.dtype)).sum() > 0
        return entered.to(batch.weight.dtype)

    def sum(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, ""]:
        loss, nominal = self.losses(batch, stats, signal)
        if not len(loss):
            return loss.sum()
        found = self.worst(loss, nominal)
        value, weight = (x.to(loss) for x in (found.value, found.weight))
        return value + (weight * (loss - loss.detach())).sum()

    def worst(self, loss: Float[Tensor, " N"], nominal: Float[Tensor, " N"]) -> Worst:
        """The worst weights, in float64 on the CPU: a handful of numbers, solved for once a batch."""
        return self.ambiguity.worst(loss.detach().double().cpu(), nominal.detach().double().cpu())

    def losses(
        self, batch: Batch, stats: TokenStats, signal: Signal
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """ℓ_i and p_i of the atoms that count, Σ p = 1."""
        token = keep(self.link(self.score.tokens(batch, stats), self.target.tokens(batch, stats, signal)), batch.mask)
        row, atom = self._atoms(batch)
        atoms = len(row)
        tokens = torch.zeros(atoms, dtype=token.dtype, device=token.device)
        number = tokens.index_add(0, atom[batch.mask], torch.ones_like(token[batch.mask]))
        total = tokens.index_add(0, atom[batch.mask], token[batch.mask])
        nominal = stream_weight(batch, self.stream).to(token.dtype)[row] * (number if self.nominal == "tokens" else 1)
        counts = (nominal > 0) & (number > 0)
        total, number, nominal = total[counts], number[counts], nominal[counts]
        return total / number, nominal / nominal.sum()

    def _atoms(self, batch: Batch) -> tuple[Int[Tensor, " N"], Int[Tensor, "B T"]]:
        """The row of each atom, and the atom of each token."""
        row = torch.arange(batch.rows, device=batch.mask.device)
        if self.atoms == "trajectory":
            return row, row[:, None].expand(batch.mask.shape)
        segment = ask(batch, "segment", by=self)
        place = row[:, None] * (segment.max() + 1) + segment
        names, atom = torch.unique(place, return_inverse=True)
        return names // (segment.max() + 1), atom


def _tilt(unit: Float[Tensor, " N"], log_nominal: Float[Tensor, " N"], *, radius: float) -> float:
    """η with KL(q_η‖p) = ρ for losses in [−1, 0]: Newton's steps on a divergence that rises, in a bracket that shrinks.

    d KL/dη = η Var_q ℓ. The upper end is doubled as long as the divergence there is below ρ.
    """
    low, high, eta = 0.0, math.inf, 1.0
    for _ in range(2000):
        level = torch.logsumexp(log_nominal + eta * unit, 0)
        q = (log_nominal + eta * unit - level).exp()
        mean = q @ unit
        gap, slope = torch.stack([eta * mean - level - radius, eta * (q @ (unit - mean) ** 2)]).tolist()
        low, high = (eta, high) if gap < 0 else (low, eta)
        ahead = eta - gap / slope if slope > 0 else math.inf
        if not low < ahead < high:
            ahead = 2 * eta if high == math.inf else (low + high) / 2
        if abs(ahead - eta) <= 1e-14 * eta or ahead > 1e300:
            break
        eta = ahead
    return eta


def _line(loss: Float[Tensor, " K"], nominal: Float[Tensor, " K"], *, radius: float) -> Float[Tensor, " K"]:
    """p·(1/P + s(ℓ − mean)) on the K atoms that count, P = Σ p: ½((1 − P)/P + s²V) = ρ gives s; Σ = 1."""
    mass = nominal.sum()
    apart = loss - nominal @ loss / mass
    spread = nominal @ apart**2
    if not bool(spread > 0):
        return nominal / mass
    slope = ((2 * radius - (1 - mass) / mass).clamp(min=0) / spread).sqrt()
    return (nominal * (1 / mass + slope * apart)).clamp(min=0)


def _not_negative(radius: float) -> None:
    if not 0 <= radius < math.inf:
        raise InputError(f"rho, the radius of an ambiguity set, must be 0 or more and finite, got {radius:g}")
