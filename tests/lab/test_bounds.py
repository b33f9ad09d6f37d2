"""What losses bound (24) and the surrogate that cannot rise (25), in plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, kl, random_law, sigmoid, tv
from tokenward.errors import InputError
from tokenward.lab.rates.bounds import distance, preference_loss, shift, surrogate_steps

GAP = REWARD[:, None] - REWARD
PI = gibbs(REF, REWARD, TAU)


def divergences(law):
    p, lr = sigmoid(GAP), TAU * np.log(law / REF)
    q = sigmoid(lr[:, None] - lr)
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_24_bounds_hold_on_a_thousand_policies_and_are_the_formulas():
    rng, world = np.random.default_rng(0), bandit()
    mu = random_law(rng, 5)
    tightest = np.zeros(5)
    for _ in range(1000):
        law = random_law(rng, 5, spread=2)
        row, given = torch.tensor(law), torch.tensor(mu)
        far, moved = distance(world, row, mu=given), shift(world, row, mu=given)
        d = np.log(law / PI)
        most = TAU**2 / 8 * (d.max() - d.min()) ** 2
        assert far.kl == pytest.approx(kl(law, PI), abs=1e-12)
        assert far.by_differences == pytest.approx((mu @ d**2 - (mu @ d) ** 2) / (2 * mu.min()), rel=1e-9)
        assert moved.own == pytest.approx(law @ divergences(law) @ law, abs=1e-12)
        assert moved.given == pytest.approx(mu @ divergences(law) @ mu, abs=1e-12)
        assert moved.by_distance == pytest.approx(2 * most * tv(law, mu), rel=1e-9)
        assert moved.by_divergence == pytest.approx(most * np.sqrt(2 * kl(mu, law)), rel=1e-9)
        assert divergences(law).max() <= most
        ratios = np.array([
            far.kl / far.by_differences, far.kl / far.by_preferences, abs(moved.own - moved.given) / moved.by_distance,
            moved.by_distance / moved.by_divergence, moved.own / moved.by_ratio,
        ])  # fmt: skip
        assert ratios.max() <= 1 + 1e-9
        tightest = np.maximum(tightest, ratios)
    assert tightest.min() > 0.02  # none of them is idle


def test_25_the_worst_case_surrogate_never_rises_and_stalls():
    assert preference_loss(bandit(), torch.tensor(REF), mu=torch.tensor(REF)) == pytest.approx(0.14881, abs=1e-5)
    seen = surrogate_steps(bandit(), penalty="root", coefficient=None, rounds=3)
    assert seen[0] == pytest.approx(0.14881, abs=1e-5)
    assert seen == [seen[0]] * 4


def test_25_a_small_penalty_moves_and_the_linear_one_has_no_guarantee():
    linear = surrogate_steps(bandit(), penalty="linear", coefficient=0.05, rounds=3)
    assert linear == pytest.approx([0.14881, 0.0092, 6.4e-4, 4.0e-5], rel=0.02)
    root = surrogate_steps(bandit(), penalty="root", coefficient=0.05, rounds=2)
    assert root[0] > root[1] > root[2] > 1e-3  # slower and slower: the cone
    with pytest.raises(InputError, match="give a coefficient"):
        surrogate_steps(bandit(), penalty="linear", coefficient=None, rounds=1)


def test_25_never_rises_in_other_worlds():
    rng = np.random.default_rng(1)
    for _ in range(4):
        world = bandit(ref=random_law(rng, 4), reward=rng.normal(size=4), tau=1.0)
        for coefficient in (None, 0.3):
            seen = surrogate_steps(world, penalty="root", coefficient=coefficient, rounds=2)
            assert all(after <= before + 1e-12 for before, after in itertools.pairwise(seen))
