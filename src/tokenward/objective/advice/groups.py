"""What is known of clipped, group-relative losses: 1/|y| over a KL, a batch of one prompt, a penalty out of reach."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.objective.advice.statement import DERIVED, Advice, Check, Facts, Linked, linked, on_policy, pulls
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import Whiten
from tokenward.objective.signal.overlong import Overlong
from tokenward.objective.terms import LogRatio, RowTerm, TokenTerm


def _divided_kl(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    push = any("advantage" in term.reads and _divides(term) for term in linked(recipe))
    if not push or not on_policy(recipe) or facts.lengths == "equal":
        return
    for term in linked(recipe):
        if pulls(term) and _divides(term):
            text = (
                "the KL of an answer is divided by |y| like its advantage, so long answers are pulled back less: where "
                "lengths differ the point of rest is another, often at longer answers; take aggregation=token_sum or "
                "token_mean, or kl=reward"
            )
            yield Advice("note", f"{term.name}: sequence_mean", text, DERIVED)


def _divides(term: Linked) -> bool:
    """Whether each answer counts once, whatever its length."""
    averaged = isinstance(term, RowTerm) and isinstance(term.score, LogRatio) and term.score.pool == "mean"
    return averaged or (isinstance(term, TokenTerm) and term.aggregation == "sequence_mean")


def _one_prompt(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    scaled = any(isinstance(step, Whiten) and step.scale == "std" for step in recipe.steps)
    if scaled and facts.prompts == 1 and on_policy(recipe):
        text = (
            "a batch of one prompt has no std but that of its answers: the size of the step depends on the prompt, as "
            "GroupScale's does; take more prompts a batch (--rollout-rows)"
        )
        yield Advice("note", "Whiten of one prompt", text, DERIVED)


def _out_of_reach(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for step in recipe.steps:
        free = step.max_tokens - step.buffer if isinstance(step, Overlong) else 0.0
        if isinstance(step, Overlong) and facts.longest is not None and facts.longest <= free:
            text = (
                f"no answer of at most {facts.longest} tokens pays: the penalty begins behind {free:g}; give "
                "overlong_max the longest completion, and overlong_buffer its last part"
            )
            yield Advice("note", "Overlong out of reach", text, "Yu et al. 2025, §3.4")


CHECKS: tuple[Check, ...] = (_divided_kl, _one_prompt, _out_of_reach)
