"""Plain gradient descent on a recipe's own loss, recorded on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.reading import follows_policy, passes_through, sampled
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe


def path(
    recipe: Recipe, world: World, *, step: float, steps: int, look: Callable[[Float[Tensor, "X L"]], float]
) -> list[float]:
    """look(policy) at π_ref and after each of `steps` steps θ ← θ − step·∇loss, from π_ref."""
    world = sampled(recipe, world)
    problem = Problem(recipe, world, guide=None, old=None)
    if not (follows_policy(recipe, world) or passes_through(recipe, world)):
        problem.freeze_batch()
    seen: list[float] = []
    for _ in range(steps + 1):
        with torch.no_grad():
            seen.append(look(problem.policy().law()))
        slopes = torch.cat([slope.flatten() for slope in problem.gradient()])
        problem.move_to(problem.vector() - step * slopes)
    return seen


def marks(steps: int, *, per_decade: int = 8) -> list[int]:
    """Numbers of steps, evenly spread on a logarithm, from 1 to `steps`.

    >>> marks(10, per_decade=2)
    [1, 3, 10]
    """
    decades = torch.log10(torch.tensor(float(steps)))
    places = torch.logspace(0, float(decades), max(2, round(float(decades) * per_decade) + 1))
    return sorted({min(steps, round(float(place))) for place in places})
