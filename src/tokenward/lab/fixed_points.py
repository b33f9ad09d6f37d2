"""Closed forms for recipes on samples of the current policy, read off their steps and terms.

At a fixed point the expected update of every state vanishes. With the KL in the reward that is π_ref·exp(R/β_kl)/Z, R
all other rewards; with a per-token KL in the loss it is the myopic policy (exact.myopic); k3 has no closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab import exact
from tokenward.lab.prediction import NONE, Prediction, boltzmann
from tokenward.lab.reading import is_one_step, moving
from tokenward.lab.world import World
from tokenward.objective.advantages import GAE, GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.divergences import K2
from tokenward.objective.links import Clipped, Identity, Mirror, ScoreFunction, Square
from tokenward.objective.recipe import Recipe
from tokenward.objective.rewards import Guide, KLPenalty, Outcome
from tokenward.objective.targets import Advantage, AdvantageGap
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, Statistic, Term, TokenTerm

ESTIMATORS = (ReturnToGo, SequenceReturn, GAE)
SCALES = (GroupBaseline, GroupScale, Whiten)


def fixed_point(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """The closed form of the policy where a recipe on its own samples comes to rest, or of its one proximal step."""
    pull = [term for term in moving(recipe) if "advantage" not in term.reads]
    push = [term for term in moving(recipe) if "advantage" in term.reads]
    if len(push) != 1 or len(pull) > 1 or not _plain_steps(recipe):
        return NONE
    step = _Push.of(push[0])
    if step is None or not _unbiased(recipe, world):
        return NONE
    if is_one_step(recipe):
        return _one_step(recipe, step, world, guide)
    uneven = step.unit == "sequence_mean" and world.tree.ragged
    if pull:
        scaled = any(isinstance(part, GroupScale) for part in recipe.steps)  # a temperature of its own for each prompt
        return NONE if uneven or scaled else _myopic(recipe, step, pull[0], world, guide)
    # 1/|y| depends on tokens not yet written, unless the whole row has one advantage, which is 0 at π^τ
    if uneven and not (_vanishes(recipe) and not isinstance(step.link, Mirror)):
        return NONE
    beta = sum(part.coef for part in recipe.steps if isinstance(part, KLPenalty))
    return _regularized(recipe, beta, world, guide) if beta > 0 else NONE


@final
@dataclass(frozen=True)
class _Push:
    """The term that follows the advantage: its link, its unit ("row" or an aggregation), and its slope at π = π_old."""

    link: object
    unit: str
    slope: float
    eta: float | None = None  # of a proximal step

    @staticmethod
    def of(term: Term) -> _Push | None:
        score = getattr(term, "score", None)
        if not isinstance(score, LogRatio) or score.anchor == "ref_logp":
            return None
        anchored = score.anchor == "old_logp"
        if isinstance(term, PairTerm):
            fits = isinstance(term.target, AdvantageGap) and isinstance(term.link, Square) and anchored
            whole = score.pool == "sum" and term.compare == "difference"
            return _Push(term.link, "pair", term.coef, 1 / score.beta) if fits and whole else None
        if not isinstance(term, (RowTerm, TokenTerm)) or not isinstance(term.target, Advantage):
            return None
        if not (isinstance(term.link, ScoreFunction) or (anchored and isinstance(term.link, (Clipped, Mirror)))):
            return None
        eta = term.link.eta if isinstance(term.link, Mirror) else None
        if isinstance(term, TokenTerm):
            return _Push(term.link, term.aggregation, term.coef * score.beta, eta)
        whole = score.pool == "sum" and term.offset is None
        return _Push(term.link, "row", term.coef * score.beta, eta) if whole else None


def _plain_steps(recipe: Recipe) -> bool:
    """Whether every step is known here, with one advantage estimator before all scaling."""
    known = (Outcome, KLPenalty, Guide, *ESTIMATORS, *SCALES)
    makers = [i for i, step in enumerate(recipe.steps) if isinstance(step, ESTIMATORS)]
    after = [i for i, step in enumerate(recipe.steps) if isinstance(step, SCALES)]
    before = [i for i, step in enumerate(recipe.steps) if isinstance(step, (Outcome, KLPenalty, Guide))]
    ordered = len(makers) == 1 and all(i > makers[0] for i in after) and all(i < makers[0] for i in before)
    return ordered and all(isinstance(step, known) for step in recipe.steps)


def _unbiased(recipe: Recipe, world: World) -> bool:
    """Whether E[A_t | state, token] is the undiscounted return to go, up to a number of the state."""
    if world.tree.horizon == 1:
        return True
    for step in recipe.steps:
        if isinstance(step, (ReturnToGo, GAE)) and step.gamma != 1:
            return False
        if isinstance(step, GAE) and step.lam != 1 and any(prompt.critic != "exact" for prompt in world.prompts):
            return False
    return True


def _vanishes(recipe: Recipe) -> bool:
    """Whether the advantage of every row is one number, 0 on all rows where the regularized return is constant."""
    kinds = {type(step) for step in recipe.steps}
    return SequenceReturn in kinds and GroupBaseline in kinds


def _totals(recipe: Recipe, world: World, guide: Float[Tensor, "X L"] | None) -> Float[Tensor, "X S V"] | None:
    """Token rewards other than the KL: the score at each leaf's last token, and the guide's log-ratios."""
    tree = world.tree
    total = torch.zeros(len(world.prompts), tree.states, tree.vocab, dtype=torch.float64)
    for step in recipe.steps:
        if isinstance(step, Outcome):
            total = total + tree.outcome(world.reward)
        if isinstance(step, Guide):
            if guide is None:
                return None
            extra = step.coef * (tree.conditional(guide) - tree.conditional(world.ref))
            total = total + (extra if step.clip is None else extra.clamp(-step.clip, step.clip))
    return total


def _regularized(recipe: Recipe, beta: float, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """π_ref·exp(R/β)/Z; `guide` when that is the guide itself."""
    guides = [step for step in recipe.steps if isinstance(step, Guide)]
    scored = any(isinstance(step, Outcome) for step in recipe.steps)
    if not guides:
        return boltzmann(world, beta=beta) if scored else NONE
    if guide is None:
        return NONE
    if not scored and len(guides) == 1 and guides[0].clip is None and math.isclose(guides[0].coef, beta):
        return Prediction("guide", guide)
    tree = world.tree
    total = torch.zeros_like(world.ref)
    for step in guides:
        ratio = step.coef * (tree.conditional(guide) - tree.conditional(world.ref))
        total = total + tree.leaf_sum(ratio if step.clip is None else ratio.clamp(-step.clip, step.clip))
    reward = world.reward if scored else torch.zeros_like(world.reward)
    return Prediction("extrapolated", exact.extrapolated(world.ref, total, reward=reward, beta=beta))


def _myopic(recipe: Recipe, step: _Push, pull: Term, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """The myopic policy at the temperature that the two terms' coefficients and units make."""
    if any(isinstance(part, KLPenalty) for part in recipe.steps) or not isinstance(pull, TokenTerm):
        return NONE
    score = pull.score
    squared = isinstance(pull.link, K2) and isinstance(score, LogRatio) and score.anchor == "ref_logp"
    whole = isinstance(pull.link, Identity) and score == Statistic("kl_ref")
    reward = _totals(recipe, world, guide)
    if not (squared or whole) or reward is None or step.unit == "pair":
        return NONE
    beta = pull.coef * (score.beta**2 if isinstance(score, LogRatio) else 1.0) / step.slope
    tree = world.tree
    ref = tree.conditional(world.ref)
    unit = {"token_sum": "row"}.get(pull.aggregation, pull.aggregation), {"token_sum": "row"}.get(step.unit, step.unit)
    if unit[0] == unit[1]:
        return Prediction("myopic", exact.myopic(tree, ref, reward, beta=beta))
    if unit == ("token_mean", "row"):
        law = exact.myopic_per_token(tree, ref, reward, beta=beta, weight=world.weight)
        return Prediction("myopic", law)
    return NONE


def _one_step(recipe: Recipe, step: _Push, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """π_ref·exp(η R)/Z: a proximal step from π_ref on whole rows, or on single tokens where a row has but one."""
    if step.eta is None or (step.unit not in ("row", "pair") and world.tree.horizon > 1):
        return NONE
    return _regularized(recipe, 1 / step.eta, world, guide)
