"""On their own samples, the four scenarios are one gradient: BDA, RA and RDA exactly, PRA in direction only nearly.

With draws of the current policy, without gradient through the drawing, ∇RA = 2τ²·∇KL(π‖π^τ), ∇RDA = 4τ²·∇KL(π‖π^τ),
and the policy gradients of REINFORCE and RLOO are τ·∇KL(π‖π^τ), for every G. PRA's is the policy gradient of a
preference advantage, A(y) = 2τ E_{y′∼π}[P(y ≻ y′) − σ(z(y, y′))]: true win rate less implicit win rate. Gradients are
those of the recipes themselves. Four scenarios after Su et al. 2025; statements and proofs ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.solving.policy import TabularPolicy, policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.recipes import build


@final
@dataclass(frozen=True)
class Connection:
    """One recipe's expected gradient beside ∇KL(π‖π^τ), both by the logits.

    `ratio`: the factor by which it is ∇KL(π‖π^τ), by least squares · `off`: what is left, relative to the gradient
    (0: the same direction) · `cosine` of the two.
    """

    recipe: str
    gradient: Float[Tensor, "X S V"]
    ratio: float
    off: float
    cosine: float


def divergence_slope(world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
    """∇KL(π‖π^τ) by the logits, mean over prompts."""
    logits = policy_with(law, tree=world.tree).logits.detach().requires_grad_()
    own = TabularPolicy(world.tree, logits).law()
    value = (world.weight[:, None] * own * (own / world.target).log()).sum()
    return torch.autograd.grad(value, logits)[0]


def connections(world: World, law: Float[Tensor, "X L"], *, group: int = 2) -> dict[str, Connection]:
    """The gradients of on-policy RA, RDA, PRA, RLOO (in groups of this size) and REINFORCE at the policy of this law.

    RA is given its normalizer; RDA, PRA on two independent draws; KL in the reward, token sums; all at β = τ.
    """
    tau = world.tau
    own = replace(
        world, prompts=tuple(replace(p, sampler="policy", pairs="sampler", group=None) for p in world.prompts)
    )
    groups = replace(own, prompts=tuple(replace(p, group=group) for p in own.prompts))
    every = {
        "ra": (build("ra", beta=tau, normalizer="given"), own),
        "rda": (build("rda", beta=tau), own),
        "pra": (build("pra", beta=tau), own),
        "rloo": (build("rloo", beta_kl=tau, aggregation="token_sum"), groups),
        "reinforce": (build("reinforce", beta_kl=tau, aggregation="token_sum"), own),
    }
    aim = divergence_slope(world, law)
    return {name: _beside(recipe, gradient_at(recipe, place, law), aim) for name, (recipe, place) in every.items()}


def gradient_at(recipe: Recipe, world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
    """The recipe's expected gradient by the logits at the policy of this law."""
    problem = Problem(recipe, world, guide=None, old=None)
    with torch.no_grad():
        problem.logits.copy_(policy_with(law, tree=world.tree).logits)
    return torch.autograd.grad(problem.loss(), problem.logits)[0]


def preference_advantage(world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """A(y) = 2τ E_{y′∼π}[P(y ≻ y′) − σ(z(y, y′))], z = τ (log π/π_ref(y) − log π/π_ref(y′)), Bradley–Terry labels.

    Its mean under π is 0; −E_π[A ∇log π] is the gradient of on-policy PRA.
    """
    implied = world.tau * (law / world.ref).log()
    gap = exact.bradley_terry(world.reward) - exact.bradley_terry(implied)
    return 2 * world.tau * (gap * law[:, None, :]).sum(-1)


def _beside(recipe: Recipe, gradient: Float[Tensor, "X S V"], aim: Float[Tensor, "X S V"]) -> Connection:
    dot, square, own = float((gradient * aim).sum()), float((aim**2).sum()), float((gradient**2).sum())
    if square == 0 or own == 0:
        return Connection(recipe.name, gradient, 0.0, 0.0, 0.0)
    ratio = dot / square
    off = float(((gradient - ratio * aim) ** 2).sum()) ** 0.5 / own**0.5
    return Connection(recipe.name, gradient, ratio, off, dot / (square * own) ** 0.5)
