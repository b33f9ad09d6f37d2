"""Which policy a recipe should reach on a world, in closed form: read off the recipe's parts, never off its name.

Nothing here runs a loss. Where no closed form is known there is no prediction, and the lab reports the residual alone.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.games import game
from tokenward.lab.optima.given_data import optimum
from tokenward.lab.optima.prediction import Prediction, within_class, without_law
from tokenward.lab.optima.remembered import at_rest
from tokenward.lab.solving.reading import as_given, sampled, stream_kind
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe


def predict(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None = None) -> Prediction:
    """The policy (a reward model's scores) that the recipe should reach; `guide` is the law of RTO's guide."""
    played = game(recipe, drawn(sampled(recipe, world)), guide=guide)
    if played is not None:
        return within_class(played, world)
    recipe = as_given(recipe)
    world = drawn(sampled(recipe, world))
    whole = at_rest(recipe, world, guide=guide) if stream_kind(recipe) == "rollouts" else optimum(recipe, world)
    found = within_class(whole, world)
    return without_law(found) if world.optimizer == "adam" else found  # Adam leaves the span of the gradients
