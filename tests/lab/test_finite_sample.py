"""Finite data and finite steps: statements 6 and 26 on UDRRA, and the parts in plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, sigmoid, tree_world
from tokenward.errors import InputError
from tokenward.lab.rates.finite_sample import descent_floor, maximum_likelihood, normalizer_bias, sample_error

DISTINCT = [[i, j, 1] for i, j in itertools.combinations(range(5), 2)]


def test_6_log_z_from_few_draws_is_too_low():
    found = normalizer_bias(bandit(), draws=16)
    tilt = np.exp(REWARD / TAU)
    mean = REF @ tilt
    assert found.predicted == pytest.approx(-TAU * (REF @ tilt**2 - mean**2) / (32 * mean**2), rel=1e-12)
    assert (found.predicted, found.exact) == (pytest.approx(-0.0378, abs=5e-5), pytest.approx(-0.0389, abs=1e-4))
    halves = [normalizer_bias(bandit(), draws=k).exact for k in (8, 16, 32)]
    assert halves[0] / halves[1] == pytest.approx(2, abs=0.1) and halves[1] / halves[2] == pytest.approx(2, abs=0.05)
    assert normalizer_bias(bandit(tau=0.2), draws=16).exact < 3 * found.exact  # worse as τ falls


def test_6_exact_bias_is_the_sum_over_all_draws():
    tilt, expected = np.exp(REWARD / TAU), 0.0
    for some in itertools.product(range(5), repeat=3):
        expected += np.prod(REF[list(some)]) * TAU * np.log(tilt[list(some)].mean())
    assert normalizer_bias(bandit(), draws=3).exact == pytest.approx(expected - TAU * np.log(REF @ tilt), abs=1e-12)


def test_26_error_of_n_labels_is_the_predicted_one_within_three_standard_errors():
    for tau, predicted in ((0.35, 1.36e-3), (0.7, 4.15e-4), (1.4, 1.19e-4)):
        found = sample_error(bandit(tau=tau, pairs=DISTINCT), number=20_000)
        assert found.predicted == pytest.approx(predicted, rel=5e-3)
        assert abs(found.measured - found.predicted) <= 3 * found.standard_error
        assert found.standard_error < 0.15 * found.predicted
        assert (found.repetitions, found.without) == (200, 0)
    wasted = sample_error(bandit(), number=1000, repetitions=2)  # a fifth of the pairs are self-pairs
    assert wasted.predicted == pytest.approx(20_000 / 1000 * 4.15e-4 / 0.8, rel=5e-3)


def test_with_few_labels_some_estimates_are_infinite_and_counted():
    found = sample_error(bandit(pairs=DISTINCT), number=40, repetitions=100)
    assert found.without > 0 and found.repetitions + found.without == 100


def test_maximum_likelihood_solves_its_equations():
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 9, size=(30, 4, 4)).astype(float)
    wins[:, range(4), range(4)] = 0
    wins[0, 2, :] = 0  # never wins
    score, finite = maximum_likelihood(torch.tensor(wins))
    assert not finite[0] and int(finite.sum()) >= 25
    for u, table in zip(score[finite].numpy(), wins[finite.numpy()], strict=True):
        games = table + table.T
        assert np.abs((table - games * sigmoid(u[:, None] - u)).sum(-1)).max() < 1e-8
        assert u.sum() == pytest.approx(0, abs=1e-9)


def test_26_single_hard_labels_leave_a_floor_that_goes_with_the_step_and_soft_ones_none():
    law = gibbs(REF, REWARD, TAU)
    high = descent_floor(bandit(), step=0.3, labels="hard", steps=1500, chains=200)
    low = descent_floor(bandit(), step=0.03, labels="hard", steps=6000, chains=100)
    soft = descent_floor(bandit(), step=0.3, labels="soft", steps=5000, chains=4)
    assert high.predicted == pytest.approx(0.3 * (1 - law @ law) / 4, rel=1e-12)
    assert high.predicted == pytest.approx(10 * low.predicted, rel=1e-12)
    assert high.measured == pytest.approx(high.predicted, rel=0.1)
    assert low.measured == pytest.approx(low.predicted, rel=0.15)  # .00405
    assert high.measured > low.measured > 1e-3
    assert (soft.predicted, abs(soft.measured) < 1e-9) == (0.0, True)
    rda = descent_floor(bandit(), step=0.3, labels="hard", loss="difference", steps=400, chains=4)
    assert rda.predicted == 0.0 and abs(rda.measured) < 1e-12


def test_only_a_bandit_of_one_prompt():
    with pytest.raises(InputError, match="one prompt and horizon 1 is needed, got 1 prompts, horizon 2"):
        sample_error(tree_world(vocab=2, horizon=2, eos=None), number=10)
