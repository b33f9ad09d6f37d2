"""Closed forms for recipes on given data: demonstrations, pairs, labels, scores. Read off the recipe's one term."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab import exact
from tokenward.lab.graph import balance, consistent
from tokenward.lab.policy import sampling_law
from tokenward.lab.prediction import NONE, Prediction, boltzmann
from tokenward.lab.reading import passes_through, stream_kind
from tokenward.lab.world import Prompt, World, all_compared, compared
from tokenward.objective.links import BernoulliKL, Logistic, NegativeLogLikelihood, Square, SquareMargin
from tokenward.objective.recipe import Recipe
from tokenward.objective.targets import GivenNormalizer, LearnedValue, Probability, Score, ScoreGap, Won
from tokenward.objective.terms import LogRatio, ModelScore, PairTerm, RowTerm, TokenTerm


def optimum(recipe: Recipe, world: World) -> Prediction:
    """The closed form for a recipe on demonstrations, pairs, labels or scores."""
    if len(recipe.terms) != 1:
        return NONE
    term, kind = recipe.terms[0], stream_kind(recipe)
    if passes_through(recipe, world):  # π^τ may be the one minimum inside the simplex, but a face of it may be as good
        return NONE
    if isinstance(term, TokenTerm) and kind == "demos":
        return _demonstrations(term, world)
    if isinstance(term, RowTerm) and kind == "scores":
        return _regression(term, world)
    if isinstance(term, PairTerm) and kind == "pairs" and term.compare == "difference":
        if isinstance(term.score, ModelScore):
            return _reward_model(term, world)
        if isinstance(term.score, LogRatio):
            return _pairs(term, term.score, world)
    return NONE


def _demonstrations(term: TokenTerm, world: World) -> Prediction:
    likelihood = isinstance(term.link, NegativeLogLikelihood) and term.score == LogRatio()
    if not likelihood or (term.aggregation == "sequence_mean" and world.tree.ragged):
        return NONE
    return Prediction("demonstrations", world.target)


def _regression(term: RowTerm, world: World) -> Prediction:
    """(β lr + c − r)² = 0 where sampled; a normalization fixes one leaf more if c is given, none if c is free."""
    score = term.score
    fits = isinstance(score, LogRatio) and score.anchor == "ref_logp" and score.pool == "sum"
    if not (fits and isinstance(score, LogRatio) and isinstance(term.link, Square) and isinstance(term.target, Score)):
        return NONE
    law = sampling_law("scores", world, world.ref)
    unseen = int((law <= 0).sum(-1).max())
    if isinstance(term.offset, LearnedValue) and unseen == 0:
        return boltzmann(world, beta=score.beta)
    given = isinstance(term.offset, GivenNormalizer) and math.isclose(score.beta, world.tau, rel_tol=1e-12)
    return boltzmann(world, beta=score.beta) if given and unseen <= 1 else NONE


def _pairs(term: PairTerm, score: LogRatio, world: World) -> Prediction:
    """Scores u whose differences the pairs ask for: β lr = u + a constant of each component of the comparisons."""
    anchored = score.anchor == "ref_logp" and score.pool == "sum"
    data = comparisons(world)
    if isinstance(term.link, Square) and isinstance(term.target, ScoreGap) and anchored:
        return _tilted(world, data, world.reward, beta=score.beta, name="boltzmann")
    if isinstance(term.link, SquareMargin) and isinstance(term.target, Won) and anchored:
        return _ipo(term.link.margin / score.beta, term.target.smoothing, world, data)
    wanted = _label_scores(term, data)
    if wanted is None:
        return NONE
    if anchored:
        return _tilted(world, data, wanted, beta=score.beta, name=_soft_name(term, data))
    if score.anchor is None and score.pool == "mean" and all(one.linked for one in data):
        return Prediction("length_power", exact.length_power(world.tree.length, wanted, beta=score.beta))
    return NONE


def _soft_name(term: PairTerm, data: list[Comparisons]) -> str:
    noisy = isinstance(term.target, Won) and term.target.smoothing > 0
    return "smoothed" if noisy or any(one.prompt.labels.noise > 0 for one in data) else "soft_label"


def _tilted(
    world: World, data: list[Comparisons], score: Float[Tensor, "X L"], *, beta: float, name: str
) -> Prediction:
    """π_ref·exp(u/β)/Z if all leaves are linked; else, for single tokens, with u centered in each component.

    The latter is where gradient descent and L-BFGS end from π_ref (derived here); with several tokens per sequence the
    logits are not those of the leaves, and nothing is predicted. Scores proportional to the reward: `boltzmann`.
    """
    if not all(one.linked for one in data):
        if world.tree.horizon > 1:
            return NONE
        return Prediction("components", exact.tilted(world.ref, _by_component(data, score) / beta))
    temperatures = {one.prompt.labels.temperature for one in data} if name != "boltzmann" else {1.0}
    for temperature in temperatures if len(temperatures) == 1 else ():
        gap = score - world.reward / temperature
        if float((gap - gap.mean(-1, keepdim=True)).abs().max()) <= 1e-6:
            return boltzmann(world, beta=beta, temperature=temperature)
    return Prediction(name, exact.tilted(world.ref, score / beta))


def _by_component(data: list[Comparisons], score: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """The scores less their mean in each component of the comparisons; 0 where nothing is compared."""
    centered = [
        balance((one.weight > 0).to(own.dtype), own[:, None] - own) for one, own in zip(data, score, strict=True)
    ]
    return torch.stack(centered)


def _ipo(margin: float, smoothing: float, world: World, data: list[Comparisons]) -> Prediction:
    """log π/π_ref = 𝓛(w)⁺ b, b_i = Σ_j w_ij (p_ij − ½)·2m, m = 1/(2β)."""
    if any(one.follows_policy for one in data) or (world.tree.horizon > 1 and not all(one.linked for one in data)):
        return NONE
    tilt = [balance(one.weight, (1 - 2 * smoothing) * (2 * one.wins - 1) * margin) for one in data]
    return Prediction("ipo", exact.tilted(world.ref, torch.stack(tilt)))


def _reward_model(term: PairTerm, world: World) -> Prediction:
    """Scores of mean 0 in each component of the comparisons, as gradient descent leaves them."""
    data = comparisons(world)
    wanted = _label_scores(term, data)
    return NONE if wanted is None else Prediction(score=_by_component(data, wanted))


def _label_scores(term: PairTerm, data: list[Comparisons]) -> Float[Tensor, "X L"] | None:
    """Scores u with σ(u_i − u_j) = the (smoothed) probability that i wins, on every compared pair; None: no such.

    None too for a term that is not minimal exactly where σ(z) is that probability.
    """
    plain = isinstance(term.link, BernoulliKL) or (isinstance(term.link, Logistic) and term.link.margin == 0)
    if not plain or not isinstance(term.target, (Won, Probability)):
        return None
    smoothing = term.target.smoothing if isinstance(term.target, Won) else 0.0
    found: list[Tensor] = []
    for one in data:
        labels = one.prompt.labels
        if labels.matrix is None and labels.noise == 0 and smoothing == 0:
            found.append(one.prompt.reward / labels.temperature)
            continue
        p = (1 - 2 * smoothing) * one.wins + smoothing
        score = consistent(one.weight, torch.logit(p), within=1e-6)
        if score is None:
            return None
        found.append(score)
    return torch.stack(found)


@final
@dataclass(frozen=True)
class Comparisons:
    """One prompt's comparisons; `law` is that of single responses, at π_ref where it follows the policy."""

    prompt: Prompt
    law: Float[Tensor, " L"]

    @cached_property
    def linked(self) -> bool:
        return all_compared(self.prompt, self.law)

    @property
    def follows_policy(self) -> bool:
        """Whether the weights of the pairs change with the policy."""
        return self.prompt.pairs == "sampler" and self.prompt.on_policy()

    @cached_property
    def weight(self) -> Float[Tensor, "L L"]:
        """w_ij = ν_ij + ν_ji, 0 on the diagonal."""
        listed, number = compared(self.prompt, self.law), len(self.law)
        weight = torch.zeros(number, number, dtype=torch.float64)
        weight.index_put_(tuple(listed.pairs.T), listed.weight, accumulate=True)
        return (weight + weight.T).fill_diagonal_(0)

    @cached_property
    def wins(self) -> Float[Tensor, "L L"]:
        """P(i wins) of each pair of leaves; ½ on the diagonal."""
        number = torch.arange(len(self.law))
        p = self.prompt.labels.prefer(self.prompt.reward, torch.cartesian_prod(number, number))
        return p.reshape(len(number), len(number)).clone().fill_diagonal_(0.5)


def comparisons(world: World) -> list[Comparisons]:
    """The comparisons of each prompt."""
    laws = sampling_law("pairs", world, world.ref)
    return [Comparisons(prompt, law) for prompt, law in zip(world.prompts, laws, strict=True)]
