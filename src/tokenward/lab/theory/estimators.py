"""The three estimators of a KL, exactly: k1 = z, k2 = z²/2, k3 = e^−z − 1 + z, with z = log π/π_ref of a draw from π.

What Schulman (2020, "Approximating KL divergence") shows by sampling, here exactly: mean and spread of the estimators
as values, and, as the recipe parts of objective/divergences.py compute them, their expected gradients as losses: with
the sampler detached, and with the ratio π/π_old at π_old = π left differentiable. On trees the estimators are sums over
the tokens of a response. Statements on gradients and fixed points are derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.self_consistent import k3_bandit
from tokenward.lab.solving.policy import TabularPolicy, policy_with
from tokenward.lab.worlds.world import World
from tokenward.masking import keep
from tokenward.objective.divergences import K2, K3
from tokenward.objective.links import Identity, Link

LINKS: dict[str, Link] = {"k1": Identity(), "k2": K2(), "k3": K3()}


@final
@dataclass(frozen=True)
class Value:
    """An estimator of KL(π‖π_ref) as a number, over draws of π, mean over prompts: nats; `variance` of one draw."""

    kl: float
    mean: float
    variance: float

    @property
    def bias(self) -> float:
        return self.mean - self.kl


@final
@dataclass(frozen=True)
class Slopes:
    """Expected gradients by the logits of an estimator used as a loss, beside those of the two divergences.

    `detached`: draws of π, no gradient through the sampling · `ratio`: each token's loss times the product of π/π_old
    up to it, at π_old = π · `reverse`, `forward`: ∇KL(π‖π_ref), ∇KL(π_ref‖π) of whole responses · `reverse_states`,
    `forward_states`: the same divergences summed over states, with π's visits held fixed, as a per-token loss sees it.
    """

    detached: Float[Tensor, "X S V"]
    ratio: Float[Tensor, "X S V"]
    reverse: Float[Tensor, "X S V"]
    forward: Float[Tensor, "X S V"]
    reverse_states: Float[Tensor, "X S V"]
    forward_states: Float[Tensor, "X S V"]


@final
@dataclass(frozen=True)
class Relative:
    """Bias and standard deviation of one draw, both divided by the true KL."""

    bias: float
    std: float


def gaussian(shift: float) -> dict[str, Relative]:
    """Schulman's table in closed form: draws of q = N(0, 1), p = N(shift, 1), KL(q‖p) = shift²/2.

    There z = log q/p is N(μ²/2, μ²), μ the shift, and E[e^−z] = 1. Derived here.

    >>> {name: (round(one.bias, 4), round(one.std, 3)) for name, one in gaussian(1.0).items()}
    {'k1': (0.0, 2.0), 'k2': (0.25, 1.732), 'k3': (0.0, 1.695)}
    """
    square = shift**2
    kl = square / 2
    spread = {
        "k1": square,  # Var z
        "k2": (2 * square**2 + square**3) / 4,  # Var z² = 2σ⁴ + 4m²σ²
        "k3": math.expm1(square) - square,  # Var e^−z + Var z + 2 Cov, Cov = −μ²
    }
    bias = {"k1": 0.0, "k2": square**2 / 8, "k3": 0.0}
    return {name: Relative(bias[name] / kl, math.sqrt(spread[name]) / kl) for name in LINKS}


def values(world: World, law: Float[Tensor, "X L"]) -> dict[str, Value]:
    """Mean and variance of each estimator (summed over the tokens of a response) over draws of the law."""
    terms = _log_ratio(world, policy_with(law, tree=world.tree))
    kl = float(world.weight @ (law * (law / world.ref).log()).sum(-1))
    found: dict[str, Value] = {}
    for name, link in LINKS.items():
        total = _per_token(link, terms, world).sum(-1).reshape(law.shape)
        mean = float(world.weight @ (law * total).sum(-1))
        second = float(world.weight @ (law * (total - mean) ** 2).sum(-1))
        found[name] = Value(kl, mean, second)
    return found


def slopes(world: World, law: Float[Tensor, "X L"]) -> dict[str, Slopes]:
    """Each estimator's expected gradients at the policy of this law."""
    tree = world.tree
    policy = TabularPolicy(tree, policy_with(law, tree=tree).logits.detach().requires_grad_())
    own, ref = policy.table(), tree.conditional(world.ref)
    weight = (world.weight[:, None] * law).flatten()
    current = policy.law()
    visits = (world.weight[:, None] * tree.visitation(law))[..., None]
    share = world.weight[:, None]
    fixed = (
        (share * current * (current / world.ref).log()).sum(),
        (share * world.ref * (world.ref / current).log()).sum(),
        (visits * own.exp() * (own - ref)).sum(),
        (visits * ref.exp() * (ref - own)).sum(),
    )
    reverse, forward, reverse_states, forward_states = (_gradient(value, policy.logits) for value in fixed)
    moved = tree.rows(own)
    path = (moved - moved.detach()).cumsum(-1).exp()  # 1, with the gradient of the path's probability
    found: dict[str, Slopes] = {}
    for name, link in LINKS.items():
        loss = _per_token(link, _log_ratio(world, policy), world)
        detached = _gradient((weight * loss.sum(-1)).sum(), policy.logits)
        ratio = _gradient((weight * (path * loss).sum(-1)).sum(), policy.logits)
        found[name] = Slopes(detached, ratio, reverse, forward, reverse_states, forward_states)
    return found


@final
@dataclass(frozen=True)
class Rest:
    """Where −E[r] + β·(estimator) comes to rest; `law` None where there is no closed form, or nothing pulls (k1)."""

    place: Literal["loss", "ratio", "reward"]
    name: str
    law: Float[Tensor, "X L"] | None


def rests(world: World) -> dict[str, tuple[Rest, ...]]:
    """The fixed point of each estimator, on-policy at β = τ, by where it stands.

    In the reward, with the full return to go, any estimator is a fixed number for each response: k1 gives π^τ, k2 and
    k3 other policies, without closed form here. "ratio": the path's ratio stays differentiable.
    """
    tree, tau = world.tree, world.tau
    boltzmann, single = world.target, tree.horizon == 1
    myopic = exact.myopic(tree, tree.conditional(world.ref), tree.outcome(world.reward), beta=tau)
    pull = torch.full_like(world.weight, tau)
    third = Rest("loss", "k3", k3_bandit(world.ref, world.reward, pull)) if single else Rest("loss", "none known", None)
    return {
        "k1": (
            Rest("loss", "no pull: the best answer", None),
            Rest("ratio", "boltzmann", boltzmann),
            Rest("reward", "boltzmann", boltzmann),
        ),
        "k2": (
            Rest("loss", "boltzmann" if single else "myopic", myopic),
            Rest("ratio", "none known", None),
            Rest("reward", "none known", None),
        ),
        "k3": (third, Rest("ratio", "boltzmann", boltzmann), Rest("reward", "none known", None)),
    }


def _log_ratio(world: World, policy: TabularPolicy) -> Float[Tensor, "B T"]:
    return world.tree.rows(policy.table() - world.tree.conditional(world.ref))


def _per_token(link: Link, ratio: Float[Tensor, "B T"], world: World) -> Float[Tensor, "B T"]:
    """The estimator at each token; 0 beyond a response's length, where the ratio is 1."""
    return keep(link(ratio, torch.zeros_like(ratio)), world.tree.mask.repeat(len(world.prompts), 1))


def _gradient(value: Float[Tensor, ""], logits: Float[Tensor, "X S V"]) -> Float[Tensor, "X S V"]:
    (found,) = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    return torch.zeros_like(logits) if found is None else found
