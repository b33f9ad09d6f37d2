"""What is known of bounds on one update: a KL to the old policy in the loss, and constrained steps."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.objective.advice.statement import DERIVED, Advice, Check, Facts, on_policy, part
from tokenward.objective.links import Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import PairTerm, RowTerm, Statistic, TokenTerm
from tokenward.objective.updates import ConstrainedStep


def _first_update(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in recipe.terms:
        if not isinstance(term, (TokenTerm, RowTerm, PairTerm)) or facts.updates_per_batch != 1:
            continue
        if isinstance(term.link, Mirror) or term.score == Statistic("kl_old"):
            text = (
                "KL(π‖π_old) has no expected gradient where π = π_old: with one update a batch nothing but the "
                "learning rate bounds the step; take several (--epochs 5)"
            )
            yield Advice("note", f"{part(term)} with one update a batch", text, "Tomar et al. 2020")


def _constant_radius(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    if isinstance(recipe.update, ConstrainedStep) and on_policy(recipe):
        text = (
            f"a step is as long as max_kl = {recipe.update.max_kl:g} allows, however small the advantages: near its "
            "optimum the policy circles it at a KL of about max_kl per token; take a smaller one toward the end"
        )
        yield Advice("note", "ConstrainedStep", text, DERIVED)


CHECKS: tuple[Check, ...] = (_first_update, _constant_radius)
