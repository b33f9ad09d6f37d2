"""What finite data and finite steps cost: the error of N labels, the floor of single-label descent, the bias of log Z.

Predictions are closed forms to leading order, derived here (in the organization of Su et al. 2025); beside each stands
a seeded simulation of the thing itself, or an exact expectation. Single-token worlds: a bandit of L answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.optima.comparisons import Comparisons, comparisons
from tokenward.lab.optima.graph import laplacian, steepness
from tokenward.lab.rates.design import error_per_label
from tokenward.lab.solving.groups import multisets
from tokenward.lab.worlds.world import Listed, World, compared

_NEWTON_STEPS = 60
_AT_REST = 1e-10


@final
@dataclass(frozen=True)
class SampleError:
    """E KL(π̂‖π^τ) after N Bradley–Terry labels: predicted, and the mean over simulated data sets with its error.

    `repetitions` counts those with a finite estimate, `without` those where one side of a cut won every comparison.
    """

    number: int
    predicted: float
    measured: float
    standard_error: float
    repetitions: int
    without: int


def sample_error(world: World, *, number: int, repetitions: int = 200, seed: int = 0) -> SampleError:
    """The error of DPO at its minimum on N labels: tr[(diag π^τ − π^τπ^τᵀ) 𝓛(w⊙σ′(Δ))⁺]/(2Nτ²), beside a simulation.

    N pairs from the world's comparisons (self-pairs are labels spent for nothing), a Bradley–Terry label each, then the
    maximum-likelihood scores by Newton steps, all data sets at once.
    """
    one, reward = _single(world)
    gap = reward[:, None] - reward
    curved = laplacian(one.weight * steepness(gap.flatten()).view_as(gap))
    law, tau = world.target[0], world.tau
    predicted = error_per_label(curved, law=law, tau=tau) / number
    wins = _draw(compared(one.prompt, one.law), reward, number, repetitions, seed)
    score, finite = maximum_likelihood(wins)
    estimate = torch.log_softmax(world.ref[0].log() + score[finite] / tau, dim=-1)
    apart = (estimate.exp() * (estimate - law.log())).sum(-1)
    count = int(finite.sum())
    return SampleError(
        number,
        predicted,
        float(apart.mean()) if count else math.nan,
        float(apart.std()) / math.sqrt(count) if count > 1 else math.nan,
        count,
        repetitions - count,
    )


def maximum_likelihood(wins: Float[Tensor, "R L L"]) -> tuple[Float[Tensor, "R L"], Bool[Tensor, " R"]]:
    """Centered Bradley–Terry scores of each table of wins (row beats column), and whether they are finite.

    Finite if and only if wins lead from any answer to any other (Ford 1957). Newton steps, damped far from the optimum.
    """
    finite = _linked(wins > 0)
    number = wins.shape[-1]
    games = wins + wins.mT
    score = torch.zeros(wins.shape[:2], dtype=torch.float64)
    mean = torch.full((number, number), 1 / number, dtype=torch.float64) * games.amax((1, 2), keepdim=True).clamp(min=1)
    for _ in range(_NEWTON_STEPS):
        gap = score[:, :, None] - score[:, None]
        slope = (wins - games * torch.sigmoid(gap)).sum(-1)
        curve = games * torch.sigmoid(gap) * torch.sigmoid(-gap)
        whole = torch.diag_embed(curve.sum(-1)) - curve + mean
        move = torch.linalg.solve(whole, slope)
        move = move / (move.abs().amax(-1, keepdim=True) / 2).clamp(min=1.0)  # at most 2 in one step
        score = torch.where(finite[:, None], score + move, score)
        if not bool(finite.any()) or float(move[finite].abs().max()) <= _AT_REST:
            break
    return score - score.mean(-1, keepdim=True), finite


def _linked(beats: Bool[Tensor, "R L L"]) -> Bool[Tensor, " R"]:
    """Whether wins lead from any answer to any other, by repeated squaring of reachability."""
    reach = beats.double() + torch.eye(beats.shape[-1], dtype=torch.float64)
    for _ in range(math.ceil(math.log2(max(beats.shape[-1], 2)))):
        reach = ((reach @ reach) > 0).double()
    return (reach > 0).all(-1).all(-1)


def _draw(
    listed: Listed, reward: Float[Tensor, " L"], number: int, repetitions: int, seed: int
) -> Float[Tensor, "R L L"]:
    """Tables of wins: of `number` pairs from the comparisons, a Bradley–Terry label each."""
    leaves = len(reward)
    p = torch.sigmoid(reward[:, None] - reward)
    joint = torch.zeros(leaves, leaves, dtype=torch.float64)
    joint.index_put_(tuple(listed.pairs.T), listed.weight, accumulate=True)
    cells = ((joint + joint.T) * p).flatten()  # for i = j: 2 ν_ii ½
    generator = torch.Generator().manual_seed(seed)
    tables = torch.empty(repetitions, leaves**2, dtype=torch.float64)
    for k in range(repetitions):
        picked = torch.multinomial(cells, number, replacement=True, generator=generator)
        tables[k] = torch.bincount(picked, minlength=leaves**2)
    off = 1 - torch.eye(leaves, dtype=torch.float64)
    return tables.view(repetitions, leaves, leaves) * off


@final
@dataclass(frozen=True)
class Floor:
    """Where descent on one comparison at a time settles: E KL(π‖π^τ), predicted and simulated with its error."""

    step: float
    predicted: float
    measured: float
    standard_error: float


def descent_floor(
    world: World,
    *,
    step: float,
    labels: Literal["hard", "soft"],
    loss: Literal["preference", "difference"] = "preference",
    steps: int = 4000,
    chains: int = 256,
    seed: int = 0,
) -> Floor:
    """The floor of stochastic gradient descent from π^τ, one random comparison per step: η(1 − Σπ²)/4 for hard labels.

    With hard labels the gradient's covariance at the optimum is the Hessian itself, so the logits keep a covariance
    η/2 on centered vectors to first order, whatever the graph and τ; with soft labels, and with reward differences, all
    gradients vanish there, and the floor is 0: those chains start at π_ref. Measured by a seeded simulation of `chains`
    chains: the mean over the last half of the steps (hard), the KL after the last one (soft).
    """
    one, reward = _single(world)
    law, tau, ref = world.target[0], world.tau, world.ref[0]
    listed = compared(one.prompt, one.law)
    generator = torch.Generator().manual_seed(seed)
    hard = labels == "hard" and loss == "preference"
    logits = (law if hard else ref).log().repeat(chains, 1)
    row, late = torch.arange(chains), []
    picked = torch.multinomial(listed.weight, steps * chains, replacement=True, generator=generator).view(steps, chains)
    for k in range(steps):
        first, second = listed.pairs[picked[k]].unbind(-1)
        gap = reward[first] - reward[second]
        z = tau * (logits[row, first] - logits[row, second] - ref[first].log() + ref[second].log())
        if loss == "difference":
            push = 2 * tau * (gap - z)
        else:
            wanted = torch.sigmoid(gap)
            if hard:
                wanted = (torch.rand(chains, generator=generator, dtype=torch.float64) < wanted).double()
            push = tau * (wanted - torch.sigmoid(z))
        logits[row, first] += step * push
        logits[row, second] -= step * push
        if (hard and k >= steps // 2 and k % 10 == 0) or k == steps - 1:
            own = torch.log_softmax(logits, -1)
            late.append((own.exp() * (own - law.log())).sum(-1))
    each = torch.stack(late).mean(0)
    predicted = step * (1 - float(law.square().sum())) / 4 if hard else 0.0
    return Floor(step, predicted, float(each.mean()), float(each.std()) / math.sqrt(chains))


@final
@dataclass(frozen=True)
class NormalizerBias:
    """E[τ log mean_k e^{r/τ}] − τ log Z: −τ Var(e^{r/τ})/(2kZ²) to leading order, and exactly."""

    draws: int
    predicted: float
    exact: float


def normalizer_bias(world: World, *, draws: int) -> NormalizerBias:
    """The bias of τ log Z from k draws of π_ref, exact by all multisets of draws."""
    ref, reward, tau = world.ref[0], world.reward[0], world.tau
    tilt = torch.exp((reward - reward.max()) / tau)
    mean = float(ref @ tilt)
    variance = float(ref @ tilt.square()) - mean**2
    found = multisets(len(ref), draws)
    total = torch.zeros_like(found.log_ways).index_add(0, found.group, found.count * tilt[found.thing])
    expected = float(found.chance(ref) @ (total / draws).log())
    return NormalizerBias(draws, -tau * variance / (2 * draws * mean**2), tau * (expected - math.log(mean)))


def _single(world: World) -> tuple[Comparisons, Float[Tensor, " L"]]:
    """The comparisons and rewards of a bandit of one prompt."""
    if world.tree.horizon > 1 or len(world.prompts) > 1:
        raise InputError(
            f"finite data: a world of one prompt and horizon 1 is needed, got {len(world.prompts)} prompts, horizon "
            f"{world.tree.horizon}"
        )
    return comparisons(world)[0], world.reward[0]
