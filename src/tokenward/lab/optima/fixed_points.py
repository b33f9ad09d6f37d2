"""Closed forms for recipes on samples of the current policy, read off their steps and terms.

At a fixed point the expected update of every state vanishes. With the KL in the reward that is π_ref·exp(R/β_kl)/Z, R
all other rewards; with a per-token KL in the loss it is the myopic policy (exact.myopic), and where the advantage is
divided by its own standard deviation, that at a temperature of its own (self_consistent.py). k3 in the loss has a
closed form for single tokens, none on trees. In groups of finite size a leave-one-out baseline changes nothing, and a
division by the group's std leaves no closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.prediction import NONE, Prediction, boltzmann
from tokenward.lab.optima.self_consistent import k3_bandit, self_consistent
from tokenward.lab.solving.reading import is_one_step, moving, scales, vanishes
from tokenward.lab.worlds.world import World
from tokenward.objective.advantages import GAE, GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.divergences import K2, K3
from tokenward.objective.groups import BoltzmannWeight
from tokenward.objective.links import Clipped, Identity, Mirror, ScoreFunction, Square
from tokenward.objective.recipe import Recipe
from tokenward.objective.rewards import Guide, KLPenalty, Outcome
from tokenward.objective.targets import Advantage, AdvantageGap
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, Statistic, Term, TokenTerm

ESTIMATORS = (ReturnToGo, SequenceReturn, GAE)
SCALES = (GroupBaseline, GroupScale, Whiten)
COLLAPSE = "no self-consistent temperature found: the policy collapses on the best answer as groups grow without bound"
UNDECIDED = "at rest the policy is myopic at temperature β·std; whether the flow from π_ref comes to rest is not known"


def fixed_point(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """The closed form of the policy where a recipe on its own samples comes to rest, or of its one proximal step."""
    pull = [term for term in moving(recipe) if "advantage" not in term.reads]
    push = [term for term in moving(recipe) if "advantage" in term.reads]
    if len(recipe.terms) == 1 and not recipe.steps:
        return _weighted(recipe.terms[0], world)
    if len(push) != 1 or len(pull) > 1 or not _plain_steps(recipe):
        return NONE
    step = _Push.of(push[0])
    if step is None or not _unbiased(recipe, world) or _alone(recipe, world):
        return NONE
    if (pull or is_one_step(recipe)) and step.unit in ("row", "pair") and not _whole(recipe, world):
        return NONE
    if is_one_step(recipe):
        paired = step.unit == "pair" and _is_finite(world) and any(isinstance(s, GroupBaseline) for s in recipe.steps)
        moved = scales(recipe) or paired or _feels_size(recipe, world)
        return NONE if moved else _one_step(recipe, step, world, guide)
    uneven = step.unit == "sequence_mean" and world.tree.ragged
    if pull:
        return NONE if uneven or _feels_size(recipe, world) else _pulled(recipe, step, pull[0], world, guide)
    # 1/|y| depends on tokens not yet written, unless the whole row has one advantage, which is 0 at π^τ
    if uneven and not (vanishes(recipe) and not isinstance(step.link, Mirror)):
        return NONE
    divided = any(isinstance(part, GroupScale) for part in recipe.steps)
    if divided and not vanishes(recipe) and _is_finite(world):
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


def _whole(recipe: Recipe, world: World) -> bool:
    """Whether the first token's advantage is the return of the whole response; with GAE's λ < 1 later rewards fade."""
    return world.tree.horizon == 1 or all(step.lam == 1 for step in recipe.steps if isinstance(step, GAE))


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
    scores = sum(isinstance(step, Outcome) for step in recipe.steps)
    if not guides:
        return boltzmann(world, beta=beta / scores) if scores else NONE
    total = _totals(recipe, world, guide)
    if total is None or guide is None:
        return NONE
    if not scores and len(guides) == 1 and guides[0].clip is None and math.isclose(guides[0].coef, beta):
        return Prediction("guide", guide)
    return Prediction("extrapolated", exact.tilted(world.ref, world.tree.leaf_sum(total) / beta))


def _weighted(term: Term, world: World) -> Prediction:
    """π^β for −w log π with w ∝ π^β/π: the gradient of KL(π^β‖π).

    Weights normalized in a finite group are biased, but at π^β they are all 1. In a group of one they always are.
    """
    alone = any(prompt.group == 1 for prompt in world.prompts)
    if alone or not isinstance(term, RowTerm) or not isinstance(term.target, BoltzmannWeight):
        return NONE
    likelihood = term.score == LogRatio() and isinstance(term.link, ScoreFunction) and term.offset is None
    return boltzmann(world, beta=term.target.beta) if likelihood and term.target.drawn == "old_logp" else NONE


def _alone(recipe: Recipe, world: World) -> bool:
    """Whether a baseline or a division leaves no advantage at all, as in groups of one."""
    shaped = any(isinstance(step, (GroupBaseline, GroupScale)) for step in recipe.steps)
    return shaped and any(prompt.group == 1 for prompt in world.prompts)


def _is_finite(world: World) -> bool:
    return any(prompt.group is not None for prompt in world.prompts)


def _feels_size(recipe: Recipe, world: World) -> bool:
    """Whether the expected advantage depends on the size of groups in this world, but for a number of the prompt."""
    if not _is_finite(world):
        return False
    baselines = [step for step in recipe.steps if isinstance(step, GroupBaseline)]
    divided = scales(recipe)
    return (
        any(isinstance(step, GroupScale) for step in divided)
        or any(step.kind == "mean" for step in baselines)
        or bool(baselines and divided)
    )


def _pulled(recipe: Recipe, step: _Push, pull: Term, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """The fixed point of a KL in the loss, at the temperature that coefficients, units and divisions make."""
    if any(isinstance(part, KLPenalty) for part in recipe.steps) or not isinstance(pull, TokenTerm):
        return NONE
    score, tree = pull.score, world.tree
    ratio = isinstance(score, LogRatio) and score.anchor == "ref_logp"
    whole = isinstance(pull.link, Identity) and score == Statistic("kl_ref")
    third = isinstance(pull.link, K3) and score == LogRatio("ref_logp")
    reward = _totals(recipe, world, guide)
    if not (whole or third or (ratio and isinstance(pull.link, K2))) or reward is None or step.unit == "pair":
        return NONE
    beta = pull.coef * (score.beta**2 if isinstance(score, LogRatio) else 1.0) / step.slope
    same = _unit(pull.aggregation) == _unit(step.unit) or tree.horizon == 1
    ref, divided = tree.conditional(world.ref), scales(recipe)
    if not same:
        if third or divided or (pull.aggregation, step.unit) != ("token_mean", "row"):
            return NONE
        return Prediction("myopic", exact.myopic_per_token(tree, ref, reward, beta=beta, weight=world.weight))
    if third and tree.horizon > 1:
        return NONE

    def law_at(temperature: Float[Tensor, " X"]) -> Float[Tensor, "X L"]:
        if third:
            return k3_bandit(world.ref, tree.leaf_sum(reward), temperature)
        return exact.myopic(tree, ref, reward / temperature[:, None, None], beta=1.0)

    if not divided:
        return Prediction("k3" if third else "myopic", law_at(torch.full_like(world.weight, beta)))
    if len(divided) > 1 or divided[0] != recipe.steps[-1]:
        return NONE
    if tree.horizon > 1:
        return Prediction(note=UNDECIDED)
    law = self_consistent(recipe, world, law_at, reward, beta=beta)
    name = "k3" if third else "self_consistent"
    return Prediction(note=COLLAPSE) if law is None else Prediction(name, law)


def _unit(aggregation: str) -> str:
    return "row" if aggregation == "token_sum" else aggregation


def _one_step(recipe: Recipe, step: _Push, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """π_ref·exp(η R)/Z: a proximal step from π_ref on whole rows, or on single tokens where a row has but one."""
    if step.eta is None or (step.unit not in ("row", "pair") and world.tree.horizon > 1):
        return NONE
    return _regularized(recipe, 1 / step.eta, world, guide)
