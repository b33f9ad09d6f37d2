"""What is known of rewards that are scaled, clipped, or charged with a coefficient that adapts."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.objective.advice.statement import DERIVED, Advice, Check, Facts, linked, part, pulls
from tokenward.objective.links import Ratio
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.remembered import AdaptiveKL, AdvantageClip, ClipReward, RunningScale
from tokenward.objective.signal.rewards import KLPenalty
from tokenward.objective.updates import Gradient

SECRETS = "Zheng et al. 2023, §5"


def _scaled(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    """Only where the pull is not divided along."""
    places = [place for place, step in enumerate(recipe.steps) if isinstance(step, RunningScale)]
    later = any(isinstance(step, (KLPenalty, AdaptiveKL)) for step in recipe.steps[min(places, default=0) :])
    if places and (later or any(pulls(term) for term in linked(recipe))):
        text = (
            "rewards are divided by their running std σ and the KL is not: the optimum is π_ref·exp(r/(σβ))/Z, σ the "
            "std under itself; σ falls as the policy sharpens (reward/running_std), and for a small β nothing may stop "
            "it before the best answer; take reward_scale=none for π_ref·exp(r/β)/Z"
        )
        yield Advice("note", "RunningScale before the KL", text, DERIVED)


def _clipped(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    scaled = False
    for step in recipe.steps:
        scaled |= isinstance(step, RunningScale)
        if isinstance(step, ClipReward):
            unit = " std" if scaled else ""
            text = (
                f"answers whose reward is beyond ±{step.limit:g}{unit} become alike (reward/clipped_share): the "
                "optimum is that of the clipped reward; leave reward_clip out for that of the reward"
            )
            yield Advice("note", "ClipReward", text, DERIVED)


def _both(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    kinds = {type(step) for step in recipe.steps}
    if AdvantageClip in kinds:
        text = (
            "clipped advantages do not average to 0 where advantages do: the rest may be another, unless all are 0 "
            "there; leave advantage_clip out"
        )
        yield Advice("note", "AdvantageClip", text, DERIVED)
    if AdvantageClip in kinds and ClipReward in kinds:
        text = "clipping rewards and advantages at once is what the paper warns of; leave advantage_clip out"
        yield Advice("warning", "AdvantageClip with ClipReward", text, SECRETS)


def _steered(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for step in recipe.steps:
        if isinstance(step, AdaptiveKL):
            text = (
                f"the coefficient (kl/coef) is moved until the KL of a response is {step.target:g} nats: the optimum "
                "is π_ref·exp(r/β)/Z at the β where that holds, wherever it starts; leave kl_target out for a fixed β"
            )
            yield Advice("note", "AdaptiveKL", text, DERIVED)


def _free(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        held = "kl_old" in recipe.needs or not isinstance(recipe.update, Gradient)
        plain = isinstance(term.link, Ratio) and not held
        if plain and (facts.updates_per_batch or 1) > 1:
            text = (
                f"nothing holds the ratio (policy/ratio_max) over {facts.updates_per_batch} updates on a batch but "
                "their size; take a clip, or a smaller learning rate"
            )
            yield Advice("note", part(term), text, DERIVED)


CHECKS: tuple[Check, ...] = (_scaled, _clipped, _both, _steered, _free)
