"""What is known of losses on given answers: normalizers, lengths, labels."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.objective.advice.statement import (
    DERIVED,
    Advice,
    Check,
    Facts,
    Linked,
    anchored,
    linked,
    on_policy,
    part,
)
from tokenward.objective.games import Judged
from tokenward.objective.groups import MeanReward, MonteCarloNormalizer
from tokenward.objective.links import BernoulliKL, Hinge, Logistic, Prospect, Square, SquashedSquare
from tokenward.objective.recipe import Recipe
from tokenward.objective.targets import Label, Majority, Score, ScorePreference, Won
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm


def _no_normalizer(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if not isinstance(term, RowTerm) or term.offset is not None or not anchored(term):
            continue
        plain = isinstance(term.link, Square) and not _any_number(recipe)
        if isinstance(term.target, (Score, Label)) and (plain or isinstance(term.link, (SquashedSquare, Logistic))):
            text = (
                "nothing stands for β log Z, so the optimum is not π_ref·exp(r/β)/Z; learn it (ra, bco), or compare "
                "two answers of a prompt (rda, dpo)"
            )
            yield Advice("warning", f"{part(term)} without offset", text, DERIVED)


def _any_number(recipe: Recipe) -> bool:
    """On answers of the policy, or of the optimum, any number of the prompt leaves the optimum of a square as it is."""
    return on_policy(recipe) or any(stream.sampler in ("policy-through", "target") for stream in recipe.streams)


def _mean_reward(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if isinstance(term, RowTerm) and isinstance(term.offset, MeanReward) and not _any_number(recipe):
            text = (
                "the mean reward is not β log Z: on answers of π_ref, ρ = π/π_ref solves β log ρ + λρ = r − mean r; "
                "take normalizer=learned, or answers of the policy"
            )
            yield Advice("warning", f"{term.name}: MeanReward", text, DERIVED)


def _sampled_normalizer(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if isinstance(term, RowTerm) and isinstance(term.offset, MonteCarloNormalizer) and not on_policy(recipe):
            k = f"k = {facts.group}" if facts.group else "k"
            text = (
                f"β log Z from {k} answers of π_ref is too low by about β Var(exp(r/β))/(2kZ²): most where the best "
                "answers are rare under π_ref and β is small; take more answers, or normalizer=learned"
            )
            yield Advice("note", f"{term.name}: MonteCarloNormalizer", text, DERIVED)


def _averaged(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if not isinstance(term, PairTerm) or not isinstance(term.score, LogRatio) or term.score.pool != "mean":
            continue
        if facts.lengths != "equal":
            law, plain = ("π_ref·exp", "π_ref·exp(u/β)/Z") if term.score.anchor else ("exp", "exp(u/β)/Z")
            text = (
                f"averaged over tokens, log-ratios put the length into the exponent of the optimum, {law}(|y|(u+c)/β) "
                f"for a score u: another one where lengths differ; take the sum for {plain}"
            )
            yield Advice("note", f"{term.name}: pool mean", text, DERIVED)


def _hard_labels(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if not isinstance(term, PairTerm) or not isinstance(term.link, (Logistic, BernoulliKL)):
            continue
        target = term.target
        decided = isinstance(target, Majority) or (
            isinstance(target, (ScorePreference, Judged)) and target.temperature == 0
        )
        if (decided or facts.labels == "hard") and not _smoothing(term):
            text = (
                "with labels of 0 and 1 nothing bounds the margin of an answer that wins every comparison, whatever β: "
                "it grows as long as training goes on; take ipo, smooth the labels (cdpo), or stop by held-out accuracy"
            )
            yield Advice("warning" if decided else "note", f"{part(term)} on hard labels", text, DERIVED)


def _smoothed_labels(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        smoothing = _smoothing(term)
        if smoothing and isinstance(term.link, (Logistic, BernoulliKL, SquashedSquare)):
            text = (
                f"labels smoothed by {smoothing:g} ask for margins below log((1−ε)/ε)/β: the optimum is not "
                "π_ref·exp(r/β)/Z, and among three answers or more it depends on which are compared; take dpo for "
                "labels that are draws"
            )
            yield Advice("note", f"{part(term)} on smoothed labels", text, DERIVED)


def _smoothing(term: Linked) -> float:
    return term.target.smoothing if isinstance(term.target, (Won, ScorePreference)) else 0.0


def _hinge(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if isinstance(term.link, Hinge):
            text = "a hinge learns which answer wins more often, not how often; take a logistic or a square link"
            yield Advice("note", part(term), text, DERIVED)


def _prospect(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if isinstance(term.link, Prospect):
            text = (
                "bounded in the log-ratio: an answer that is undesirable too often, (1−q)λ_U > qλ_D, is driven to "
                "probability 0, whatever β; take bco for π_ref·(q/(1−q))^(1/β)/Z"
            )
            yield Advice("note", part(term), text, DERIVED)


def _through(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        through = any(stream.sampler == "policy-through" for stream in recipe.streams)
        if through and isinstance(term, PairTerm) and isinstance(term.link, Logistic):
            text = (
                "with the gradient through the sampling, cross-entropy pays for pairs that are easy to rank: its "
                "minimum is not π_ref·exp(r/β)/Z; take link=kl, or sampler=policy"
            )
            yield Advice("warning", f"{part(term)} through the sampler", text, DERIVED)


CHECKS: tuple[Check, ...] = (
    _no_normalizer, _mean_reward, _sampled_normalizer, _averaged, _hard_labels, _smoothed_labels, _hinge, _prospect,
    _through,
)  # fmt: skip
