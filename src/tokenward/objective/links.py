"""Links: the scalar curve between a score z and its target, elementwise.

Every link is `link(z, target) -> loss` of the same shape. `z` is a pooled, scaled log-ratio (or a value), larger is
better. What `target` means stands in each docstring; links that have none ignore it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from tokenward.errors import InputError


@runtime_checkable
class Link(Protocol):
    """link(z, target) -> loss, elementwise."""

    def __call__(self, z: Tensor, target: Tensor) -> Tensor: ...


# ------------------------------------------------------------------- preferences: target p = P(first is preferred)


@final
@dataclass(frozen=True)
class Logistic:
    """−p log σ(z − γ) − (1−p) log σ(−z − γ).

    The Bradley–Terry negative log-likelihood of a margin z. `margin` γ is SimPO's. Source: Rafailov et al. 2023,
    Eq. 7; Meng et al. 2024, Eq. 6.

    >>> Logistic()(torch.tensor(0.0), torch.tensor(1.0))  # log 2
    tensor(0.6931)
    """

    margin: float = 0.0

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return -target * logsigmoid(z - self.margin) - (1 - target) * logsigmoid(-z - self.margin)


@final
@dataclass(frozen=True)
class BernoulliKL:
    """KL(Ber p ‖ Ber σ(z)) = −p log σ(z) − (1−p) log σ(−z) − H(p); 0 exactly where σ(z) = p.

    The preference-reward approximation in the organization of Su et al. 2025 (scenario PRA; the KL form is ours).

    >>> BernoulliKL()(torch.tensor(0.0), torch.tensor(0.5))
    tensor(0.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        entropy = -torch.xlogy(target, target) - torch.xlogy(1 - target, 1 - target)
        return target * softplus(-z) + (1 - target) * softplus(z) - entropy


@final
@dataclass(frozen=True)
class SquareMargin:
    """p (z − m)² + (1−p)(z + m)².

    IPO with z = Δ, the difference of log-ratios, and m = 1/(2β). Source: Azar et al. 2023, Eq. 17.

    >>> SquareMargin(margin=2.0)(torch.tensor(0.5), torch.tensor(1.0))
    tensor(2.2500)
    """

    margin: float

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return target * (z - self.margin) ** 2 + (1 - target) * (z + self.margin) ** 2


@final
@dataclass(frozen=True)
class Hinge:
    """p max(0, δ − z) + (1−p) max(0, δ + z). Source: Zhao et al. 2023 (SLiC-HF), Eq. 2.

    >>> Hinge(margin=1.0)(torch.tensor(0.25), torch.tensor(1.0))
    tensor(0.7500)
    """

    margin: float = 1.0

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return target * torch.relu(self.margin - z) + (1 - target) * torch.relu(self.margin + z)


# --------------------------------------------------------------------------------- single answers and regressions


@final
@dataclass(frozen=True)
class Prospect:
    """p λ_D (1 − σ(z)) + (1−p) λ_U (1 − σ(−z)): KTO's value function; target p = P(desirable).

    z = β(log-ratio − z₀). Source: Ethayarajh et al. 2024, Eq. 8.

    >>> Prospect()(torch.tensor(0.0), torch.tensor(1.0))
    tensor(0.5000)
    """

    desirable: float = 1.0
    undesirable: float = 1.0

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return target * self.desirable * torch.sigmoid(-z) + (1 - target) * self.undesirable * torch.sigmoid(z)


@final
@dataclass(frozen=True)
class Square:
    """(z − target)²: regression of an implicit reward (or a difference of two) on the true one.

    >>> Square()(torch.tensor(1.0), torch.tensor(3.0))
    tensor(4.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return (z - target) ** 2


@final
@dataclass(frozen=True)
class Difference:
    """z − target: with z = β log π/π_ref and target r its mean over the policy's own answers is −J, J = E[r] − β KL.

    >>> Difference()(torch.tensor(1.0), torch.tensor(3.0))
    tensor(-2.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return z - target


@final
@dataclass(frozen=True)
class SquashedSquare:
    """(σ(z) − target)², target in [0, 1]: the Brier score of a preference, or UNA's score form.

    Strictly proper: minimal exactly where σ(z) = target. Source: Wang et al. 2024 (UNA).

    >>> SquashedSquare()(torch.tensor(0.0), torch.tensor(1.0))
    tensor(0.2500)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return (torch.sigmoid(z) - target) ** 2


@final
@dataclass(frozen=True)
class ClippedSquare:
    """½ max((z − t)², (clip(z, ±ε) − t)²) with z = V − V_old and t = R − V_old: PPO's pessimistic value loss.

    The max is deliberate. `clip` None leaves ½(V − R)². Source: Schulman et al. 2017's reference code.

    >>> ClippedSquare(clip=0.2)(torch.tensor(1.0), torch.tensor(1.0))  # clip(1) = .2, ½(.8)²
    tensor(0.3200)
    """

    clip: float | None = None

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        plain = (z - target) ** 2
        if self.clip is None:
            return 0.5 * plain
        return 0.5 * torch.maximum(plain, (z.clamp(-self.clip, self.clip) - target) ** 2)


# ---------------------------------------------------------------------------- policy gradient: target = advantage A


@final
@dataclass(frozen=True)
class ScoreFunction:
    """−A z with z = log π: REINFORCE. Source: Williams 1992.

    >>> ScoreFunction()(torch.tensor(-1.0), torch.tensor(2.0))
    tensor(2.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return -target * z


@final
@dataclass(frozen=True)
class Ratio:
    """−A ϱ, ϱ = exp z, z = log π/π_old: the importance-weighted policy gradient, without a clip.

    Source: Schulman et al. 2015 (there under a constraint). The exponent is cut at 20, where the gradient ends.

    >>> Ratio()(torch.log(torch.tensor(1.5)), torch.tensor(2.0))
    tensor(-3.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return -target * torch.exp(z.clamp(max=20.0))


@final
@dataclass(frozen=True)
class Clipped:
    """max(−A ϱ, −A clip(ϱ, 1 − low, 1 + high)), ϱ = exp z, z = log π/π_old. Source: Schulman et al. 2017, Eq. 7.

    `low`, `high` are distances from 1, not bounds. `dual` c > 1 bounds the loss where A < 0 by −c A: beyond ϱ = c a bad
    token is pushed down no more (Ye et al. 2020). For A ≥ 0 it does nothing.

    >>> Clipped()(torch.log(torch.tensor(1.5)), torch.tensor(1.0))  # gain cut at 1.2
    tensor(-1.2000)
    >>> Clipped(dual=3.0)(torch.log(torch.tensor(8.0)), torch.tensor(-1.0))  # loss cut at 3
    tensor(3.)
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        if self.dual is not None and not self.dual > 1:
            raise InputError(f"Clipped: dual is a bound on the ratio above 1, got {self.dual:g}; the usual one is 3")

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        ratio = torch.exp(z.clamp(max=20.0))
        loss = torch.maximum(-target * ratio, -target * ratio.clamp(1 - self.low, 1 + self.high))
        if self.dual is None:
            return loss
        return torch.where(target < 0, torch.minimum(loss, -target * self.dual), loss)

    def cut(self, z: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Where the gradient is cut to 0, by side."""
        ratio = torch.exp(z.clamp(max=20.0))
        found = {"low": (ratio < 1 - self.low) & (target < 0), "high": (ratio > 1 + self.high) & (target > 0)}
        return found if self.dual is None else found | {"dual": (ratio > self.dual) & (target < 0)}


@final
@dataclass(frozen=True)
class Mirror:
    """−A ϱ + (1/η) ϱ log ϱ, ϱ = exp z, z = log π/π_old.

    Its mean over samples of π_old is −E_π[A] + (1/η) KL(π‖π_old), minimized by π ∝ π_old exp(ηA).
    Source: Tomar et al. 2020, Eq. 7 (on-policy mirror descent; the sampled form).

    >>> Mirror(eta=1.0)(torch.tensor(0.0), torch.tensor(2.0))
    tensor(-2.)
    """

    eta: float

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        ratio = torch.exp(z.clamp(max=20.0))
        return -target * ratio + ratio * z / self.eta


# --------------------------------------------------------------------------------------------- terms without target


@final
@dataclass(frozen=True)
class NegativeLogLikelihood:
    """−z with z = log π.

    >>> NegativeLogLikelihood()(torch.tensor(-2.0), torch.tensor(0.0))
    tensor(2.)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return -z


@final
@dataclass(frozen=True)
class Identity:
    """z itself: for a statistic that already is a loss, such as an exact KL.

    >>> Identity()(torch.tensor(0.5), torch.tensor(0.0))
    tensor(0.5000)
    """

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return z
