"""Closed forms for recipes on samples of the current policy, read off their steps and terms.

At a fixed point the expected update of every state vanishes. With the KL in the reward that is π_ref·exp(R/β_kl)/Z, R
all other rewards; with a per-token KL in the loss it is the myopic policy (exact.myopic), and where the advantage is
divided by its own standard deviation, that at a temperature of its own (self_consistent.py). k3 in the loss has a
closed form for single tokens, none on trees. In groups of G a leave-one-out baseline changes nothing, the mean of all G
makes a KL in the loss G/(G − 1) times warmer, and a division by the group's std leaves no closed form. Without any pull
there is no interior optimum.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.prediction import NONE, Prediction, boltzmann
from tokenward.lab.optima.push import Push, silent
from tokenward.lab.optima.self_consistent import k3_bandit, self_consistent
from tokenward.lab.solving.reading import is_one_step, moving, near, scales, vanishes
from tokenward.lab.worlds.world import World
from tokenward.objective.divergences import K2, K3
from tokenward.objective.groups import BoltzmannWeight
from tokenward.objective.links import Identity, Mirror, ScoreFunction
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import (
    GAE,
    GroupBaseline,
    GroupScale,
    LastToken,
    ReturnToGo,
    SequenceReturn,
    Whiten,
)
from tokenward.objective.signal.overlong import Overlong
from tokenward.objective.signal.placement import TakenBack
from tokenward.objective.signal.rewards import Guide, KLPenalty, Outcome
from tokenward.objective.terms import LogRatio, RowTerm, Statistic, Term, TokenTerm

ESTIMATORS = (ReturnToGo, SequenceReturn, LastToken, GAE)
SCALES = (GroupBaseline, GroupScale, Whiten)
COLLAPSE = "no self-consistent temperature found: the policy collapses on the best answer as groups grow without bound"
ARGMAX = "arg max r: no interior optimum"
WEIGHED = "π_ref·exp(R/β)/Z is at rest whatever the weights of the rows; whether finite steps end there is not known"
NOTHING_PULLS = "nothing pulls to the reference"
UNDECIDED = "at rest the policy is myopic at temperature β·std; whether the flow from π_ref comes to rest is not known"


def fixed_point(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """The closed form of the policy where a recipe on its own samples comes to rest, or of its one proximal step."""
    pull = [term for term in moving(recipe) if "advantage" not in term.reads and term not in near(recipe)]
    push = [term for term in moving(recipe) if "advantage" in term.reads]
    if len(recipe.terms) == 1 and not recipe.steps:
        return _weighted(recipe.terms[0], world)
    if len(push) != 1 or len(pull) > 1 or not _plain_steps(recipe):
        return NONE
    step = Push.of(push[0])
    if step is None or not _unbiased(recipe, world) or _alone(recipe, world):
        return NONE
    if (pull or is_one_step(recipe)) and step.unit in ("row", "pair") and not _whole(recipe, world):
        return NONE
    if is_one_step(recipe):
        paired = step.unit == "pair" and _is_finite(world) and any(isinstance(s, GroupBaseline) for s in recipe.steps)
        moved = scales(recipe) or paired or _feels_size(recipe, world)
        return NONE if moved else _one_step(recipe, step, world, guide)
    if step.unit == "worst":
        rests = silent(recipe, world) and not pull and any(isinstance(part, KLPenalty) for part in recipe.steps)
        return Prediction(note=WEIGHED) if rests else NONE
    uneven = step.unit == "sequence_mean" and world.tree.ragged
    if pull:
        felt = _feels_size(recipe, world) and not _only_shrinks(recipe)
        return NONE if uneven or felt else _pulled(recipe, step, pull[0], world, guide)
    beta = sum(part.coef for part in recipe.steps if isinstance(part, KLPenalty))
    if not beta:
        return _unpulled(recipe, step, world)
    # 1/|y| depends on tokens not yet written, unless the whole row has one advantage, which is 0 at π^τ
    if uneven and not (vanishes(recipe) and not isinstance(step.link, Mirror)):
        return NONE
    divided = any(isinstance(part, GroupScale) for part in recipe.steps)
    if divided and not vanishes(recipe) and _is_finite(world):
        return NONE
    return _regularized(recipe, beta, world, guide) if beta > 0 else NONE


def _unpulled(recipe: Recipe, step: Push, world: World) -> Prediction:
    """Without any pull: the best answer, where the update is a policy gradient of the reward; else nothing known."""
    if any(isinstance(part, Guide) for part in recipe.steps) or bool((world.reward == world.reward[:, :1]).all()):
        return NONE
    uneven = step.unit == "sequence_mean" and world.tree.ragged
    divided = any(isinstance(part, GroupScale) for part in recipe.steps) and _is_finite(world)
    biased = uneven or (divided and world.tree.horizon > 1)
    return Prediction(note=NOTHING_PULLS if biased else ARGMAX)


def _plain_steps(recipe: Recipe) -> bool:
    """Whether every step is known here, with one advantage estimator before all scaling."""
    rewards = (Outcome, Overlong, KLPenalty, Guide)
    makers = [i for i, step in enumerate(recipe.steps) if isinstance(step, ESTIMATORS)]
    after = [i for i, step in enumerate(recipe.steps) if isinstance(step, SCALES)]
    before = [i for i, step in enumerate(recipe.steps) if isinstance(step, rewards)]
    ordered = len(makers) == 1 and all(i > makers[0] for i in after) and all(i < makers[0] for i in before)
    return ordered and all(isinstance(step, (*rewards, *ESTIMATORS, *SCALES)) for step in recipe.steps)


def _unbiased(recipe: Recipe, world: World) -> bool:
    """Whether E[A_t | state, token] is the undiscounted return to go, up to a number of the state."""
    if world.tree.horizon == 1:
        return True
    for step in recipe.steps:
        if isinstance(step, LastToken) or (isinstance(step, (ReturnToGo, GAE)) and step.gamma != 1):
            return False
        if isinstance(step, GAE) and step.lam != 1 and any(prompt.critic != "exact" for prompt in world.prompts):
            return False
    return True


def _whole(recipe: Recipe, world: World) -> bool:
    """Whether the first token's advantage is the return of the whole response; with GAE's λ < 1 later rewards fade."""
    return world.tree.horizon == 1 or all(step.lam == 1 for step in recipe.steps if isinstance(step, GAE))


def _totals(recipe: Recipe, world: World, guide: Float[Tensor, "X L"] | None) -> Float[Tensor, "X S V"] | None:
    """Token rewards other than the KL: the score at each leaf's last token, and the guide's log-ratios.

    Where the guide's stand makes no difference here: moved to a later token, they change what is to come from a state
    by a number of the state. Taken back at the end, they are as good as none.
    """
    tree = world.tree
    total = torch.zeros(len(world.prompts), tree.states, tree.vocab, dtype=torch.float64)
    for step in recipe.steps:
        if isinstance(step, Outcome):
            total = total + step.coef * tree.outcome(world.reward)
        if isinstance(step, Overlong):
            total = total - tree.outcome(step.penalty(tree.length.double()).expand_as(world.reward))
        if isinstance(step, Guide) and not isinstance(step.placement, TakenBack):
            if guide is None:
                return None
            extra = step.coef * (tree.conditional(guide) - tree.conditional(world.ref))
            total = total + (extra if step.clip is None else extra.clamp(-step.clip, step.clip))
    return total


def _regularized(recipe: Recipe, beta: float, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """π_ref·exp(R/β)/Z; `guide` when that is the guide itself."""
    guides = [step for step in recipe.steps if isinstance(step, Guide) and not isinstance(step.placement, TakenBack)]
    scores = sum(step.coef for step in recipe.steps if isinstance(step, Outcome))
    late = [step for step in recipe.steps if isinstance(step, Overlong)]
    pays = any(bool(step.penalty(world.tree.length.double()).any()) for step in late)
    if not guides and not pays:
        return boltzmann(world, beta=beta / scores) if scores > 0 else NONE
    total = _totals(recipe, world, guide)
    if total is None:
        return NONE
    alone = len(guides) == 1 and guides[0].clip is None and not scores and not pays
    if alone and math.isclose(guides[0].coef, beta):
        return Prediction("guide", guide)
    name = "extrapolated" if guides else "shaped"
    return Prediction(name, exact.tilted(world.ref, world.tree.leaf_sum(total) / beta))


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


def _only_shrinks(recipe: Recipe) -> bool:
    """Whether finite groups do nothing to the expected advantage but multiply it by 1 − 1/G."""
    return not scales(recipe) and sum(isinstance(step, GroupBaseline) for step in recipe.steps) == 1


def _shrunk(recipe: Recipe, world: World) -> Float[Tensor, " X"]:
    """G/(G − 1) of each prompt, by which a group mean of G answers raises the temperature of a KL in the loss."""
    means = any(isinstance(step, GroupBaseline) and step.kind == "mean" for step in recipe.steps)
    sizes = [prompt.group if means and prompt.group else math.inf for prompt in world.prompts]
    return torch.tensor([1 / (1 - 1 / size) for size in sizes], dtype=torch.float64)


def _pulled(recipe: Recipe, step: Push, pull: Term, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
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
    ref, divided, shrunk = tree.conditional(world.ref), scales(recipe), _shrunk(recipe, world)
    if not same:
        if third or divided or bool((shrunk != 1).any()) or (pull.aggregation, step.unit) != ("token_mean", "row"):
            return NONE
        return Prediction("myopic", exact.myopic_per_token(tree, ref, reward, beta=beta, weight=world.weight))
    if third and tree.horizon > 1:
        return NONE

    def law_at(temperature: Float[Tensor, " X"]) -> Float[Tensor, "X L"]:
        if third:
            return k3_bandit(world.ref, tree.leaf_sum(reward), temperature)
        return exact.myopic(tree, ref, reward / temperature[:, None, None], beta=1.0)

    if not divided:
        return Prediction("k3" if third else "myopic", law_at(beta * shrunk))
    if len(divided) > 1 or divided[0] != recipe.steps[-1]:
        return NONE
    if tree.horizon > 1:
        return Prediction(note=UNDECIDED)
    law = self_consistent(recipe, world, law_at, reward, beta=beta)
    name = "k3" if third else "self_consistent"
    return Prediction(note=COLLAPSE) if law is None else Prediction(name, law)


def _unit(aggregation: str) -> str:
    return "row" if aggregation == "token_sum" else aggregation


def _one_step(recipe: Recipe, step: Push, world: World, guide: Float[Tensor, "X L"] | None) -> Prediction:
    """One proximal step from π_ref: π_ref·exp(η R)/Z on whole rows, π_ref·exp(η Q)/Z at each state on tokens.

    Q is that of π_ref: what comes after a token is not part of the step. Where a row has one token both are the same.
    """
    eta = _eta(recipe, step)
    if eta is None:
        return NONE
    if step.unit in ("row", "pair") or world.tree.horizon == 1:
        return _regularized(recipe, 1 / eta, world, guide)
    reward = _totals(recipe, world, guide)
    if reward is None or (step.unit == "sequence_mean" and world.tree.ragged):
        return NONE
    ref = world.tree.conditional(world.ref)
    return Prediction("per_state", exact.per_state(world.tree, ref, reward, eta=eta))


def _eta(recipe: Recipe, step: Push) -> float | None:
    """The size of a proximal step: the link's own, or from the coefficient of an exact KL of the same unit."""
    held = near(recipe)
    if not held:
        return step.eta
    fits = len(held) == 1 and held[0].link == Identity() and _unit(held[0].aggregation) == _unit(step.unit)
    return step.slope / held[0].coef if fits and step.eta is None and step.unit not in ("row", "pair") else None
