"""What is known of rewards that are scaled, clipped, or charged with a coefficient that adapts."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.objective.links import Ratio
from tokenward.objective.recipe import Recipe
from tokenward.objective.remembered import AdaptiveKL, AdvantageClip, ClipReward, RunningScale
from tokenward.objective.rewards import KLPenalty
from tokenward.objective.statement import DERIVED, Advice, Check, Facts, linked, part, pulls
from tokenward.objective.updates import Gradient

SECRETS = "Zheng et al. 2023, §5"


def _scaled(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    """Only where the pull is not divided along."""
    places = [place for place, step in enumerate(recipe.steps) if isinstance(step, RunningScale)]
    later = any(isinstance(step, (KLPenalty, AdaptiveKL)) for step in recipe.steps[min(places, default=0) :])
    if places and (later or any(pulls(term) for term in linked(recipe))):
        text = (
            "rewards are divided by their running std σ and the KL is not: the temperature is β·σ in units of the "
            "score, π_ref·exp(r/(σβ))/Z, the same for every unit of rewards; σ falls as the policy sharpens, and for a "
            "small β there may be no rest before the best answer: watch reward/running_std and kl"
        )
        yield Advice("note", "RunningScale before the KL", text, DERIVED)


def _clipped(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    scaled = False
    for step in recipe.steps:
        scaled |= isinstance(step, RunningScale)
        if isinstance(step, ClipReward):
            unit = " std" if scaled else ""
            text = (
                f"answers whose reward is beyond ±{step.limit:g}{unit} become alike: the optimum is that of the clipped "
                "reward; watch reward/clipped_share"
            )
            yield Advice("note", "ClipReward", text, DERIVED)


def _both(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    kinds = {type(step) for step in recipe.steps}
    if AdvantageClip in kinds:
        text = "a clipped advantage is no longer one on average: only where all advantages are 0 is the rest the same"
        yield Advice("note", "AdvantageClip", text, DERIVED)
    if AdvantageClip in kinds and ClipReward in kinds:
        text = "clipping rewards and advantages at once is what the paper warns of: leave advantage_clip out"
        yield Advice("warning", "AdvantageClip with ClipReward", text, SECRETS)


def _steered(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for step in recipe.steps:
        if isinstance(step, AdaptiveKL):
            text = (
                f"the coefficient is moved until the KL of a response is {step.target:g} nats: the optimum is "
                "π_ref·exp(r/β)/Z at the β where that holds, whatever it starts from; watch kl/coef"
            )
            yield Advice("note", "AdaptiveKL", text, DERIVED)


def _free(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        plain = isinstance(term.link, Ratio) and isinstance(recipe.update, Gradient)
        if plain and (facts.updates_per_batch or 1) > 1:
            text = (
                f"nothing bounds the ratio over {facts.updates_per_batch} updates on a batch: watch policy/ratio_max "
                "and policy/kl_old, and take a small learning rate or a clip"
            )
            yield Advice("note", part(term), text, DERIVED)


CHECKS: tuple[Check, ...] = (_scaled, _clipped, _both, _steered, _free)
