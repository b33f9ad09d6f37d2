from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab.plain import laplacian
from tokenward.lab import graph


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
