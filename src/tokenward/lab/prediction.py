"""A prediction: the closed form that a recipe should reach on a world, if one is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from tokenward.lab import exact
from tokenward.lab.world import World


@final
@dataclass(frozen=True)
class Prediction:
    """A closed form: its name, its law, whether it is π^τ by construction; a reward model's scores instead of a law.

    `shares` speaks of the method, not of the numbers: a guide that happens to be π^τ is not shared.
    """

    target: str | None = None
    law: Float[Tensor, "X L"] | None = None
    shares: bool = False
    score: Float[Tensor, "X L"] | None = None


NONE = Prediction()


def boltzmann(world: World, *, beta: float, temperature: float = 1.0) -> Prediction:
    """π_ref·exp(r/(β T))/Z; π^τ if β T = τ."""
    law = exact.boltzmann(world.ref, world.reward, tau=beta * temperature)
    return Prediction("boltzmann", law, shares=math.isclose(beta * temperature, world.tau, rel_tol=1e-12))
