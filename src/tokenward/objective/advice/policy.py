"""What is known of losses on the policy's own answers: where a KL stands, how advantages are scaled, what clips."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tokenward.objective.advice.statement import DERIVED, Advice, Check, Facts, anchored, linked, on_policy, part, pulls
from tokenward.objective.capped import Capped
from tokenward.objective.divergences import K2, K3
from tokenward.objective.links import Clipped, Difference, Identity, Ratio
from tokenward.objective.recipe import Recipe
from tokenward.objective.sequence_ratio import SequenceRatio
from tokenward.objective.signal.advantages import GAE, GroupBaseline, GroupScale, ReturnToGo, Whiten
from tokenward.objective.signal.placement import TakenBack
from tokenward.objective.signal.rewards import Guide, KLPenalty
from tokenward.objective.terms import LogRatio, PairTerm, Statistic, TokenTerm


def _k1(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        plain = anchored(term) and isinstance(term.link, (Identity, Difference)) and not isinstance(term, PairTerm)
        if plain and on_policy(recipe):
            text = (
                "log π/π_ref as a loss (k1) has no expected gradient on the policy's own answers, and from the second "
                "update on a batch it pushes away from the policy that sampled; put the KL in the reward (KLPenalty)"
            )
            yield Advice("error", part(term), text, DERIVED)


def _token_kl(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        squared = anchored(term) and isinstance(term.link, K2)
        exact = isinstance(term.link, Identity) and term.score == Statistic("kl_ref")
        if on_policy(recipe) and isinstance(term, TokenTerm) and (squared or exact):
            text = (
                "a KL per token in the loss does not see the KL of later tokens: on sequences it rests at the myopic "
                "policy π_ref·exp(Q/β), Q without any KL, not at π_ref·exp(r/β)/Z; take kl=reward"
            )
            yield Advice("warning", part(term), text, DERIVED)


def _k3(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if on_policy(recipe) and anchored(term) and isinstance(term.link, K3):
            text = (
                "k3 as a loss has the gradient of KL(π_ref‖π): for single tokens it rests at π_ref·β/(λ − A), on "
                "sequences no closed form is known; take kl=reward for π_ref·exp(r/β)/Z"
            )
            yield Advice("warning", part(term), text, DERIVED)


def _older_answers(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        older = on_policy(recipe) and (facts.updates_per_batch or 1) > 1
        if older and anchored(term) and isinstance(term.link, (K2, K3)):
            text = (
                f"after the first of {facts.updates_per_batch} updates on a batch its answers are an older policy's, "
                "and this KL has no importance ratio: its gradient is biased; take kl=reward, or one update a batch"
            )
            yield Advice("warning", f"{part(term)} on older answers", text, DERIVED)


def _scale(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    """Only where something that is not divided along pulls to the reference."""
    pushed = any("advantage" in term.reads for term in linked(recipe))
    if not pushed or not any(pulls(term) for term in linked(recipe)):
        return
    for step in recipe.steps:
        if isinstance(step, GroupScale):
            bound = f"; with {facts.group} answers |A| ≤ {_most(step, facts.group):.3g}" if facts.group else ""
            text = (
                "advantages are divided by the group's std and the KL is not: as G → ∞ the temperature is β·std of "
                f"each prompt, and a small β can collapse onto the best answer{bound}; leave it out, or take kl=reward"
            )
            yield Advice("note", "GroupScale", text, DERIVED)
        if isinstance(step, Whiten) and step.scale == "std":
            text = (
                "advantages are divided by the batch's std and the KL is not: the temperature is β·std; take "
                "kl=reward, which is divided along"
            )
            yield Advice("note", "Whiten", text, DERIVED)


def _most(step: GroupScale, group: int) -> float:
    """The largest |A| of a group: one answer apart from all others."""
    return math.sqrt(group - 1) if step.std == "population" else (group - 1) / math.sqrt(group)


def _uneven(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    ahead = any(isinstance(step, (ReturnToGo, GAE)) for step in recipe.steps)
    if facts.lengths == "equal" or not ahead or not any(isinstance(step, KLPenalty) for step in recipe.steps):
        return
    for term in linked(recipe):
        if isinstance(term, TokenTerm) and term.aggregation == "sequence_mean" and "advantage" in term.reads:
            text = (
                "1/|y| depends on tokens not yet written: with returns to go, where lengths differ, the fixed point is "
                "not π_ref·exp(r/β)/Z; take aggregation=token_mean or token_sum"
            )
            yield Advice("warning", f"{term.name}: sequence_mean", text, DERIVED)


def _clip(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    for term in linked(recipe):
        if not isinstance(term.link, (Clipped, Ratio, Capped)):
            continue
        old = isinstance(term.score, SequenceRatio)
        anchor = "old_logp" if old else term.score.anchor if isinstance(term.score, LogRatio) else None
        if anchor != "old_logp" or not on_policy(recipe):
            text = (
                "the ratio is to the policy that wrote the answers; take LogRatio('old_logp') on a stream of rollouts"
            )
            yield Advice("error", f"{part(term)} without its anchor", text, "Schulman et al. 2017, Eq. 7")
        elif facts.sampler_is_anchor is False:
            text = (
                "the answers are drawn from a kept set and the ratio divides by the law of all tokens: the mean of "
                "ϱA is not the policy's; sample without top_k and top_p"
            )
            yield Advice("warning", f"{part(term)} of another law", text, "Schulman et al. 2017, Eq. 7")


def _single(recipe: Recipe, facts: Facts) -> Iterator[Advice]:
    group = facts.group or recipe.streams[0].group
    wide = [type(step).__name__ for step in recipe.steps if isinstance(step, (GroupBaseline, GroupScale))]
    if all(stream.kind != "rollouts" for stream in recipe.streams[1:]):  # else it may read answers of another law
        wide += [term.name for term in recipe.terms if term.scope == "group"]
    if wide and group < 2 and on_policy(recipe):
        text = "one answer to a prompt has none to be compared with: it teaches nothing; give --group 2 or more"
        yield Advice("error", " and ".join(wide), text, DERIVED)


def _reward(recipe: Recipe, _: Facts) -> Iterator[Advice]:
    for step in recipe.steps:
        if isinstance(step, Guide) and step.clip is not None and not isinstance(step.placement, TakenBack):
            text = (
                "clipped, the guide's token rewards do not sum to its log-ratio of the answer, and the optimum moves; "
                "leave guide_clip out"
            )
            yield Advice("note", "Guide with clip", text, DERIVED)
        if isinstance(step, (GAE, ReturnToGo)) and step.gamma != 1:
            text = (
                f"γ = {step.gamma:g} discounts the score and the KL of later tokens: on sequences the fixed point is "
                "not π_ref·exp(r/β)/Z; take gamma=1"
            )
            yield Advice("note", f"{type(step).__name__} with γ ≠ 1", text, DERIVED)


CHECKS: tuple[Check, ...] = (_k1, _token_kl, _k3, _older_answers, _scale, _uneven, _clip, _single, _reward)
