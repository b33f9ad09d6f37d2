"""Data design: the spectra of the named designs, and the best weights against everything else that was tried."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tests.lab.plain import REF, REWARD, TAU, gibbs, laplacian, sigmoid
from tokenward.errors import InputError
from tokenward.lab.rates.design import best_weights, designs, measure_design
from tokenward.lab.worlds.world import Listed

reward, ref = torch.tensor(REWARD), torch.tensor(REF)
EVERY = torch.combinations(torch.arange(5))


@pytest.fixture(scope="module")
def found():
    return {one.name: one for one in designs(reward, ref=ref, tau=TAU)}


def test_designs_have_the_numbers_of_the_notes(found):
    expected = {
        "complete": (0.0463, 0.5),
        "path of adjacent ranks": (0.0205, 0.0955),
        "star on the best": (0.0119, 0.25),
        "star on the worst": (0.0120, 0.25),
    }
    for name, (curved, plain) in expected.items():
        assert found[name].connectivity == pytest.approx(curved, abs=5e-5)
        assert found[name].plain_connectivity == pytest.approx(plain, abs=5e-5)
        assert float(found[name].listed.weight.sum()) == pytest.approx(1, abs=1e-12)


def numbers(pairs, weight):
    """λ₂, λ_max of 𝓛(w⊙σ′) and the trace, in numpy."""
    matrix = np.zeros((5, 5))
    for (i, j), w in zip(pairs, weight, strict=True):
        gap = REWARD[i] - REWARD[j]
        matrix[i, j] += w * sigmoid(gap) * sigmoid(-gap)
        matrix[j, i] = matrix[i, j]
    eigen = np.linalg.eigvalsh(laplacian(matrix))
    law = gibbs(REF, REWARD, TAU)
    spread = np.diag(law) - np.outer(law, law)
    return eigen[1], eigen[-1], np.trace(spread @ np.linalg.pinv(laplacian(matrix))) / (2 * TAU**2)


def test_spectra_and_error_of_a_design_in_plain_numpy():
    weight = np.random.default_rng(0).uniform(0.1, 1, size=10)
    one = measure_design("x", Listed(EVERY, torch.tensor(weight)), reward=reward, ref=ref, tau=TAU)
    low, high, error = numbers(EVERY.tolist(), weight / weight.sum())
    assert one.connectivity == pytest.approx(low, rel=1e-9)
    assert (one.largest, one.condition) == (pytest.approx(high, rel=1e-9), pytest.approx(high / low, rel=1e-9))
    assert one.error == pytest.approx(error, rel=1e-9)
    apart = Listed(torch.tensor([[0, 1], [2, 3]]), torch.ones(2, dtype=torch.float64))
    assert measure_design("x", apart, reward=reward, ref=ref, tau=TAU).error == float("inf")


def test_e16_best_weights_are_not_beaten(found):
    """Over this world's gaps they are 1/σ′ of the gaps: all eigenvalues but 0 are equal, 5/Σ(1/σ′)."""
    best = found["optimized"]
    inverse = 1 / (sigmoid(REWARD[:, None] - REWARD) * sigmoid(REWARD - REWARD[:, None]))
    assert best.connectivity == pytest.approx(5 / (inverse.sum() - np.trace(inverse)) * 2, rel=1e-6)
    assert best.condition == pytest.approx(1, abs=1e-5)
    assert all(best.connectivity > 1.2 * one.connectivity for one in found.values() if one is not best)
    rng = np.random.default_rng(1)
    for size in (0.01, 0.1, 1.0):
        for _ in range(200):
            weight = np.abs(best.listed.weight.numpy() + size * rng.normal(size=10) / 10)
            assert numbers(EVERY.tolist(), weight / weight.sum())[0] <= best.connectivity * (1 + 1e-9)
    # steps at a fixed size are best served by it, labels by another design
    assert min(found.values(), key=lambda one: one.error) is not best


def test_wide_gaps_leave_pairs_without_weight():
    wide = 5 * reward
    gap = wide[EVERY[:, 0]] - wide[EVERY[:, 1]]
    best = best_weights(EVERY, gap, nodes=5)
    one = measure_design("x", best, reward=wide, ref=ref, tau=TAU)
    even = measure_design("x", Listed(EVERY, torch.ones(10, dtype=torch.float64)), reward=wide, ref=ref, tau=TAU)
    assert one.connectivity > 2.5 * even.connectivity
    assert float(best.weight[gap.abs().argmax()]) < 1e-3
    assert one.condition > 1.5


def test_without_gaps_the_best_weights_of_a_path_favor_its_middle():
    path = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])
    weight = best_weights(path, nodes=5).weight
    assert torch.allclose(weight, torch.tensor([0.2, 0.3, 0.3, 0.2], dtype=torch.float64), atol=1e-4)  # k(n−k)


def test_pairs_that_do_not_connect_and_a_missing_solver_are_refused(monkeypatch):
    with pytest.raises(InputError, match="do not connect all leaves"):
        best_weights(torch.tensor([[0, 1], [2, 3]]), nodes=5)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(InputError, match=r"design needs cvxpy and clarabel: pip install 'tokenward\[design\]'"):
        best_weights(EVERY, nodes=5)
