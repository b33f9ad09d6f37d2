"""Frontiers of reward and KL: the hull and its band, best of n by enumeration, and the study's numbers again."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from tests.lab.plain import gibbs, kl
from tokenward.diagnose.measures.frontier import GRID as PLACES
from tokenward.diagnose.measures.frontier import Measured, band, hull
from tokenward.errors import InputError
from tokenward.lab.optima import exact
from tokenward.lab.optima.best_of_n import best_of_n_law
from tokenward.lab.worlds.world import default_world
from tokenward.studies.frontier import DRAWS, GRID, METHODS, frontier
from tokenward.studies.gibbs import best_reward, reward_and_kl
from tokenward.sweep.frontier import bands, figure

frontier_study = sys.modules[frontier.__module__]


def best_mixture(kls: np.ndarray, rewards: np.ndarray, at: float) -> float:
    """The largest reward of a coin between two points with mean KL ≤ at, by trying 2,001 coins for each two."""
    best = -math.inf
    for i, j in itertools.product(range(len(kls)), repeat=2):
        share = np.linspace(0, 1, 2001)
        inside = (1 - share) * kls[i] + share * kls[j] <= at + 1e-12
        mixed = ((1 - share) * rewards[i] + share * rewards[j])[inside]
        best = max(best, mixed.max(initial=-math.inf))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_hull_is_the_best_coin_between_two_points(seed: int) -> None:
    random = np.random.default_rng(seed)
    kls, rewards = np.r_[0.0, random.uniform(0, 5, 5)], np.r_[0.0, random.normal(1, 1, 5)]
    at = torch.tensor([0.0, 0.4, 1.3, 2.2, 4.9, 9.0], dtype=torch.float64)
    found = hull(torch.tensor(kls)[None], torch.tensor(rewards)[None], at)[0].tolist()
    assert np.allclose(found, [best_mixture(kls, rewards, k) for k in at.tolist()], atol=5e-3)
    assert all(b >= a for a, b in itertools.pairwise(found))


def test_the_band_is_the_hull_of_means_and_as_wide_as_its_prompts_differ() -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 400, generator=random, dtype=torch.float64)
    start = Measured(torch.zeros(1, 400).double(), torch.zeros(1, 400).double())
    point = Measured(1 + noise, torch.full((2, 400), 2.0).double())
    found = band([start, point])
    mean = float((1 + noise).mean())
    assert found.kl[0] == 0 and math.isclose(found.kl[-1], 2)
    assert np.allclose(found.reward, [mean * k / 2 for k in found.kl], atol=1e-9)
    # the standard error of a mean over prompts of the mean over both seeds, seeds drawn again on top
    expected = 2 * 1.96 * float(noise.mean(0).std()) / 20
    assert 1.1 * expected < found.high[-1] - found.low[-1] < 1.6 * expected
    assert found.low[-1] < mean < found.high[-1]
    assert math.isclose(band([start, point], most=1.0).reward[-1], mean / 2, rel_tol=1e-9)
    with pytest.raises(InputError, match="the same prompts"):
        band([start, Measured(torch.zeros(1, 3).double(), torch.zeros(1, 3).double())])


def test_draws_are_worked_off_in_blocks_of_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    kl, reward = torch.rand(2, 50, 6, generator=random, dtype=torch.float64)
    at = torch.linspace(0, 1, 9, dtype=torch.float64)
    whole = hull(kl, reward, at)
    sizes: list[int] = []
    where = torch.where
    monkeypatch.setattr(torch, "where", lambda *parts: sizes.append(parts[0].numel()) or where(*parts))
    for block in (1, 7 * 9 * 36):  # a draw at a time, and seven
        sizes.clear()
        monkeypatch.setattr("tokenward.diagnose.measures.frontier.BLOCK", block)
        assert torch.equal(hull(kl, reward, at), whole) and max(sizes) <= max(block, 9 * 36)


def test_a_band_that_begins_behind_zero_has_numbers_everywhere() -> None:
    """Without the start model some draws have no point at the smallest KL: those that have one make the interval."""
    random = torch.Generator().manual_seed(0)
    points = [
        Measured(k + torch.randn(2, 30, generator=random).double(), k + 0.3 * torch.rand(2, 30, generator=random))
        for k in (0.5, 1.0, 2.0)
    ]
    found = band(points)
    assert (
        found.kl and found.kl[0] > 0.5 and len({len(x) for x in (found.kl, found.reward, found.low, found.high)}) == 1
    )
    least, most = (float(f(point.kl.mean() for point in points)) for f in (min, max))
    assert len(found.kl) == int((torch.linspace(0, most, PLACES).double() >= least).sum())
    assert all(math.isfinite(x) for x in (*found.reward, *found.low, *found.high))
    assert all(low < high for low, high in zip(found.low, found.high, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_best_of_n_is_what_enumerating_all_draws_gives_ties_shared(n: int) -> None:
    law, score = np.array([0.4, 0.3, 0.2, 0.1]), [1.0, 2.0, 2.0, 0.5]
    expected = np.zeros(4)
    for draws in itertools.product(range(4), repeat=n):
        top = max(score[i] for i in draws)
        winners = [i for i in draws if score[i] == top]
        for winner in winners:
            expected[winner] += math.prod(law[i] for i in draws) / len(winners)
    found = best_of_n_law(torch.tensor(law)[None], torch.tensor([score]).double(), n=n)[0]
    assert np.allclose(found, expected, atol=1e-12) and math.isclose(float(found.sum()), 1, abs_tol=1e-12)


def test_best_of_n_with_answers_that_never_come() -> None:
    found = best_of_n_law(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.0]]), n=3)
    assert found.tolist() == [[0.5, 0.0, 0.5]]
    with pytest.raises(InputError, match="1 or more, got 0"):
        best_of_n_law(found, found, n=0)


def test_the_study_again_in_numpy() -> None:
    study = frontier(None)
    assert not study.failed and len(study.claims) == 14
    world = default_world()
    weight, ref, reward = (x.numpy() for x in (world.weight, world.ref, world.reward))
    curve = []
    for tau in np.geomspace(0.02, 50, 4000):
        laws = [gibbs(p, r, tau) for p, r in zip(ref, reward, strict=True)]
        curve.append((sum(w * kl(q, p) for w, q, p in zip(weight, laws, ref, strict=True)),
                      sum(w * (q * r).sum() for w, q, r in zip(weight, laws, reward, strict=True))))  # fmt: skip
    kls, rewards = np.array(sorted(curve)).T
    for at in (0.01, 0.3, 1.0, 2.0):
        assert math.isclose(best_reward(world, at), np.interp(at, kls, rewards), abs_tol=1e-4)
    assert math.isclose(best_reward(world, 0.0), (weight @ (ref * reward)).sum(), abs_tol=1e-9)
    assert all(min(one.x) > 1e-9 for one in study.figures[1].series)  # the reference itself is no policy below
    lines = {one.name: one for one in study.figures[0].series}
    assert (
        len(lines["best of n"].x) == len(DRAWS)
        and len(lines["PPO"].x) == len(GRID)
        and set(METHODS) - set(lines) == {"DPO"}
    )
    law = np.stack([gibbs(p, r, GRID[2]) for p, r in zip(ref, reward, strict=True)])
    assert np.allclose(reward_and_kl(world, torch.tensor(law)), (lines["PPO"].y[2], lines["PPO"].x[2]), atol=1e-9)
    below = {row[0]: row[2] for table in study.tables for row in table.rows}
    assert below["DPO"] is None and below["PPO"] is None and below["IPO"] > 1e-6 and below["best of n"] > 1e-3


def test_a_line_on_the_frontier_is_not_below_it() -> None:
    world = default_world()
    laws = [world.ref, *(exact.boltzmann(world.ref, world.reward, tau=tau) for tau in (2.0, 1.0, 0.5))]
    below, *others = frontier_study._draw_claims(
        [frontier_study._at(world, law, float(n)) for n, law in enumerate(laws, 1)], own=True
    )
    assert not below.holds and "below" in below.text and all(claim.holds for claim in others)


def record(method: str, beta: float | None, rewards: list[float], distance: float) -> dict[str, object]:
    held = {"prompt": [0, 1, 2], "reward": rewards, "kl": [distance] * 3}
    point = {} if beta is None else {"beta": beta}
    return {"method": method, "point": point, "seed": 0, "status": "done", "heldout": held, "training": {}}


def test_a_sweep_draws_the_frontier_of_methods_with_two_places() -> None:
    records = [
        record("start", None, [0.0, 0.0, 0.0], 0.0), record("dpo", 1.0, [1.0, 1.0, 1.0], 1.0),
        record("dpo", 0.1, [1.5, 1.5, 1.5], 4.0), record("one_place", 0.1, [9.0, 9.0, 9.0], 1.0),
    ]  # fmt: skip
    found = bands(records)
    assert list(found) == ["dpo"] and found["dpo"].reward[0] == 0 and found["dpo"].kl[-1] == 4
    assert np.isclose(found["dpo"].reward[10], 1.0) and found["dpo"].low == found["dpo"].high
    assert [one.name for one in figure(records).series] == ["dpo"]
