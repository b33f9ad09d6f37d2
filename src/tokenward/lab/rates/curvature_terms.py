"""The curvature of a recipe's loss in the leaves' log-probabilities, at the policy that is predicted; by its parts.

Derived here. Wherever the predicted policy is the optimum, f = ∂loss/∂log π is a multiple c of π there, and as Jᵀπ = 0
for every policy, the curvature is C = ∂f/∂log π − c·diag π. It is symmetric for all losses below, also where the
policy's own samples make the update no gradient: there f = 0 term by term, and the samples' change does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.comparisons import Comparisons
from tokenward.lab.optima.graph import components, laplacian, steepness
from tokenward.lab.optima.prediction import Prediction
from tokenward.lab.solving.reading import is_one_step, moving, scales, stream_kind, vanishes
from tokenward.lab.solving.streams import sampling_law
from tokenward.lab.worlds.world import World
from tokenward.objective.capped import Capped
from tokenward.objective.groups import BoltzmannWeight, MeanReward, MonteCarloNormalizer
from tokenward.objective.links import (
    BernoulliKL,
    Clipped,
    Logistic,
    Mirror,
    NegativeLogLikelihood,
    Ratio,
    ScoreFunction,
    Square,
    SquareMargin,
    SquashedSquare,
)
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GroupBaseline
from tokenward.objective.signal.rewards import KLPenalty
from tokenward.objective.targets import Advantage, GivenNormalizer, LearnedValue, Score
from tokenward.objective.terms import LogRatio, ModelScore, PairTerm, RowTerm, TokenTerm


@final
@dataclass(frozen=True)
class Curve:
    """C of one prompt (a learned value in the last row), how many directions of the policy it leaves flat, and why."""

    matrix: Float[Tensor, "N N"]
    flat: int
    cause: str


def curves(recipe: Recipe, world: World, prediction: Prediction) -> tuple[Curve, ...] | None:
    """C of each prompt; None where no closed form is known."""
    kind, law = stream_kind(recipe), prediction.law
    if _is_game(recipe):
        return None
    push = [term for term in moving(recipe) if "advantage" in term.reads]
    if push:
        return None if law is None else _policy_gradient(recipe, push[0], world, law, prediction)
    grouped = kind in ("rollouts", "scores") and any(prompt.group is not None for prompt in world.prompts)
    if len(recipe.terms) != 1 or grouped:
        return None
    term, laws = recipe.terms[0], sampling_law(kind, world, world.ref if law is None else law)
    if isinstance(term, PairTerm) and isinstance(term.score, ModelScore) and prediction.score is not None:
        one = torch.ones(world.tree.leaves, dtype=torch.float64)
        return _pairs(term, world, laws, scores=prediction.score, slope=one, own=False)
    if law is None:
        return None
    if isinstance(term, PairTerm) and isinstance(term.score, LogRatio):
        anchor = world.ref if term.score.anchor == "ref_logp" else torch.ones_like(law)
        length = world.tree.length.double()
        slope = term.score.beta / (length if term.score.pool == "mean" else torch.ones_like(length))
        return _pairs(term, world, laws, scores=slope * (law / anchor).log(), slope=slope, own=kind == "rollouts")
    if isinstance(term, RowTerm) and isinstance(term.target, BoltzmannWeight):
        return _fisher(world, law, scale=term.coef, unit="row")
    if isinstance(term, RowTerm) and isinstance(term.score, LogRatio):
        return _regression(term, term.score.beta, world, law, laws, own=kind == "rollouts")
    if isinstance(term, TokenTerm) and isinstance(term.link, NegativeLogLikelihood):
        return _fisher(world, law, scale=term.coef, unit=term.aggregation)
    return None


def _is_game(recipe: Recipe) -> bool:
    """Whether what an answer is compared with follows the policy, so that the curvature at rest is not symmetric."""
    own = stream_kind(recipe) == "rollouts" and any(
        isinstance(term, PairTerm) and isinstance(term.link, SquareMargin) for term in recipe.terms
    )
    return own or len(recipe.streams) > 1 or any("pairs" in step.needs for step in recipe.steps)


def centered(size: int) -> Float[Tensor, "V K"]:
    """An orthonormal basis of the vectors that sum to 0."""
    basis: Tensor = torch.linalg.qr(torch.eye(size, dtype=torch.float64)[:, 1:] - 1 / size).Q
    return basis


# ------------------------------------------------------------------------------------------------------------- pairs


def _pairs(
    term: PairTerm,
    world: World,
    laws: Float[Tensor, "X L"],
    *,
    scores: Float[Tensor, "X L"],
    slope: Float[Tensor, " L"],
    own: bool,
) -> tuple[Curve, ...] | None:
    """C = S 𝓛(w⊙ℓ″(z)) S, S = β (β/|y| for means): ℓ″ = 2 for squares, σ′(z) for the logistic loss, 2σ′² for Brier."""
    found = []
    for prompt, law, score, share in zip(world.prompts, laws, scores, world.weight.tolist(), strict=True):
        one = Comparisons(replace(prompt, pairs="sampler", sampler="policy") if own else prompt, law)
        second = _second(term, score[:, None] - score)
        if second is None or term.compare != "difference":
            return None
        graph = laplacian(one.weight * second)
        flat = len(components((one.weight > 0).nonzero(), nodes=len(law)).unique()) - (0 if _is_model(term) else 1)
        cause = _pair_cause(term, world, one, graph)
        found.append(Curve(share * term.coef * slope[:, None] * graph * slope, flat, cause))
    return tuple(found)


def _is_model(term: PairTerm) -> bool:
    return isinstance(term.score, ModelScore)


def _second(term: PairTerm, z: Float[Tensor, "L L"]) -> Float[Tensor, "L L"] | None:
    """The link's second derivative at the optimum, the same for both orders of a pair."""
    if isinstance(term.link, (Square, SquareMargin)):
        return torch.full_like(z, 2.0)
    if isinstance(term.link, BernoulliKL) or (isinstance(term.link, Logistic) and term.link.margin == 0):
        return steepness(z.flatten()).view_as(z)
    return 2 * steepness(z.flatten()).view_as(z) ** 2 if isinstance(term.link, SquashedSquare) else None


def _pair_cause(term: PairTerm, world: World, one: Comparisons, graph: Float[Tensor, "L L"]) -> str:
    """What sets λ of a pair method, with the numbers."""
    parts = len(components((one.weight > 0).nonzero(), nodes=len(one.law)).unique())
    plain = float(torch.linalg.eigvalsh(laplacian(one.weight))[parts]) if parts < len(one.law) else 0.0
    weighed = float(torch.linalg.eigvalsh(graph)[parts]) if parts < len(one.law) else 0.0
    beta = term.score.beta if isinstance(term.score, LogRatio) else 1.0
    own = "; the policy itself draws the pairs, its rare answers rarely" if one.follows_policy else ""
    through = ", seen through the prefixes of the tree" if world.tree.horizon > 1 and not _is_model(term) else ""
    share = " and the prompt's weight" if len(world.prompts) > 1 else ""
    if isinstance(term.link, (Square, SquareMargin)):
        return (
            f"2·{beta:.3g}² = {2 * beta**2:.3g} times λ₂ = {plain:.3g} of the comparison graph{through}{share}; "
            f"the reward gaps do not enter{own}"
        )
    power = "twice the square of σ′" if isinstance(term.link, SquashedSquare) else "σ′"
    return (
        f"{beta:.3g}² = {beta**2:.3g} times λ₂ = {weighed:.3g} of the comparison graph weighted by {power} of the "
        f"reward gaps (unweighted: {plain:.3g}){through}{share}{own}"
    )


# -------------------------------------------------------------------------------------------------------------- rows


def _regression(
    term: RowTerm, beta: float, world: World, law: Float[Tensor, "X L"], laws: Float[Tensor, "X L"], *, own: bool
) -> tuple[Curve, ...] | None:
    """(β lr + c − r)²: C = 2β² diag μ − (Σf) diag π, f = 2βμ(β lr + c − r); jointly with V where c = V is learned.

    On the policy's own answers diag f and (Σf) diag π cancel, for any number c of the prompt: 2β² diag π.
    """
    if not isinstance(term.link, Square) or not isinstance(term.target, Score):
        return None
    found = []
    for i, (prompt, mu, share) in enumerate(zip(world.prompts, laws, world.weight.tolist(), strict=True)):
        unseen, follows = int((mu <= 0).sum()), own or prompt.on_policy()
        matrix, flat = 2 * beta**2 * torch.diag(mu), max(unseen - 1, 0)
        if isinstance(term.offset, LearnedValue):
            edge = 2 * beta * mu[:, None]
            matrix = torch.cat([torch.cat([matrix, edge], 1), torch.cat([edge.T, torch.full((1, 1), 2.0)], 1)])
            flat = unseen
        elif not isinstance(term.offset, (GivenNormalizer, MeanReward, MonteCarloNormalizer)):
            return None
        elif not follows and not isinstance(term.offset, MonteCarloNormalizer):
            shift = mu @ prompt.reward if isinstance(term.offset, MeanReward) else world.normalizer[i]
            force = 2 * beta * mu * (beta * (law[i] / prompt.ref).log() + shift - prompt.reward)
            matrix = matrix - force.sum() * torch.diag(law[i])
        rare = int(torch.where(mu > 0, mu, torch.inf).argmin())
        times = "how often the policy itself draws answers" if follows else "how often answers are drawn"
        cause = f"2·{beta:.3g}² = {2 * beta**2:.3g} times {times}: least often leaf {rare}, μ = {mu[rare]:.3g}"
        found.append(Curve(share * term.coef * matrix, flat, cause))
    return tuple(found)


def _fisher(world: World, law: Float[Tensor, "X L"], *, scale: float, unit: str) -> tuple[Curve, ...]:
    """C = scale·diag π, divided by 1 (rows, token sums), the mean length, or each row's length."""
    length = world.tree.length.double()
    mean = float(world.weight @ (law @ length))
    size = {"token_mean": torch.full_like(length, mean), "sequence_mean": length}.get(unit, torch.ones_like(length))
    found = []
    for own, share in zip(law, world.weight.tolist(), strict=True):
        rare = own.argsort()[:2].tolist()
        cause = (
            f"{scale:.3g} times how often the policy at rest has its answers: the rarest are leaf {rare[0]}, "
            f"π = {own[rare[0]]:.3g}, and leaf {rare[1]}, π = {own[rare[1]]:.3g}"
        )
        found.append(Curve(share * scale * torch.diag(own / size), 0, cause))
    return tuple(found)


# -------------------------------------------------------------------------------------------------- policy gradients


def _policy_gradient(
    recipe: Recipe, term: object, world: World, law: Float[Tensor, "X L"], prediction: Prediction
) -> tuple[Curve, ...] | None:
    """β_kl diag π: with the KL in the reward the expected update is ∇ β_kl KL(π‖π*). One proximal step: diag π/η."""
    if not isinstance(term, (RowTerm, TokenTerm)) or not isinstance(term.score, LogRatio):
        return None
    unit = term.aggregation if isinstance(term, TokenTerm) else "row" if term.score.pool == "sum" else "sequence_mean"
    if is_one_step(recipe):
        if not isinstance(term.link, Mirror) or unit != "row":
            return None
        return _fisher(world, law, scale=term.coef / term.link.eta, unit=unit)
    plain = isinstance(term.link, (ScoreFunction, Clipped, Ratio, Capped, Mirror)) and isinstance(
        term.target, Advantage
    )
    uneven = unit == "sequence_mean" and world.tree.ragged and not vanishes(recipe)
    if not plain or uneven or scales(recipe) or _feels_size(recipe, world) or len(moving(recipe)) > 1:
        return None
    beta = sum(step.coef for step in recipe.steps if isinstance(step, KLPenalty))
    known = prediction.target in ("boltzmann", "extrapolated", "guide")
    return _fisher(world, law, scale=beta * term.coef * term.score.beta, unit=unit) if known and beta > 0 else None


def _feels_size(recipe: Recipe, world: World) -> bool:
    """Whether finite groups change the expected update: a leave-one-out baseline does not."""
    finite = any(prompt.group is not None for prompt in world.prompts)
    return finite and any(isinstance(s, GroupBaseline) and s != GroupBaseline("leave_one_out") for s in recipe.steps)


def state_values(
    recipe: Recipe, world: World, prediction: Prediction
) -> Sequence[tuple[Float[Tensor, " K"], str]] | None:
    """The eigenvalues where a per-token KL is in the loss: β d(s)·(diag π − ππᵀ) of each state, d(s) its visits.

    A state's update depends on the states after it alone, so the whole is block triangular and these are all its
    eigenvalues. None for every other recipe, and where the terms have different units.
    """
    push = [term for term in moving(recipe) if "advantage" in term.reads]
    pull = [term for term in moving(recipe) if "advantage" not in term.reads]
    law, tree = prediction.law, world.tree
    if prediction.target != "myopic" or law is None or len(push) != 1 or len(pull) != 1 or scales(recipe):
        return None
    unit = getattr(push[0], "aggregation", "token_sum")
    if not isinstance(pull[0], TokenTerm) or pull[0].aggregation != unit or _feels_size(recipe, world):
        return None
    score = pull[0].score
    beta = pull[0].coef * (score.beta**2 if isinstance(score, LogRatio) else 1.0)
    mean = float(world.weight @ (law @ tree.length.double()))
    size = {"token_mean": mean, "sequence_mean": float(tree.length[0])}.get(unit, 1.0)
    basis, found = centered(tree.vocab), []
    for own, seen, share in zip(tree.conditional(law).exp(), tree.visitation(law), world.weight.tolist(), strict=True):
        block = seen[:, None, None] * (torch.diag_embed(own) - own[:, :, None] * own[:, None])
        values = torch.linalg.eigvalsh(share * beta / size * (basis.T @ block @ basis))
        slow = int(values[:, 0].argmin())
        cause = (
            f"{beta:.3g} times how often the policy at rest has its tokens: state {slow} is visited with probability "
            f"{seen[slow]:.3g}, and its rarest token has π = {own[slow].min():.3g}"
        )
        found.append((values.flatten().sort().values, cause))
    return found
