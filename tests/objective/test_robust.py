"""Distributionally robust terms: duality, limits, exact solutions, and the gradient with its weights held."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.objective.cases import batch_of, stats_of
from tokenward.errors import InputError
from tokenward.objective.links import Clipped
from tokenward.objective.robust import ChiSquareBall, ChiSquareBound, KLBall, RobustTerm
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import LogRatio
from tokenward.recipes import build
from tokenward.types import Signal, take

F = torch.float64
RADII = (1e-6, 0.01, 0.1, 0.5, 1.5, 4.0)


def problem(seed: int, *, number: int = 7, ties: int = 0):
    """Losses and a nominal law; the last `ties` losses are the largest."""
    rng = np.random.default_rng(seed)
    loss, p = rng.normal(size=number), rng.dirichlet(np.ones(number))
    if ties:
        loss[-ties:] = loss.max() + 1
    return loss, p


def kl(q: np.ndarray, p: np.ndarray) -> float:
    seen = q > 0
    return float((q[seen] * np.log(q[seen] / p[seen])).sum())


def chi2(q: np.ndarray, p: np.ndarray) -> float:
    return float(0.5 * (p * (q / p - 1) ** 2).sum())


def worst(ball, loss, p):
    found = ball.worst(torch.tensor(loss), torch.tensor(p))
    return found.weight.numpy(), float(found.value), found.eta


def dual(loss: np.ndarray, p: np.ndarray, rho: float) -> float:
    """inf_η (1/η) log Σ p e^{ηℓ} + ρ/η on a fine grid of log η, refined twice."""
    low, high, best = -12.0, 12.0, math.inf
    for _ in range(3):
        grid = np.exp(np.linspace(low, high, 4001))
        z = grid[:, None] * loss
        top = z.max(1)
        values = (np.log((p * np.exp(z - top[:, None])).sum(1)) + top + rho) / grid
        at = int(values.argmin())
        best = min(best, float(values[at]))
        step = (high - low) / 4000
        low, high = math.log(grid[at]) - step, math.log(grid[at]) + step
    return best


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_c1_the_kl_dual_is_the_tilted_primal(seed, rho):
    """(c) 1: strong duality; KL(q*) = ρ where the largest loss does not take all."""
    loss, p = problem(seed)
    q, value, eta = worst(KLBall(rho), loss, p)
    assert value == pytest.approx(dual(loss, p, rho), abs=1e-9)
    assert q @ loss == pytest.approx(value, abs=1e-12) and q.sum() == pytest.approx(1, abs=1e-12)
    saturates = rho >= -math.log(p[loss.argmax()])
    assert math.isinf(eta) if saturates else kl(q, p) == pytest.approx(rho, rel=1e-9)
    if not saturates:
        tilted = p * np.exp(eta * (loss - loss.max()))
        np.testing.assert_allclose(q, tilted / tilted.sum(), rtol=1e-9)


@pytest.mark.parametrize("ball", [KLBall, ChiSquareBall])
@pytest.mark.parametrize("ties", [0, 2])
def test_c1_from_the_mean_to_the_largest_loss_and_rising(ball, ties):
    loss, p = problem(3, ties=ties)
    values = [worst(ball(rho), loss, p)[1] for rho in (0.0, *RADII, 50.0)]
    assert values[0] == pytest.approx(p @ loss, abs=1e-12)
    assert all(a <= b + 1e-12 for a, b in pairwise(values)) and values[1] > values[0]
    q, largest, _ = worst(ball(50.0), loss, p)
    assert largest == pytest.approx(loss.max(), abs=1e-12)
    at_top = loss == loss.max()
    np.testing.assert_allclose(q, np.where(at_top, p, 0) / p[at_top].sum(), atol=1e-12)
    assert at_top.sum() == max(ties, 1)


@pytest.mark.parametrize("ball", [KLBall(0.3), ChiSquareBall(0.3), ChiSquareBound(0.3)])
def test_losses_that_agree_leave_the_nominal_weights(ball):
    q, value, _ = worst(ball, np.full(4, 0.7), np.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(q, [0.1, 0.2, 0.3, 0.4])
    assert value == pytest.approx(0.7)


def test_the_bound_keeps_a_nominal_law_that_sees_one_loss():
    q, value, _ = worst(ChiSquareBound(0.3), np.array([1.0, 5.0]), np.array([1.0, 0.0]))
    assert q.tolist() == [1.0, 0.0] and value == 1.0


@pytest.mark.parametrize("shift", [1e6, -1e6])
def test_the_worst_weights_know_neither_level_nor_unit_of_the_losses(shift):
    loss, p = problem(1)
    for ball in (KLBall(0.2), ChiSquareBall(0.2)):
        np.testing.assert_allclose(worst(ball, 1e-3 * loss + shift, p)[0], worst(ball, loss, p)[0], rtol=1e-5)


def chi2_by_search(loss: np.ndarray, p: np.ndarray, rho: float) -> np.ndarray:
    """The exact set's weights by bisection on the threshold ν: q ∝ p (ℓ − ν)₊."""

    def weights(nu: float) -> np.ndarray:
        q = p * np.maximum(loss - nu, 0)
        return q / q.sum()

    low, high = loss.min() - 1e7, np.sort(loss)[-1] - 1e-12
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (middle, high) if chi2(weights(middle), p) < rho else (low, middle)
    return weights(low)


@pytest.mark.parametrize("rho", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_c2_the_exact_chi_square_weights_are_those_of_a_search(seed, rho):
    loss, p = problem(seed, number=9)
    q, value, _ = worst(ChiSquareBall(rho), loss, p)
    assert q.min() >= 0 and q.sum() == pytest.approx(1, abs=1e-12)
    if rho < 0.5 * (1 / p[loss.argmax()] - 1):
        assert chi2(q, p) == pytest.approx(rho, rel=1e-9)
        np.testing.assert_allclose(q, chi2_by_search(loss, p, rho), atol=1e-6)
    for other in np.random.default_rng(seed).dirichlet(np.ones(9), size=300):
        pulled = p + min(1.0, math.sqrt(rho / max(chi2(other, p), 1e-12))) * (other - p)  # into the set
        assert pulled @ loss <= value + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_c2_the_bound_is_above_and_exact_iff_no_weight_is_negative(seed):
    loss, p = problem(seed, number=9)
    mean = p @ loss
    deviation = math.sqrt(p @ (loss - mean) ** 2)
    limit = 0.5 * (deviation / (mean - loss.min())) ** 2  # the largest ρ at which no weight is negative
    for rho, tight in ((0.5 * limit, True), (0.999 * limit, True), (1.5 * limit, False), (6 * limit, False)):
        q, bound, _ = worst(ChiSquareBound(rho), loss, p)
        assert bound == pytest.approx(mean + math.sqrt(2 * rho) * deviation, abs=1e-12)
        exact = worst(ChiSquareBall(rho), loss, p)[1]
        assert (q.min() >= 0) == tight
        assert abs(bound - exact) < 1e-12 if tight else bound > exact + 1e-6


def test_a_fixed_tilt_is_an_upper_bound_touching_at_its_own_radius():
    loss, p = problem(2)
    q, value, eta = worst(KLBall(0.2), loss, p)
    at_own, above = worst(KLBall(0.2, eta=eta), loss, p), worst(KLBall(0.2, eta=2 * eta), loss, p)
    np.testing.assert_allclose(at_own[0], q, rtol=1e-9)
    assert at_own[1] == pytest.approx(value, abs=1e-10) and above[1] > value + 1e-4


# ------------------------------------------------------------------------------------------------------ as a term


BALL = KLBall(0.2)


def term(ball=BALL, **more) -> RobustTerm:
    return RobustTerm("policy", LogRatio("old_logp"), Clipped(), Advantage(), ambiguity=ball, **more)


def setting(seed: int = 0):
    batch = batch_of(seed=seed)
    stats = stats_of(batch).masked(batch.mask)
    gen = torch.Generator().manual_seed(9)
    return batch, stats, Signal(advantage=torch.randn(batch.mask.shape, generator=gen, dtype=F))


def plain_losses(batch, stats, signal, *, spans: bool) -> tuple[list[float], list[float], list[torch.Tensor]]:
    """(mean clipped loss, row weight × tokens, where) of each atom, token by token."""
    losses, weights, places = [], [], []
    for b in range(batch.rows):
        numbers = batch.segment[b] if spans else torch.zeros_like(batch.segment[b])
        for number in numbers[batch.mask[b]].unique().tolist():
            place = torch.zeros_like(batch.mask)
            place[b] = batch.mask[b] & (numbers == number)
            found = []
            for t in place[b].nonzero().flatten().tolist():
                ratio = math.exp(float(stats.logp[b, t] - stats.old_logp[b, t]))
                a = float(signal.advantage[b, t])
                found.append(-min(ratio * a, min(max(ratio, 0.8), 1.2) * a))
            losses.append(sum(found) / len(found))
            weights.append(float(batch.weight[b]) * len(found))
            places.append(place)
    return losses, weights, places


@pytest.mark.parametrize("atoms", ["trajectory", "span"])
def test_atoms_are_means_over_their_own_tokens(atoms):
    batch, stats, signal = setting()
    losses, weights, _ = plain_losses(batch, stats, signal, spans=atoms == "span")
    loss, nominal = term(atoms=atoms).losses(batch, stats, signal)
    np.testing.assert_allclose(loss.numpy(), losses, rtol=1e-12)
    np.testing.assert_allclose(nominal.numpy(), np.array(weights) / sum(weights), rtol=1e-12)
    assert (len(loss) > batch.rows) == (atoms == "span")


@pytest.mark.parametrize("ball", [KLBall(0.2), KLBall(0.2, eta=3.0), ChiSquareBall(0.6), ChiSquareBound(0.3)])
@pytest.mark.parametrize("atoms", ["trajectory", "span"])
def test_c3_the_gradient_is_that_of_the_value_and_the_worst_mean_of_gradients(ball, atoms):
    """Σ q* ∇ℓ by autograd, and by central differences of the value, whose q* moves."""
    batch, stats, signal = setting()
    robust = term(ball, atoms=atoms)
    logp = stats.logp.clone().requires_grad_()
    value = robust.sum(batch, replace(stats, logp=logp), signal)
    (gradient,) = torch.autograd.grad(value, logp)
    loss, nominal = robust.losses(batch, replace(stats, logp=logp), signal)
    (held,) = torch.autograd.grad(robust.worst(loss, nominal).weight @ loss, logp)
    torch.testing.assert_close(gradient, held, rtol=1e-12, atol=1e-14)
    for b, t in batch.mask.nonzero()[::7].tolist():
        ends = []
        for sign in (1, -1):
            moved = stats.logp.clone()
            moved[b, t] += sign * 1e-5
            ends.append(float(robust.sum(batch, replace(stats, logp=moved), signal)))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[b, t]), abs=2e-7)


def test_c3_at_ratio_one_negative_advantages_weigh_more():
    """ℓ = −Ā there, so q ∝ p e^{−η Ā}."""
    batch, stats, signal = setting()
    stats = replace(stats, logp=stats.old_logp)
    robust = term()
    loss, nominal = robust.losses(batch, stats, signal)
    found = robust.worst(loss, nominal)
    mean = torch.stack([a[m].mean() for a, m in zip(signal.advantage, batch.mask, strict=True)])
    tilted = nominal * torch.exp(-found.eta * mean)
    torch.testing.assert_close(found.weight, tilted / tilted.sum())
    assert (found.weight / nominal)[mean.argmin()] > 1.2 > 0.8 > (found.weight / nominal)[mean.argmax()]


def test_c4_one_span_a_row_is_the_row():
    batch, stats, signal = setting()
    single = replace(batch, segment=torch.zeros_like(batch.segment))
    rows, spans = (term(atoms=atoms).sum(single, stats, signal) for atoms in ("trajectory", "span"))
    torch.testing.assert_close(rows, spans, rtol=1e-12, atol=0)
    assert float((term(atoms="span").sum(batch, stats, signal) - rows).abs()) > 1e-3


def test_c4_one_row_is_plain_ppo():
    batch, stats, signal = (take(x, torch.tensor([4]), width=9) for x in setting())
    loss = plain_losses(batch, stats, signal, spans=False)[0]
    for ball in (KLBall(0.7), ChiSquareBall(0.7)):
        assert float(term(ball).sum(batch, stats, signal)) == pytest.approx(loss[0], rel=1e-12)


@pytest.mark.parametrize(
    ("nominal", "atoms", "aggregation"),
    [
        ("tokens", "trajectory", "token_mean"),
        ("tokens", "span", "token_mean"),
        ("uniform", "trajectory", "sequence_mean"),
    ],
)
def test_radius_zero_is_rto_where_the_weights_are_those_of_its_aggregation(nominal, atoms, aggregation):
    batch = batch_of()
    stats = stats_of(batch)
    robust = build("drto", rho=0.0, nominal=nominal, atoms=atoms, beta_guide=0.4)
    for given, same in ((aggregation, True), ("token_mean" if aggregation != "token_mean" else "sequence_mean", False)):
        plain = build("rto", beta_guide=0.4, aggregation=given)
        gap = (robust.token_weight(batch, stats) - plain.token_weight(batch, stats)).abs().max()
        assert bool(gap < 1e-15) == same


def test_rows_of_weight_zero_and_of_other_streams_are_no_atoms():
    batch, stats, signal = setting()
    value = term().sum(*(take(x, torch.arange(8), width=9) for x in (batch, stats, signal)))
    light = replace(batch, weight=torch.where(torch.arange(12) < 8, batch.weight, 0.0))
    other = replace(batch, origin=torch.where(torch.arange(12) < 8, 0, 1))
    for one in (light, other):
        torch.testing.assert_close(term().sum(one, stats, signal), value)
    nothing = replace(batch, weight=torch.zeros_like(batch.weight))
    assert float(term().sum(nothing, stats, signal)) == float(term().weight(nothing)) == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rho": -0.1}, "rho must be ≥ 0, got -0.1"),
        ({"rho": float("nan")}, "rho must be finite and ≥ 0, got nan"),
        ({"robust_eta": 0.0}, "robust_eta must be > 0, got 0.0"),
        ({"divergence": "chi2", "robust_eta": 1.0}, "robust_eta is the tilt of divergence 'kl', got 'chi2'"),
    ],
)
def test_settings_that_make_no_set_are_refused(settings, why):
    with pytest.raises(InputError, match=why):
        build("drto", **settings)


def test_sets_built_by_hand_refuse_a_radius_below_zero_and_a_tilt_of_zero():
    for made in (KLBall, ChiSquareBall, ChiSquareBound):
        with pytest.raises(InputError, match=r"must be 0 or more.*, got -0.1"):
            made(-0.1)
    with pytest.raises(InputError, match="the tilt η of a KL set must be above 0, got 0"):
        KLBall(0.1, eta=0.0)
