"""Which policy a recipe should reach on a world, in closed form: read off the recipe's parts, never off its name.

Nothing here runs a loss. Where no closed form is known there is no prediction, and the lab reports the residual alone.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tokenward.lab.fixed_points import fixed_point
from tokenward.lab.given_data import optimum
from tokenward.lab.prediction import Prediction
from tokenward.lab.reading import stream_kind
from tokenward.lab.world import World
from tokenward.objective.recipe import Recipe


def predict(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None = None) -> Prediction:
    """The policy (a reward model's scores) that the recipe should reach; `guide` is the law of RTO's guide."""
    if stream_kind(recipe) == "rollouts":
        return fixed_point(recipe, world, guide=guide)
    return optimum(recipe, world)
