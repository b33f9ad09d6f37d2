from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab.plain import laplacian
from tokenward.lab.optima import graph


def symmetric(n, edges, rng):
    weight = np.zeros((n, n))
    for i, j in edges:
        weight[i, j] = weight[j, i] = rng.uniform(0.1, 1)
    return weight


@pytest.mark.parametrize(
    "edges", [[(0, 1), (1, 2), (2, 3)], [(0, 3), (1, 2)], [(4, 0)], [(0, 1), (1, 2), (0, 2), (3, 4)]]
)
def test_components_are_those_of_a_search(edges):
    n = 5
    label = list(range(n))
    for _ in range(n):
        for i, j in edges:
            label[i] = label[j] = min(label[i], label[j])
    found = graph.components(torch.tensor(edges), nodes=n)
    assert found.tolist() == label
    assert graph.is_connected(torch.tensor(edges), nodes=n) == (set(label) == {0})


def test_a_long_path_is_one_component():
    n = 4096
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert graph.is_connected(torch.stack([order[:-1], order[1:]], -1), nodes=n)


@pytest.mark.parametrize("edges", [[(0, 1), (1, 2), (2, 3), (0, 3), (0, 2)], [(0, 1), (2, 3)], [(1, 3)]])
def test_balance_is_the_pseudo_inverse_of_the_laplacian(edges):
    rng = np.random.default_rng(0)
    weight = symmetric(4, edges, rng)
    want = rng.normal(size=(4, 4))
    want = want - want.T
    expected = np.linalg.pinv(laplacian(weight)) @ (weight * want).sum(-1)
    assert np.allclose(graph.balance(torch.tensor(weight), torch.tensor(want)), expected, atol=1e-12)
    assert np.allclose(graph.laplacian(torch.tensor(weight)), laplacian(weight))


def test_scores_of_consistent_differences_are_found_and_others_refused():
    rng = np.random.default_rng(1)
    cycle = symmetric(3, [(0, 1), (1, 2), (0, 2)], rng)
    u = np.array([1.0, -2.0, 4.0])
    found = graph.consistent(torch.tensor(cycle), torch.tensor(u[:, None] - u))
    assert np.allclose(found, u - u.mean(), atol=1e-12)
    bent = u[:, None] - u
    bent[0, 1] += 0.1
    bent[1, 0] -= 0.1
    assert graph.consistent(torch.tensor(cycle), torch.tensor(bent)) is None
    path = symmetric(3, [(0, 1), (1, 2)], rng)
    assert graph.consistent(torch.tensor(path), torch.tensor(bent)) is not None
    bent[0, 1] = np.inf
    assert graph.consistent(torch.tensor(path), torch.tensor(bent)) is None


def test_spectra_are_those_of_each_component():
    rng = np.random.default_rng(2)
    order = rng.permutation(23)
    parts = [order[:7], order[7:11], order[11:13], order[13:15], order[15:22], order[22:]]  # sizes 7 4 2 2 7 1
    pairs, weights = [], []
    for part in parts:
        edges = [(part[k], part[k + 1]) for k in range(len(part) - 1)]
        edges += [tuple(rng.choice(part, 2, replace=False)) for _ in range(5)] if len(part) > 2 else []
        pairs += edges
        weights += list(rng.uniform(0.1, 2, size=len(edges)))
    pairs.append((order[0], order[22]))  # weight 0: no edge
    pairs.append((order[22], order[22]))  # a self-pair: none either
    weights += [0.0, 3.0]
    found = graph.spectra(torch.tensor(np.array(pairs)), torch.tensor(weights), nodes=23)
    assert [one.first for one in found] == sorted(int(min(part)) for part in parts if len(part) > 1)
    for part in parts:
        if len(part) == 1:
            continue
        weight = np.zeros((23, 23))
        for (i, j), w in zip(pairs, weights, strict=True):
            weight[i, j] += w
            weight[j, i] += w
        eigen = np.linalg.eigvalsh(laplacian(weight[np.ix_(part, part)]))
        (one,) = (one for one in found if one.first == min(part))
        assert one.nodes == len(part)
        assert one.connectivity == pytest.approx(eigen[1], rel=1e-9)
        assert one.largest == pytest.approx(eigen[-1], rel=1e-9)
        assert one.condition == pytest.approx(eigen[-1] / eigen[1], rel=1e-9)


def test_spectra_of_many_small_components_are_quick_and_of_a_large_one_left_out():
    many = torch.arange(100_000).view(-1, 2)
    found = graph.spectra(many, torch.ones(50_000), nodes=100_000)
    assert len(found) == 50_000 and {(one.connectivity, one.largest) for one in found} == {(2.0, 2.0)}
    long = torch.stack([torch.arange(2000), torch.arange(1, 2001)], -1)
    (one,) = graph.spectra(long, torch.ones(2000), nodes=2001)
    assert (one.nodes, one.connectivity, one.largest, one.condition) == (2001, None, None, None)


def test_finite_scores_need_wins_both_ways():
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(200):
        beats = rng.random((6, 6)) < 0.22
        np.fill_diagonal(beats, False)
        if not beats.any():
            continue
        reach = np.linalg.matrix_power(beats.astype(int) + np.eye(6, dtype=int), 6) > 0
        linked = np.linalg.matrix_power((beats | beats.T).astype(int) + np.eye(6, dtype=int), 6) > 0
        expected = [bool(reach[np.ix_(row, row)].all()) for row in linked]
        assert graph.both_ways(torch.tensor(np.argwhere(beats)), nodes=6).tolist() == expected
        seen |= set(expected)
    assert seen == {True, False}
