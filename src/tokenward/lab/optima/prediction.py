"""A prediction: the closed form that a recipe should reach on a world, if one is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.worlds.world import World


@final
@dataclass(frozen=True)
class Identified:
    """Leaves whose law among themselves the data fix, and that law."""

    leaves: tuple[int, ...]
    law: Float[Tensor, " N"]


@final
@dataclass(frozen=True)
class Prediction:
    """A closed form: its name, its law, whether it is π^τ by construction; a reward model's scores instead of a law.

    `shares` speaks of the method, not of the numbers: a guide that happens to be π^τ is not shared. `identified`: of
    each prompt, the laws within sets of leaves that the data fix where they do not fix the whole · `note`: why there is
    no law.
    """

    target: str | None = None
    law: Float[Tensor, "X L"] | None = None
    shares: bool = False
    score: Float[Tensor, "X L"] | None = None
    identified: tuple[tuple[Identified, ...], ...] | None = None
    note: str | None = None


NONE = Prediction()


def boltzmann(world: World, *, beta: float, temperature: float = 1.0) -> Prediction:
    """π_ref·exp(r/(β T))/Z; π^τ if β T = τ."""
    law = exact.boltzmann(world.ref, world.reward, tau=beta * temperature)
    return Prediction("boltzmann", law, shares=math.isclose(beta * temperature, world.tau, rel_tol=1e-12))


def within_class(prediction: Prediction, world: World) -> Prediction:
    """What is left of a prediction for policies π ∝ π_ref·exp(φ·θ): all of it if they hold its law, else nothing.

    A minimum over all policies, or a point where all forces vanish, is one in a class that contains it. What gradient
    descent selects among many minima changes with the class.
    """
    features = world.features
    if features is None:
        return prediction
    if prediction.identified is not None:
        return NONE
    if prediction.score is not None:
        return prediction if _spanned(features, prediction.score) else NONE
    if prediction.law is None:
        return replace(NONE, note=prediction.note)
    tilt = prediction.law.log() - world.ref.log()
    return prediction if bool(tilt.isfinite().all()) and _spanned(features, tilt) else NONE


def without_law(prediction: Prediction) -> Prediction:
    """Only what the data fix, for an optimizer that leaves the span of the gradients."""
    return prediction if prediction.identified is None else replace(prediction, target=None, law=None, score=None)


def _spanned(features: Float[Tensor, "X L F"], wanted: Float[Tensor, "X L"]) -> bool:
    """Whether wanted = φ·θ + a constant of each prompt, for one θ."""
    rows = (features - features.mean(1, keepdim=True)).flatten(0, 1)
    aim = (wanted - wanted.mean(-1, keepdim=True)).flatten()
    theta = torch.linalg.lstsq(rows, aim[:, None], driver="gelsd").solution
    return float((rows @ theta - aim[:, None]).abs().max()) <= 1e-9 * (1 + float(aim.abs().max()))
