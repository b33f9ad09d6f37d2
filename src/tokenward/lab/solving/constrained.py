"""One constrained step of a recipe in the lab: F and the KL exact, no conjugate gradient and no damping.

The KL is KL(π_old‖π) of a token: a mean over the tokens that π_old writes, prompts by their weight, as in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.policy import TabularPolicy
from tokenward.lab.solving.problem import Problem
from tokenward.objective.updates import ConstrainedStep


@final
@dataclass(frozen=True)
class Taken:
    """A step: realized KL in nats per token, its share of the first trial (0: it stayed), the fall of the surrogate."""

    kl: float
    share: float
    improvement: float


def constrained_step(problem: Problem, rule: ConstrainedStep) -> Taken:
    """Move the problem's policy as `rule` says: along F⁻¹∇L, until KL ≤ δ and L is lower than before.

    A step as long as δ allows, however near the best policy is: with a constant δ the iteration circles a point of rest
    (where ∇L = 0), within about δ of it, and comes to rest only as δ → 0. Derived here.
    """
    here, old = problem.vector(), TabularPolicy(problem.world.tree, problem.policy().logits.detach().clone())
    slope = torch.cat([part.flatten() for part in problem.gradient()])
    direction = torch.cat([part.flatten() for part in problem.natural_gradient()])
    tokens = mean_tokens(problem, old)
    square = float(slope @ direction) / tokens  # dᵀFd with F a mean over tokens, d = F⁻¹∇L but for a factor
    stayed = Taken(0.0, 0.0, 0.0)
    if not square > 0:
        return stayed
    ahead = Problem(problem.recipe, problem.world, guide=problem.guide, old=old)
    ahead.move_to(here)
    ahead.freeze_batch()
    with torch.no_grad():
        start = float(ahead.loss())
        for trial in range(rule.backtracks):
            share = rule.shrink**trial
            ahead.move_to(here - share * math.sqrt(2 * rule.max_kl / square) * direction)
            divergence, loss = token_kl(problem, old, ahead.policy()), float(ahead.loss())
            if divergence <= rule.max_kl and loss < start:
                problem.move_to(ahead.vector())
                return Taken(divergence, share, start - loss)
    return stayed


def token_kl(problem: Problem, old: TabularPolicy, new: TabularPolicy) -> float:
    """Σ_s d(s) KL(π_old(·|s)‖π(·|s)) ÷ E|y|, d and E under π_old."""
    world, table = problem.world, old.table()
    at_state: Float[Tensor, "X S"] = (table.exp() * (table - new.table())).sum(-1)
    visits = world.weight[:, None] * world.tree.visitation(old.law())
    return float((visits * at_state).sum()) / mean_tokens(problem, old)


def mean_tokens(problem: Problem, policy: TabularPolicy) -> float:
    """E|y| under a policy."""
    world = problem.world
    return float((world.weight[:, None] * policy.law() * world.tree.length).sum())
