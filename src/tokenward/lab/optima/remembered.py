"""Where recipes whose steps remember come to rest: once nothing changes, their history is the population.

Scaled rewards. The rest has a mean m and a std σ of rewards under its own policy: it is the fixed point of the same
recipe without the step, on rewards (r − m)/σ, clipped as the recipe says, and m, σ are its own. So π_ref·exp(r/(σβ))/Z,
σ = std under it, where the KL stands in the reward. Such a σ need not exist: where answers get as good as alike while
the policy sharpens, σ falls with it, and the policy collapses on the best answer. From π_ref on, σ follows its history
slowly: σ̇ = std(rest at σ) − σ; where that ends is the prediction.

An adaptive coefficient rests where KL(π‖π_ref) of a response is its target. Both derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.fixed_points import fixed_point
from tokenward.lab.optima.prediction import NONE, Prediction
from tokenward.lab.optima.self_consistent import SMALLEST
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.remembered import AdaptiveKL, ClipReward, RunningScale
from tokenward.objective.signal.rewards import KLPenalty, Outcome

COLLAPSES = "no std of rewards agrees with its own policy: it falls as the policy sharpens, down to the best answer"
_SHAPING = (RunningScale, ClipReward)
Law = Float[Tensor, "X L"]
Moments = list[tuple[Tensor, Tensor]]  # mean and std that each RunningScale holds


def at_rest(recipe: Recipe, world: World, *, guide: Law | None) -> Prediction:
    """`fixed_point`, for recipes with a memory as well."""
    if any(isinstance(step, AdaptiveKL) for step in recipe.steps):
        return _steered(recipe, world, guide)
    if any(isinstance(step, _SHAPING) for step in recipe.steps):
        return _shaped(recipe, world, guide)
    return fixed_point(recipe, world, guide=guide)


def with_coefficient(recipe: Recipe, beta: float) -> Recipe:
    """The recipe with a fixed coefficient in place of one that adapts."""
    steps = tuple(KLPenalty(beta) if isinstance(step, AdaptiveKL) else step for step in recipe.steps)
    return replace(recipe, steps=steps)


def coefficient(kl_at: Callable[[float], float], *, target: float, start: float) -> float | None:
    """The β with KL(β) = target, for a KL that falls in β; None where no β between start/10⁴ and start·10⁴ has it.

    >>> round(coefficient(lambda beta: 1 / beta, target=4.0, start=1.0), 9)
    0.25
    """
    here, gap = math.log(start), kl_at(start) - target
    side, there, other = math.copysign(1.0, gap), here, gap
    while gap * other > 0:  # away from the start, by half again, until the sign changes
        here, gap = there, other
        there += side * math.log(1.5)
        if abs(there - math.log(start)) > 4 * math.log(10):
            return None
        other = kl_at(math.exp(there)) - target
    for _ in range(60):  # Brent's idea in its simplest form: the secant, or the middle where it does not halve the gap
        secant = (here * other - there * gap) / (other - gap) if other != gap else here
        middle = kl_at(math.exp(secant)) - target
        if abs(middle) <= 1e-10 * target:
            return math.exp(secant)
        if abs(middle) > 0.5 * min(abs(gap), abs(other)):
            secant = (here + there) / 2
            middle = kl_at(math.exp(secant)) - target
        if middle * gap > 0:
            here, gap = secant, middle
        else:
            there, other = secant, middle
    return math.exp((here + there) / 2)


def kl_of(law: Law, world: World) -> float:
    """KL(π‖π_ref) of a response in nats, the mean over prompts."""
    return float((world.weight[:, None] * (torch.xlogy(law, law) - torch.xlogy(law, world.ref))).sum())


def _steered(recipe: Recipe, world: World, guide: Law | None) -> Prediction:
    step = next(step for step in recipe.steps if isinstance(step, AdaptiveKL))

    def law_at(beta: float) -> Prediction:
        return at_rest(with_coefficient(recipe, beta), world, guide=guide)

    def kl_at(beta: float) -> float:
        law = law_at(beta).law
        return math.nan if law is None else kl_of(law, world)

    beta = coefficient(kl_at, target=step.target, start=step.initial_coef)
    law = None if beta is None else law_at(beta).law
    if law is None:
        return Prediction(note=f"no coefficient is known at which the KL of a response is {step.target:g}")
    return Prediction("steered", law)


def _shaped(recipe: Recipe, world: World, guide: Law | None) -> Prediction:
    places = [place for place, step in enumerate(recipe.steps) if isinstance(step, _SHAPING)]
    before = recipe.steps[: max(places) + 1]
    scale = sum(step.coef for step in before if isinstance(step, Outcome))
    if not all(isinstance(step, (Outcome, *_SHAPING)) for step in before[: max(places)]) or not scale > 0:
        return NONE
    first = [place for place, step in enumerate(before) if isinstance(step, Outcome)]
    if max(first) > min(places):
        return NONE
    bare = replace(recipe, steps=tuple(step for step in recipe.steps if not isinstance(step, _SHAPING)))
    shaping = [step for step in before if isinstance(step, (RunningScale, ClipReward))]

    def rest(held: Moments | None) -> tuple[Prediction, Moments]:
        """Where the bare recipe rests on rewards shaped with these moments, and the moments there."""
        reward, _ = _shape(shaping, scale * world.reward, world, world.ref, held)
        found = fixed_point(bare, _rewarded(world, reward / scale), guide=guide)
        return found, [] if found.law is None else _shape(shaping, scale * world.reward, world, found.law, held)[1]

    _, held = _shape(shaping, scale * world.reward, world, world.ref, None)
    smallest = SMALLEST * scale * float(world.reward.max() - world.reward.min())
    for _ in range(2000):
        found, now = rest(held)
        if found.law is None:
            return replace(NONE, note=found.note)
        gap = max((float(abs(b - a)) for old, new in zip(held, now, strict=True) for a, b in zip(old, new)), default=0)
        if gap <= 1e-14:
            return Prediction("scaled" if held else "clipped", found.law)
        held = [(m + 0.3 * (n - m), s + 0.3 * (t - s)) for (m, s), (n, t) in zip(held, now, strict=True)]
        if any(float(std) < smallest for _, std in held):
            return Prediction(note=COLLAPSES)
    return NONE


def _shape(
    steps: list[RunningScale | ClipReward], reward: Law, world: World, law: Law, held: Moments | None
) -> tuple[Law, Moments]:
    """Rewards of the leaves after the steps, with the moments held (None: those under the law), and those under it."""
    weight, found = world.weight[:, None] * law, []
    for step in steps:
        if isinstance(step, ClipReward):
            reward = reward.clamp(-step.limit, step.limit)
            continue
        mean = (weight * reward).sum()
        found.append((mean, (weight * (reward - mean) ** 2).sum().sqrt()))
        mean, std = found[-1] if held is None else held[len(found) - 1]
        reward = (reward - mean * (step.center == "mean")) / (std if float(std) > 0 else 1.0)
    return reward, found


def _rewarded(world: World, reward: Law) -> World:
    prompts = (replace(prompt, reward=own) for prompt, own in zip(world.prompts, reward, strict=True))
    return replace(world, prompts=tuple(prompts))
