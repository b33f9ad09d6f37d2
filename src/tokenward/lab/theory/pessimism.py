"""RTO's theory where everything can be listed: token rewards linear in features, learned from comparisons, with doubt.

The setting of Zhong et al. 2024 (arXiv 2404.18922), Assumption 4.1 and Algorithm 1: r(s,a) = φ(s,a)·θ*, N comparisons
of whole answers by Bradley–Terry, and a policy that plans with what the comparisons leave no doubt about. `F`: features
· `N`: comparisons. A sum over tokens of a leaf is Σ_t φ(s_t, y_t); E_{d*} is the sum over the tokens of answers of π*.
The paper's radius ϱ is a bound in probability whose constant grows like e^{2HLB}; here ϱ is the oracle's, ‖θ_MLE − θ*‖.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.worlds.tree import Tree

Local = tuple[float, Tensor, Tensor]  # a value, its gradient and its Hessian


@final
@dataclass(frozen=True)
class LinearRewards:
    """Token rewards φ(s,a)·θ* on a tree, a reference, and the pull β to it."""

    tree: Tree
    ref: Float[Tensor, "X L"]
    weight: Float[Tensor, " X"]
    features: Float[Tensor, "X S V F"]
    theta: Float[Tensor, " F"]
    beta: float

    @cached_property
    def sums(self) -> Float[Tensor, "X L F"]:
        """Σ_t φ(s_t, y_t) of each leaf."""
        prompts, size = len(self.ref), len(self.theta)
        flat = self.tree.leaf_sum(self.features.movedim(-1, 1).flatten(0, 1))
        return flat.reshape(prompts, size, -1).transpose(1, 2)

    def best(self, theta: Float[Tensor, " F"]) -> Float[Tensor, "X L"]:
        """The soft-optimal policy π_ref·exp(Σφ·θ/β)/Z."""
        return exact.boltzmann(self.ref, self.sums @ theta, tau=self.beta)

    def suboptimality(self, law: Float[Tensor, "X L"]) -> float:
        """V_β(π*) − V_β(π) under the true reward (Eq. 3.5)."""
        reward = self.sums @ self.theta
        best, value = (
            exact.regularized_value(one, ref=self.ref, reward=reward, tau=self.beta)
            for one in (self.best(self.theta), law)
        )
        return float(self.weight @ (best - value))


def linear_rewards(
    tree: Tree, *, features: int, beta: float, size: float = 2.0, prompts: int = 2, seed: int = 0
) -> LinearRewards:
    """A random problem: ‖φ(s,a)‖ = 1, ‖θ*‖ = `size`, a random reference."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    phi, theta = normal(prompts, tree.states, tree.vocab, features), normal(features)
    return LinearRewards(
        tree,
        ref=torch.softmax(normal(prompts, tree.leaves), -1),
        weight=torch.full((prompts,), 1 / prompts, dtype=torch.float64),
        features=phi / phi.norm(dim=-1, keepdim=True),
        theta=size * theta / theta.norm(),
        beta=beta,
    )


def compared_answers(problem: LinearRewards, *, number: int, seed: int) -> Float[Tensor, "N F"]:
    """Δ = Σφ(winner) − Σφ(loser) of pairs that the reference wrote: P(first wins) = σ of the difference of rewards."""
    random = torch.Generator().manual_seed(seed)
    prompt = torch.multinomial(problem.weight, number, replacement=True, generator=random)
    pair = torch.multinomial(problem.ref[prompt], 2, replacement=True, generator=random)
    first, second = (problem.sums[prompt, leaf] for leaf in pair.unbind(-1))
    gap = first - second
    wins = torch.rand(number, generator=random, dtype=torch.float64) < torch.sigmoid(gap @ problem.theta)
    return torch.where(wins[:, None], gap, -gap)


def most_likely(gaps: Float[Tensor, "N F"], *, bound: float) -> Float[Tensor, " F"]:
    """θ_MLE: the maximum of Σ log σ(Δ·θ) over ‖θ‖ ≤ bound; of several the shortest."""

    def local(theta: Tensor) -> Local:
        margin = gaps @ theta
        lost = torch.sigmoid(-margin)
        hessian = gaps.T @ ((lost * (1 - lost))[:, None] * gaps)
        value = -torch.nn.functional.logsigmoid(margin).mean()
        return float(value), -(lost @ gaps) / len(gaps), hessian / len(gaps)

    return least_in_ball(local, dimension=gaps.shape[-1], radius=bound)


@final
@dataclass(frozen=True)
class Estimate:
    """θ_MLE, Σ_D = λI + ΣΔΔᵀ, and the radius ϱ of the ellipsoid around θ_MLE in which θ* is held to lie."""

    theta: Float[Tensor, " F"]
    covariance: Float[Tensor, "F F"]
    radius: float

    def doubt(self, direction: Float[Tensor, "*some F"]) -> Float[Tensor, "*some"]:
        """‖direction‖ in the norm of Σ_D⁻¹."""
        root: Tensor = torch.linalg.cholesky(self.covariance)
        flat = direction.flatten(0, -2) if direction.ndim > 1 else direction[None]
        norm: Tensor = torch.linalg.solve_triangular(root, flat.T, upper=False).norm(dim=0)
        return norm.reshape(direction.shape[:-1])


def estimate(problem: LinearRewards, gaps: Float[Tensor, "N F"], *, bound: float, ridge: float = 1.0) -> Estimate:
    """θ_MLE and Σ_D of the comparisons, with the oracle's radius ‖θ_MLE − θ*‖ in the norm of Σ_D."""
    theta = most_likely(gaps, bound=bound)
    covariance = ridge * torch.eye(len(theta), dtype=torch.float64) + gaps.T @ gaps
    error = theta - problem.theta
    return Estimate(theta, covariance, float((error @ covariance @ error).sqrt()))


def token_pessimism(problem: LinearRewards, found: Estimate) -> Float[Tensor, "X S V"]:
    """Algorithm 1's reward (Eq. 4.2): r̂(s,a) = φ·θ_MLE − ϱ‖φ‖ in the norm of Σ_D⁻¹."""
    return problem.features @ found.theta - found.radius * found.doubt(problem.features)


def plan_of_tokens(problem: LinearRewards, found: Estimate) -> Float[Tensor, "X L"]:
    """Algorithm 1's π̂: soft-optimal for the pessimistic token reward."""
    total = problem.tree.leaf_sum(token_pessimism(problem, found))
    return exact.boltzmann(problem.ref, total, tau=problem.beta)


def plan_of_policies(problem: LinearRewards, found: Estimate) -> Float[Tensor, "X L"]:
    """The policy of Theorem B.1: max over π of the least value that a θ of the ellipsoid gives it.

    max_π min_θ = min_θ max_π, and max_π is β log Z: smooth and convex in θ. Derived here.
    """
    root = torch.linalg.cholesky(found.covariance)
    sums = torch.linalg.solve_triangular(root, problem.sums.flatten(0, 1).T, upper=False).T
    sums = sums.reshape(problem.sums.shape)  # Σ φ in coordinates where the ellipsoid is a ball
    known = problem.sums @ found.theta

    def local(inside: Tensor) -> Local:
        reward = known + sums @ inside
        law = exact.boltzmann(problem.ref, reward, tau=problem.beta)
        value = problem.beta * torch.logsumexp(problem.ref.log() + reward / problem.beta, -1)
        mean = torch.einsum("xl,xlf->xf", law, sums)
        apart = sums - mean[:, None]
        spread = torch.einsum("x,xl,xlf,xlg->fg", problem.weight, law, apart, apart)
        return float(problem.weight @ value), problem.weight @ mean, spread / problem.beta

    inside = least_in_ball(local, dimension=len(found.theta), radius=found.radius)
    return exact.boltzmann(problem.ref, known + sums @ inside, tau=problem.beta)


@final
@dataclass(frozen=True)
class Guarantees:
    """What the two policies lose, and what the theorems allow: `coverage` 2ϱE_{d*}‖φ‖, `gained` β E_{d*}KL(π*‖π̂)."""

    tokens_lose: float
    policies_lose: float
    coverage: float
    gained: float
    policies_bound: float

    @property
    def tokens_bound(self) -> float:
        """Theorem 4.2: 2ϱ E_{d*}‖φ‖ − β E_{d*}KL(π*‖π̂)."""
        return self.coverage - self.gained


def guarantees(problem: LinearRewards, found: Estimate) -> Guarantees:
    """Both policies beside Theorem 4.2 and Theorem B.1, 2ϱ‖E_{d*}φ‖."""
    best, planned = problem.best(problem.theta), plan_of_tokens(problem, found)
    doubt = problem.tree.leaf_sum(found.doubt(problem.features))
    apart = (torch.xlogy(best, best) - torch.xlogy(best, planned)).sum(-1)  # the sum of the tokens' KLs
    mean = torch.einsum("x,xl,xlf->f", problem.weight, best, problem.sums)
    return Guarantees(
        tokens_lose=problem.suboptimality(planned),
        policies_lose=problem.suboptimality(plan_of_policies(problem, found)),
        coverage=2 * found.radius * float(problem.weight @ (best * doubt).sum(-1)),
        gained=problem.beta * float(problem.weight @ apart),
        policies_bound=2 * found.radius * float(found.doubt(mean)),
    )


def performance_difference(
    tree: Tree,
    logp: Float[Tensor, "X S V"],
    other: Float[Tensor, "X S V"],
    *,
    ref_logp: Float[Tensor, "X S V"],
    reward: Float[Tensor, "X S V"],
    beta: float,
) -> Float[Tensor, " X"]:
    """Lemma A.2's right side, E_{d^π}[Q^π′ − V^π′ − β log π/π_ref]: it is V^π − V^π′. β log π_ref stands outside Q.

    `exact.values` with the KL in the reward gives Q^π′ − β log π′/π_ref, so what is added is β log π′ − β log π.
    """
    q, v = exact.values(tree, other, reward - beta * (other - ref_logp))
    inner = q - v[..., None] + beta * (other - logp)
    law = tree.leaf_sum(logp).exp()
    return (law * tree.leaf_sum(inner)).sum(-1)


def least_in_ball(local: Callable[[Tensor], Local], *, dimension: int, radius: float) -> Float[Tensor, " F"]:
    """The minimum of a smooth convex function over ‖x‖ ≤ radius: Newton steps whose model is minimized in the ball."""
    x = torch.zeros(dimension, dtype=torch.float64)
    value, slope, hessian = local(x)
    for _ in range(100):
        direction = _model_in_ball(hessian, hessian @ x - slope, radius=radius) - x
        descent = float(slope @ direction)
        if descent > -1e-15 * max(1.0, abs(value)):
            break
        size = 1.0
        ahead = local(x + direction)
        while ahead[0] > value + 1e-4 * size * descent and size > 1e-6:
            size /= 2
            ahead = local(x + size * direction)
        x, (value, slope, hessian) = x + size * direction, ahead
    return x


def _model_in_ball(hessian: Float[Tensor, "F F"], pull: Float[Tensor, " F"], *, radius: float) -> Float[Tensor, " F"]:
    """The minimum of ½xᵀHx − pull·x over ‖x‖ ≤ radius: (H + μI)⁻¹ pull, μ ≥ 0 by bisection on the length."""
    curvature, axes = torch.linalg.eigh(hessian)
    along = axes.T @ pull
    along = torch.where(along.abs() <= 1e-13 * along.abs().max(), 0.0, along)
    parts = [(c, max(h, 0.0)) for c, h in zip(along.tolist(), curvature.tolist(), strict=True) if c != 0]

    length: Callable[[float], float] = lambda multiplier: math.hypot(
        *(c / max(h + multiplier, 1e-300) for c, h in parts)
    )
    low, high = 0.0, math.hypot(*(c for c, _ in parts)) / radius
    if length(0.0) <= radius:
        high = 0.0
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if length(middle) > radius else (low, middle)
    lowest: Tensor = axes @ (along / (curvature.clamp(min=0) + high).clamp(min=1e-300))
    return lowest
