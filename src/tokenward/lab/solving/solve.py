"""Any recipe to its optimum or fixed point on a world, in float64.

Fixed sampler, or one that the gradient passes through: the value is minimized from π_ref. Samples of the current
policy: θ ← θ − s·F⁻¹g with the expected update g and the Fisher matrix F of each state. With the KL in the reward, a
token sum and s = 1/τ this is soft policy iteration. A proximal recipe without any pull to the reference is one exact
step from π_ref; any other recipe without a pull runs towards a vertex, and is left after some steps. A loss whose
gradient passes through the sampling has minima on the faces of the simplex: there steps along F⁻¹g lead from π_ref to
the next minimum, before it is searched.

The division of advantages by their standard deviation is left out where it does not move the optimum, and is 0/0
there: where it is one positive number for all that moves the policy. With a KL in the loss it stays, and turns the
temperature β into β·std; then small steps follow the flow from π_ref first, as there may be several points of rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.existence import has_optimum
from tokenward.lab.optima.remembered import coefficient, kl_of, with_coefficient
from tokenward.lab.solving.descent import CONVERGED, climb, follow, iterate, minimize, turn
from tokenward.lab.solving.optimizers import adam, descend
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.reading import (
    follows_policy,
    is_one_step,
    is_pulled,
    moving,
    passes_through,
    sampled,
    scales,
    unscaled,
)
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.world import World
from tokenward.objective.links import Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.remembered import AdaptiveKL, RunningScale
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm


@final
@dataclass(frozen=True)
class Solution:
    """Where the recipe came to rest: the law of the policy; a reward model's centered scores.

    `residual`: the largest slope left, of F⁻¹g where the policy samples. `attained`: whether there is a minimum at all;
    where one side always wins the loss falls for ever, and slopes vanish on the way.
    """

    law: Float[Tensor, "X L"]
    score: Float[Tensor, "X L"] | None
    residual: float
    steps: int
    attained: bool = True

    @property
    def converged(self) -> bool:
        return self.residual <= CONVERGED and self.attained


def solve(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None = None) -> Solution:
    """Where the recipe comes to rest on the world; `guide` is the law of RTO's guide."""
    problem, residual, steps = at_rest(recipe, world, guide=guide)
    with torch.no_grad():
        score = None if problem.score is None else problem.score - problem.score.mean(-1, keepdim=True)
        return Solution(problem.policy().law(), score, residual, steps, has_optimum(recipe, problem))


def at_rest(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None = None) -> tuple[Problem, float, int]:
    """The problem with its parameters where the recipe comes to rest, the residual left there, the steps taken."""
    world = drawn(sampled(recipe, world))
    if any(isinstance(step, AdaptiveKL) for step in recipe.steps):
        return _steered(recipe, world, guide)
    one_step = is_one_step(recipe)
    old = policy_with(world.ref, tree=world.tree) if one_step else None
    problem = Problem(unscaled(recipe, world), world, guide=guide, old=old)
    if one_step or not (follows_policy(recipe, world) or passes_through(recipe, world)):
        problem.freeze_batch()
    if world.optimizer != "auto":
        residual, steps = descend(problem) if world.optimizer == "gradient" else adam(problem)
        return problem, residual, steps
    if not one_step and follows_policy(recipe, world) and not is_pulled(problem.recipe):
        return problem, *climb(problem)
    proximal = next((t.link.eta for t in moving(recipe) if isinstance(t, RowTerm) and isinstance(t.link, Mirror)), None)
    if follows_policy(recipe, world) or (one_step and proximal is not None):
        size = proximal or 1 / world.tau
        if scales(problem.recipe) or any(isinstance(step, RunningScale) for step in recipe.steps):
            residual, steps = follow(problem, size=0.1 * size)
        else:
            start = problem.vector()
            residual, steps = iterate(problem, size=size)
            if residual > CONVERGED and "pairs" in recipe.needs:  # a game without a potential
                problem.move_to(start)
                residual, more = turn(problem, size=size)
                steps += more
    else:
        gentle = iterate(problem, size=0.1 / world.tau**2, limit=300)[1] if passes_through(recipe, world) else 0
        residual, steps = minimize(problem, unit=_unit(recipe))
        steps += gentle
    return problem, residual, steps


def _steered(recipe: Recipe, world: World, guide: Float[Tensor, "X L"] | None) -> tuple[Problem, float, int]:
    """The coefficient moved until the KL is its target, a solution at each; where none is, the one it starts from."""
    step, spent = next(step for step in recipe.steps if isinstance(step, AdaptiveKL)), 0

    def solved(beta: float) -> tuple[Problem, float, int]:
        nonlocal spent
        fitted = replace(world, tau=beta)  # whole steps of soft policy iteration; rollouts know no other use of τ
        problem, residual, steps = at_rest(with_coefficient(recipe, beta), fitted, guide=guide)
        spent += steps
        return problem, residual, spent

    beta = coefficient(
        lambda beta: kl_of(solved(beta)[0].policy().law().detach(), world), target=step.target, start=step.initial_coef
    )
    return solved(step.initial_coef if beta is None else beta)


def _unit(recipe: Recipe) -> float:
    """β where the loss sees the policy through β log π with β < 1, else 1."""
    scores = [term.score for term in moving(recipe) if isinstance(term, (RowTerm, PairTerm))]
    return min([1.0, *(score.beta for score in scores if isinstance(score, LogRatio))])
