"""What a loss bounds: how far a policy is from π^τ, how much the loss moves with its sampler, and a safe surrogate.

L(π; μ) = E_{μ⊗μ} KL(Ber σ(Δ) ‖ Ber σ(z)) is the preference loss on pairs of μ, Δ reward gaps, z gaps of the implicit
reward; d = log π/π^τ. All in the leaves' laws. After the organization of Su et al. 2025; statements and proofs ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.optima.graph import steepness
from tokenward.lab.worlds.world import World
from tokenward.objective.links import BernoulliKL

_STARTS = (0.003, 0.03, 0.3, 1.0)  # of the way to π^τ, where the search for the surrogate's minimum begins


@final
@dataclass(frozen=True)
class Distance:
    """KL(π‖π^τ) and what two losses on pairs of μ say it cannot exceed."""

    kl: float
    by_differences: float
    by_preferences: float


@final
@dataclass(frozen=True)
class Shift:
    """L(π; π) − L(π; μ), and three bounds: 2B·TV(π, μ), B√(2KL(μ‖π)), and max(π/μ)²·L(π; μ) for L(π; π) itself."""

    own: float
    given: float
    by_distance: float
    by_divergence: float
    by_ratio: float


def distance(world: World, law: Float[Tensor, " L"], *, mu: Float[Tensor, " L"]) -> Distance:
    """KL(π‖π^τ) ≤ L_RDA/(4τ² min μ) and ≤ L_PRA/(2σ′(B)τ² min μ), B the widest of z and Δ; the first prompt's leaves.

    Along π_s ∝ π^τ e^{sd}: KL = ∫ s Var_{π_s}(d) ds ≤ Var_μ(d)/(2 min μ), and L_RDA = 2τ² Var_μ(d). Derived here.
    """
    d, z, gap = _gaps(world, law)
    variance = float(mu @ d.square() - (mu @ d) ** 2)
    widest = torch.maximum(z.abs().max(), gap.abs().max())
    least = float(mu.min())
    return Distance(
        kl=float(law @ d),
        by_differences=variance / (2 * least),
        by_preferences=preference_loss(world, law, mu=mu) / (2 * float(steepness(widest[None])) * world.tau**2 * least),
    )


def shift(world: World, law: Float[Tensor, " L"], *, mu: Float[Tensor, " L"]) -> Shift:
    """What the preference loss changes by when its pairs come from the policy itself, B = τ²(range d)²/8."""
    most = _most(world, law)
    return Shift(
        own=preference_loss(world, law, mu=law),
        given=preference_loss(world, law, mu=mu),
        by_distance=most * float((law - mu).abs().sum()),
        by_divergence=most * float((2 * (mu * (mu / law).log()).sum()).sqrt()),
        by_ratio=float((law / mu).max()) ** 2 * preference_loss(world, law, mu=mu),
    )


def preference_loss(world: World, law: Float[Tensor, " L"], *, mu: Float[Tensor, " L"]) -> float:
    """L(π; μ) on all ordered pairs of two draws of μ."""
    return float(_loss(world, law.log(), mu))


def surrogate_steps(
    world: World, *, penalty: Literal["root", "linear"], coefficient: float | None, rounds: int
) -> list[float]:
    """F(π) = L(π; π) at π_ref and after each minimization of L(π; π_k) + c·√(2KL(π_k‖π)), or + c·KL(π_k‖π).

    coefficient None ("root"): B of π_k, with which the surrogate lies above F wherever d has no wider range than at
    π_k. There F cannot rise; but √KL has a cone at π_k, and where its slope is the larger one the policy stays.
    """
    if penalty == "linear" and coefficient is None:
        raise InputError("surrogate_steps: a linear penalty has no bound that holds everywhere; give a coefficient")
    logits = world.ref[0].log()
    seen = [float(_loss(world, logits, logits.exp()))]
    for _ in range(rounds):
        own = logits.exp()
        size = _most(world, own) if coefficient is None else coefficient
        logits = _minimize(world, logits, size, root=penalty == "root")
        seen.append(float(_loss(world, logits, logits.exp())))
    return seen


def _minimize(world: World, before: Float[Tensor, " L"], size: float, *, root: bool) -> Float[Tensor, " L"]:
    """log π of the lowest surrogate found from several starts; the policy before where none is lower."""
    own = before.exp()

    def surrogate(logits: Tensor) -> Tensor:
        logp = torch.log_softmax(logits, -1)
        apart = (own * (before - logp)).sum().clamp(min=1e-18)
        return _loss(world, logp, own) + size * ((2 * apart).sqrt() if root else apart)

    best, lowest = before, float(_loss(world, before, own))
    for share in _STARTS:
        at = (before + share * (world.target[0].log() - before)).clone().requires_grad_()
        search = torch.optim.LBFGS([at], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure(at: Tensor = at) -> Tensor:
            value = surrogate(at)
            (at.grad,) = torch.autograd.grad(value, at)
            return value

        search.step(closure)
        with torch.no_grad():
            if (value := float(surrogate(at))) < lowest:
                best, lowest = torch.log_softmax(at, -1).detach(), value
    return best


def _loss(world: World, logp: Float[Tensor, " L"], mu: Float[Tensor, " L"]) -> Float[Tensor, ""]:
    reward, lr = world.reward[0], world.tau * (logp - world.ref[0].log())
    each = BernoulliKL()(lr[:, None] - lr, torch.sigmoid(reward[:, None] - reward))
    return mu @ each @ mu


def _gaps(
    world: World, law: Float[Tensor, " L"]
) -> tuple[Float[Tensor, " L"], Float[Tensor, "L L"], Float[Tensor, "L L"]]:
    """d, z and Δ."""
    lr, reward = world.tau * (law / world.ref[0]).log(), world.reward[0]
    return (law / world.target[0]).log(), lr[:, None] - lr, reward[:, None] - reward


def _most(world: World, law: Float[Tensor, " L"]) -> float:
    """B = τ²(max d − min d)²/8: no pair's loss is larger."""
    d = (law / world.target[0]).log()
    return world.tau**2 / 8 * float(d.max() - d.min()) ** 2
