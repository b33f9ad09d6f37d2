"""Divergences to the reference: sampled estimators as links, and the four places a KL can stand.

With z = log π/π_ref on a token drawn from π (Schulman 2020): k1 = z is unbiased but has zero expected gradient as a
loss; k2 = z²/2 has the gradient of the token's KL(π‖π_ref); k3 = e^−z − 1 + z is unbiased and has the gradient of
KL(π_ref‖π). As a *loss*, each drops what a token does to later states: its fixed point on sequences is the myopic
policy, not the Boltzmann one. As a *reward* (k1, full return-to-go) the fixed point is Boltzmann. (Derived here.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from tokenward.masking import row_sum, unit_sum
from tokenward.objective.fields import ask
from tokenward.objective.links import Identity
from tokenward.objective.signal.rewards import KLPenalty, SignalStep
from tokenward.objective.terms import Aggregation, LogRatio, Statistic, Term, TokenTerm
from tokenward.types import Batch, TokenStats

KLPlace = Literal["reward", "loss_k2", "loss_k3", "exact"]
Divergence = Literal["reverse_kl", "forward_kl", "js"]


@final
@dataclass(frozen=True)
class K2:
    """½ z²: the gradient of KL(π‖π_ref) at the state, on samples of π.

    >>> K2()(torch.tensor(2.0), torch.tensor(0.0))
    tensor(2.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return 0.5 * z**2


@final
@dataclass(frozen=True)
class K3:
    """e^−z − 1 + z: unbiased for KL(π‖π_ref), with the gradient of KL(π_ref‖π). Exponent clamped at 20.

    >>> K3()(torch.tensor(0.0), torch.tensor(0.0))
    tensor(0.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return torch.exp((-z).clamp(max=20.0)) - 1 + z


@final
@dataclass(frozen=True)
class DivergenceRatio:
    """β f′(u) of each row up to a constant, u = π/π_ref of the whole response: the implicit reward of f-DPO.

    reverse_kl f = u log u: log u · forward_kl f = −log u: −1/u · js f = u log u − (u+1) log((u+1)/2): log u/(1+u).
    The constant cancels in a pair, so this is the score of a pair term. Optimum of E[r] − β E_{π_ref}[f(u)]:
    f′(u) = (r − λ)/β. log u is cut at −20 in 1/u, where the gradient ends. Source: Wang et al. 2023.
    """

    divergence: Divergence
    beta: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"logp", "ref_logp"})

    def rows(self, batch: Batch, stats: TokenStats) -> Float[Tensor, " B"]:
        gap = ask(stats, "logp", by=self) - ask(stats, "ref_logp", by=self).detach()
        ratio = unit_sum(row_sum(gap, batch.mask), batch.unit)
        if self.divergence == "forward_kl":
            return -self.beta * torch.exp((-ratio).clamp(max=20.0))
        return self.beta * (ratio if self.divergence == "reverse_kl" else logsigmoid(ratio))


def kl_steps(kl: KLPlace, *, beta_kl: float) -> tuple[SignalStep, ...]:
    """The signal step of a KL that stands in the reward; none for the others or for beta_kl = 0."""
    return (KLPenalty(beta_kl),) if kl == "reward" and beta_kl else ()


def kl_terms(kl: KLPlace, *, beta_kl: float, aggregation: Aggregation) -> tuple[Term, ...]:
    """The loss term of a KL that stands in the loss; none for "reward" or for beta_kl = 0."""
    if kl == "reward" or not beta_kl:
        return ()
    if kl == "exact":
        return (
            TokenTerm("kl_exact", score=Statistic("kl_ref"), link=Identity(), aggregation=aggregation, coef=beta_kl),
        )
    link = K2() if kl == "loss_k2" else K3()
    return (TokenTerm(f"kl_{kl[-2:]}", score=LogRatio("ref_logp"), link=link, aggregation=aggregation, coef=beta_kl),)
