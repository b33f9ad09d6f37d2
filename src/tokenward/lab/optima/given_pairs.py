"""Closed forms for recipes on pairs: the score differences that a pair term asks for, and the policy that has them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact, exact_roots
from tokenward.lab.optima.comparisons import Comparisons, asked, comparisons, is_product, label_scores, temperature
from tokenward.lab.optima.graph import balance
from tokenward.lab.optima.prediction import NONE, Identified, Prediction, boltzmann
from tokenward.lab.worlds.world import World
from tokenward.objective.divergences import DivergenceRatio
from tokenward.objective.links import Square, SquareMargin
from tokenward.objective.targets import ScoreGap, Won
from tokenward.objective.terms import LogRatio, ModelScore, PairTerm


def pair_optimum(term: PairTerm, world: World) -> Prediction:
    """Scores u whose differences the pairs ask for give the policy: β lr = u + a constant of each component."""
    if term.compare != "difference":
        return NONE
    data = comparisons(world)
    if isinstance(term.score, ModelScore):
        wanted = label_scores(term.link, term.target, data)
        return NONE if wanted is None else _reward_model(data, wanted)
    if isinstance(term.link, Square) and isinstance(term.target, ScoreGap):
        return _policy(term, world, data, world.reward, name="boltzmann", scales={1.0})
    if isinstance(term.link, SquareMargin):
        fitted = _ipo(term, term.link.margin, data)
        return NONE if fitted is None else _policy(term, world, data, fitted, name="ipo", scales=set())
    wanted = label_scores(term.link, term.target, data)
    if wanted is None:
        return NONE
    scales = {temperature(term.target, one) or one.prompt.labels.temperature for one in data}
    return _policy(term, world, data, wanted, name=_soft_name(term, data), scales=scales)


def _policy(
    term: PairTerm, world: World, data: list[Comparisons], score: Float[Tensor, "X L"], *, name: str, scales: set[float]
) -> Prediction:
    """The policy whose scores differ as `score` does on every compared pair."""
    own, linked = term.score, all(one.linked for one in data)
    if isinstance(own, DivergenceRatio) and own.divergence == "reverse_kl":
        own = LogRatio("ref_logp", beta=own.beta)
    if isinstance(own, LogRatio) and own.anchor == "ref_logp" and own.pool == "sum":
        return _tilted(world, data, score, beta=own.beta, name=name, scales=scales)
    if not linked:
        return NONE
    if isinstance(own, LogRatio) and own.anchor != "old_logp":
        ref = world.ref if own.anchor else None
        if own.pool == "mean":
            return Prediction("length_power", exact.length_power(world.tree.length, score, beta=own.beta, ref=ref))
        return Prediction("unanchored", torch.softmax(score / own.beta, dim=-1))
    if isinstance(own, DivergenceRatio) and own.divergence != "reverse_kl":
        law = exact_roots.divergence(world.ref, score / own.beta, divergence=own.divergence)
        return Prediction("f_divergence", law)
    return NONE


def _tilted(
    world: World, data: list[Comparisons], score: Float[Tensor, "X L"], *, beta: float, name: str, scales: set[float]
) -> Prediction:
    """π_ref·exp(u/β)/Z if all leaves are linked; else the law within each component is fixed, and no more.

    Of the rest gradient descent and L-BFGS keep, from π_ref and for single tokens, the mean of u in each component
    (derived here); with several tokens per sequence the logits are not those of the leaves, and nothing is predicted.
    """
    if not all(one.linked for one in data):
        fixed = tuple(_identified(one, own / beta) for one, own in zip(data, score, strict=True))
        if world.tree.horizon > 1:
            return Prediction(identified=fixed)
        law = exact.tilted(world.ref, _by_component(data, score) / beta)
        return Prediction("components", law, identified=fixed)
    for scale in scales if len(scales) == 1 else ():
        gap = score - world.reward / scale
        if float((gap - gap.mean(-1, keepdim=True)).abs().max()) <= 1e-6:
            return boltzmann(world, beta=beta, temperature=scale)
    return Prediction(name, exact.tilted(world.ref, score / beta))


def _reward_model(data: list[Comparisons], score: Float[Tensor, "X L"]) -> Prediction:
    """Scores of mean 0 in each component, which is what the gradients leave of the free constants."""
    fixed = None if all(one.linked for one in data) else tuple(_identified(one, 0 * one.law) for one in data)
    return Prediction(score=_by_component(data, score), identified=fixed)


def _identified(one: Comparisons, tilt: Float[Tensor, " L"]) -> tuple[Identified, ...]:
    """π_ref·exp(u/β) within each component of two leaves or more."""
    log = one.prompt.ref.log() + tilt
    return tuple(Identified(tuple(leaves), torch.softmax(log[leaves], dim=-1)) for leaves in one.groups())


def _soft_name(term: PairTerm, data: list[Comparisons]) -> str:
    smoothing = term.target.smoothing if isinstance(term.target, Won) else 0.0
    if smoothing > 0 or any(one.prompt.labels.noise > 0 for one in data):
        return "smoothed"
    oriented = all(one.prompt.labels.matrix is not None and not one.follows_policy for one in data)
    return "density_ratio" if oriented and all(is_product(one) for one in data) else "soft_label"


def _by_component(data: list[Comparisons], score: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """The scores less their mean in each component of the comparisons; 0 where nothing is compared."""
    centered = [
        balance((one.weight > 0).to(own.dtype), own[:, None] - own) for one, own in zip(data, score, strict=True)
    ]
    return torch.stack(centered)


def _ipo(term: PairTerm, margin: float, data: list[Comparisons]) -> Float[Tensor, "X L"] | None:
    """𝓛(w)⁺ b, b_i = Σ_j w_ij (2p_ij − 1)·m, m = 1/(2β): the least-squares fit to the wanted margins."""
    fitted: list[Tensor] = []
    for one in data:
        p = asked(term.target, one)
        if p is None or one.follows_policy:
            return None
        fitted.append(balance(one.weight, (2 * p - 1) * margin))
    return torch.stack(fitted)
