"""How fast gradient descent on a recipe's loss comes to rest: the closed form, and what the descent itself does.

Near the resting point an error shrinks by max |1 − ηλ| in each step η, over the eigenvalues λ of the loss there
(curvature.py): τ² λ₂ of the comparison graph weighted by σ′ of the reward gaps for preference methods (DPO), 2τ² λ₂
of the graph for reward differences, the smallest probabilities of π^τ for policy gradients. Exact proximal steps
(mirror descent, REBEL) shrink it by 1 − ηβ_kl. After the organization of Su et al. 2025; statements and proofs ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.optima.comparisons import Comparisons, asked, comparisons
from tokenward.lab.optima.existence import has_optimum
from tokenward.lab.optima.graph import is_connected, laplacian, steepness
from tokenward.lab.optima.prediction import Prediction
from tokenward.lab.optima.targets import predict
from tokenward.lab.rates.contraction import MOST_PARAMETERS, Measured, exact_steps, measure
from tokenward.lab.rates.curvature import Modes, modes
from tokenward.lab.solving.descent import CONVERGED
from tokenward.lab.solving.reading import is_one_step, moving, sampled, stream_kind
from tokenward.lab.solving.solve import at_rest
from tokenward.lab.worlds.world import World
from tokenward.objective.links import BernoulliKL, Logistic, Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.rewards import KLPenalty
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, TokenTerm

AGREES = 1e-3  # relative difference of 1 − contraction, predicted and measured
Kind = Literal["gradient descent", "exact steps"]


@final
@dataclass(frozen=True)
class PromptRate:
    """One prompt alone, at the common step: its smallest and largest λ and its contraction."""

    smallest: float
    largest: float
    contraction: float
    cause: str

    @property
    def condition(self) -> float:
        """λ_max/λ: with its best step gradient descent contracts by (κ − 1)/(κ + 1)."""
        return self.largest / self.smallest


@final
@dataclass(frozen=True)
class Rate:
    """Contraction per step, predicted (None: no closed form) and measured (None: nothing to rest at, or too flat).

    `largest_stable_step` = 2/λ_max and `condition` = λ_max/λ_min are the predicted ones, else the measured ones ·
    `bound` holds from π_ref on at every step (DPO and PRA on single tokens, step small enough) · `prompts` one by one ·
    `slowest`: the prompt, and the two leaves whose log-probabilities the slowest direction moves most, up and down.
    """

    recipe: str
    kind: Kind
    step: float
    predicted: float | None
    measured: float | None
    largest_stable_step: float | None
    condition: float | None
    bound: float | None
    prompts: tuple[PromptRate, ...]
    slowest: tuple[int, int, int] | None
    cause: str

    @property
    def agrees(self) -> bool | None:
        """Whether 1 − contraction is the predicted one to 0.1 %; None without both."""
        if self.predicted is None or self.measured is None:
            return None
        return abs(self.predicted - self.measured) <= AGREES * abs(1 - self.predicted) + 1e-9


def rate(recipe: Recipe, world: World, *, step: float | None = None, guide: Float[Tensor, "X L"] | None = None) -> Rate:
    """The local contraction of plain gradient descent with this step; None: 1/λ_max, half the largest stable one."""
    if step is not None and not 0 < step < math.inf:
        raise InputError(f"rate: step must be a number above 0, got {step:g}")
    size = world.tree.states * world.tree.vocab * len(world.prompts)
    if size > MOST_PARAMETERS:
        raise InputError(
            f"rate: the world has {size:,} logits, at most {MOST_PARAMETERS:,} can be measured; give a smaller one"
        )
    prediction = predict(recipe, world, guide=guide)
    if (eta := _proximal(recipe)) is not None:
        return _exact(recipe, world, prediction, eta, guide)
    try:
        found = modes(recipe, world, prediction)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # a law that underflows, at a tiny temperature
        found = None
    found = (
        None if found is None or any(not len(one.values) or not float(one.values[0]) > 0 for one in found) else found
    )
    if step is None and found is not None:
        step = 1 / max(float(one.values[-1]) for one in found)
    problem, residual, _ = at_rest(recipe, world, guide=guide)
    rests = residual <= CONVERGED and has_optimum(recipe, problem)
    seen = measure(problem, step=step) if rests else None
    if found is None:
        return _without_prediction(recipe, seen, step)
    assert step is not None
    return _with_prediction(recipe, world, found, seen, step)


def _with_prediction(recipe: Recipe, world: World, found: Sequence[Modes], seen: Measured | None, step: float) -> Rate:
    prompts = tuple(
        PromptRate(low, high, max(abs(1 - step * low), abs(1 - step * high)), one.cause)
        for one in found
        for low, high in [(float(one.values[0]), float(one.values[-1]))]
    )
    slow = max(range(len(prompts)), key=lambda i: prompts[i].contraction)
    highest = max(one.largest for one in prompts)
    fast_end = abs(1 - step * prompts[slow].largest) > abs(1 - step * prompts[slow].smallest)
    directions = found[slow].directions
    return Rate(
        recipe=recipe.name,
        kind="gradient descent",
        step=step,
        predicted=prompts[slow].contraction,
        measured=None if seen is None else seen.contraction,
        largest_stable_step=2 / highest,
        condition=highest / min(one.smallest for one in prompts),
        bound=bound_from_reference(recipe, world, step=step),
        prompts=prompts,
        slowest=None if directions is None else _extremes(slow, directions[:, -1 if fast_end else 0]),
        cause=f"the step is too long: 1 − ηλ_max = {1 - step * prompts[slow].largest:.3g}"
        if fast_end
        else prompts[slow].cause,
    )


def _without_prediction(recipe: Recipe, seen: Measured | None, step: float | None) -> Rate:
    flat = "it does not come to rest at a policy that gives every answer a chance, so that there is no linear rate"
    return Rate(
        recipe=recipe.name,
        kind="gradient descent",
        step=seen.step if seen is not None else step or 0.0,
        predicted=None,
        measured=None if seen is None else seen.contraction,
        largest_stable_step=None if seen is None or seen.largest <= 0 else 2 / seen.largest,
        condition=None if seen is None or seen.smallest <= 0 else seen.largest / seen.smallest,
        bound=None,
        prompts=(),
        slowest=None,
        cause=flat if seen is None else "no closed form is known",
    )


def _extremes(prompt: int, direction: Float[Tensor, " L"]) -> tuple[int, int, int]:
    """The prompt, the leaf that moves most, and the one that moves most the other way."""
    direction = direction * torch.sign(direction[direction.abs().argmax()])
    return prompt, int(direction.argmax()), int(direction.argmin())


def _proximal(recipe: Recipe) -> float | None:
    """η of a recipe that is a sequence of exact proximal steps with a pull to the reference; None for all others."""
    if stream_kind(recipe) != "rollouts" or is_one_step(recipe):
        return None
    for term in moving(recipe):
        if isinstance(term, (RowTerm, TokenTerm)) and isinstance(term.link, Mirror):
            return float(term.link.eta)
        if isinstance(term, PairTerm) and isinstance(term.score, LogRatio) and term.score.anchor == "old_logp":
            return 1 / term.score.beta
    return None


def _exact(
    recipe: Recipe, world: World, prediction: Prediction, eta: float, guide: Float[Tensor, "X L"] | None
) -> Rate:
    """Proximal steps π_{k+1} ∝ π_k^{1−ηβ} π_ref^{ηβ} e^{ηr}: log π/π^τ shrinks by 1 − ηβ, whatever the rewards."""
    beta = sum(part.coef for part in recipe.steps if isinstance(part, KLPenalty))
    plain = beta > 0 and prediction.law is not None and len(moving(recipe)) == 1
    contraction = abs(1 - eta * beta) if plain else None
    mirror = any(isinstance(getattr(term, "link", None), Mirror) for term in moving(recipe))
    seen = None
    if prediction.law is not None:
        seen = exact_steps(recipe, world, prediction.law, guide=guide, eta=eta if mirror else None)
    cause = f"ηβ_kl = {eta:.3g}·{beta:.3g}; rewards, graph and π^τ do not enter" if plain else "no closed form is known"
    stable = 2 / beta if plain else None
    return Rate(
        recipe.name, "exact steps", eta, contraction, seen, stable, 1.0 if plain else None, None, (), None, cause
    )


def bound_from_reference(recipe: Recipe, world: World, *, step: float) -> float | None:
    """1 − ητ² σ′(2R) λ₂(𝓛(w)): what DPO or PRA with Bradley–Terry probabilities contracts by at every step from π_ref.

    In the length of the centered error of the logits, R the largest gap of the labels' scores. For single tokens,
    connected fixed pairs and η ≤ 2/(τ² max_i Σ_j w_ij); else None. Derived here: under that step the descent is a
    consensus iteration, in which no difference grows.
    """
    world, term = sampled(recipe, world), recipe.terms[0]
    if len(recipe.terms) != 1 or not isinstance(term, PairTerm) or not isinstance(term.score, LogRatio):
        return None
    score = term.score
    logistic = isinstance(term.link, BernoulliKL) or (isinstance(term.link, Logistic) and term.link.margin == 0)
    if not logistic or (score.anchor, score.pool) != ("ref_logp", "sum") or world.tree.horizon > 1:
        return None
    law = predict(recipe, world).law
    factors: list[float] = []
    if law is None or stream_kind(recipe) != "pairs":
        return None
    for one, own, share in zip(comparisons(world), law, world.weight.tolist(), strict=True):
        scale = step * share * term.coef * score.beta**2
        if one.follows_policy or not _connected(one) or scale * float(one.weight.sum(-1).max()) > 2:
            return None
        wanted, p = score.beta * (own / one.prompt.ref).log(), asked(term.target, one)
        if p is None or not _fits(wanted, p, one):
            return None
        widest = 2 * (wanted.max() - wanted.min())
        gap = float(torch.linalg.eigvalsh(laplacian(one.weight))[1])
        factors.append(1 - scale * float(steepness(widest[None])) * gap)
    worst: float = max(factors)
    return worst


def _fits(score: Float[Tensor, " L"], p: Float[Tensor, "L L"], one: Comparisons) -> bool:
    """Whether σ of the scores' differences is the probability asked for on every compared pair."""
    off = (torch.sigmoid(score[:, None] - score) - p).abs()
    return float(torch.where(one.weight > 0, off, 0.0).max()) <= 1e-9


def _connected(one: Comparisons) -> bool:
    return is_connected((one.weight > 0).nonzero(), nodes=len(one.law))
