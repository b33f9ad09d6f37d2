"""The first updates of a run with a critic, in which only the critic learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import final

from torch import nn

from tokenward.models.roles import Roles
from tokenward.objective.fields import POLICY_FIELDS
from tokenward.objective.recipe import Recipe
from tokenward.objective.updates import Gradient
from tokenward.train.config import RunConfig
from tokenward.train.update import Learner, Outcome, Piece


def alone(recipe: Recipe) -> Recipe | None:
    """The recipe with the terms that train a critic and nothing else; None where it has none."""
    terms = tuple(term for term in recipe.terms if "value" in term.needs and not term.needs & POLICY_FIELDS)
    return replace(recipe, terms=terms, update=Gradient()) if terms else None


@final
class CriticFirst:
    """Updates on the value terms: an own critic moves with its trunk, a shared one by its head; the policy stays."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def step(self, piece: Piece) -> Outcome:
        """One update of the critic; `critic/warmup` = 1 marks it among the others."""
        with policy_held(self.learner.roles):
            outcome = self.learner.step(piece)
        return replace(outcome, values={**outcome.values, "critic/warmup": 1.0})


@contextmanager
def policy_held(roles: Roles) -> Iterator[None]:
    """The policy's weights take no gradient, but for its value head."""
    head = {id(p) for p in (roles.policy.value_head or nn.Identity()).parameters()}
    held = [p for p in roles.policy.parameters() if p.requires_grad and id(p) not in head]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def nothing_else(config: RunConfig, *, total: int | None) -> list[str]:
    """One line where every update of a run (None: not known yet) would be the critic's."""
    if total is None or not config.critic_warmup or config.critic_warmup < total:
        return []
    return [
        f"critic_warmup = {config.critic_warmup} must be below the run's updates ({total}): in the first the critic "
        "learns alone"
    ]


def without_critic(recipe: Recipe, config: RunConfig) -> list[str]:
    """One line where critic updates are asked for and no term trains the critic alone, or nothing else is trained."""
    if not config.critic_warmup or alone(recipe) is not None:
        return nothing_else(config, total=config.updates)
    return [f"critic_warmup = {config.critic_warmup}: no term of {recipe.name} trains a critic alone: leave it out"]
