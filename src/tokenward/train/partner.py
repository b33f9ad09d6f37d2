"""Two models in one run: which recipes and files can train them together."""

from __future__ import annotations

from tokenward.data.dataset import Dataset
from tokenward.data.steps import ACTORS
from tokenward.data.tokenize import StepPair
from tokenward.errors import InputError
from tokenward.objective.divergences import DivergenceRatio
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import LogRatio, PairTerm
from tokenward.objective.updates import ConstrainedStep
from tokenward.train.config import RunConfig


def without_partner(recipe: Recipe, config: RunConfig) -> list[str]:
    """What cannot be done with two models, one line each; none where no partner is given."""
    if config.partner is None:
        return []
    wrong = [] if _pools(recipe) else [f"partner = {config.partner}: {_refusal(recipe)}"]
    if "cached" in (config.ref, config.partner_ref):
        wrong.append("ref = cached holds the log-probs of one model: with a partner, leave ref and partner_ref out")
    if config.partner_ref == "adapter" and not config.lora_rank:
        wrong.append("partner_ref = adapter asks for the partner with its adapters off: give --lora-rank")
    frozen = {"both": None, "model": config.partner_ref, "partner": config.ref}[config.learns]
    if frozen in ("adapter", "copy"):
        wrong.append(
            f"learns = {config.learns}: the other model stays as it is, and is its own reference: leave it out"
        )
    return wrong


def check_steps(data: Dataset, recipe: Recipe, config: RunConfig) -> None:
    """Refuse a file of pipelines that the recipe cannot judge as units, or whose models the settings do not name."""
    pairs = [example for example in data.examples if isinstance(example, StepPair)]
    seen = {step.actor for pair in pairs for step in (*pair.chosen, *pair.rejected)}
    wrong = [] if not pairs or _pools(recipe) else [f"{data.source} holds steps of a pipeline: {_refusal(recipe)}"]
    if 1 in seen and config.partner is None:
        wrong.append(f"{data.source} has steps of the actor {ACTORS[1]}: give the model that wrote them with --partner")
    if config.partner is not None and 1 not in seen:
        wrong.append(
            f"partner = {config.partner} has no step in {data.source}: give chosen_steps and rejected_steps in which "
            f"the actor is {ACTORS[1]}, or leave partner out"
        )
    if config.learns == "model" and pairs and 0 not in seen:
        wrong.append(f"learns = model, and {data.source} has no step of the actor {ACTORS[0]}")
    if wrong:
        raise InputError("\n".join(wrong))


def _pools(recipe: Recipe) -> bool:
    """Whether the loss reads nothing of a unit but its pooled log-ratio."""
    scores = [term.score for term in recipe.terms if isinstance(term, PairTerm)]
    pooled = len(scores) == len(recipe.terms) and all(isinstance(score, LogRatio | DivergenceRatio) for score in scores)
    return pooled and not recipe.steps and not isinstance(recipe.update, ConstrainedStep)


def _refusal(recipe: Recipe) -> str:
    return (
        f"{recipe.name} is no loss on pairs of log-ratios alone, and others do not add up over models: "
        "take dpo, ipo, cdpo, simpo or another recipe of pairs"
    )
