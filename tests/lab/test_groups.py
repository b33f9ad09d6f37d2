"""Finite groups: exact expectations over multisets, against plain sums over all G-tuples."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at, slope
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, random_law, tv
from tokenward.errors import InputError
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.groups import multisets, pairs_within, rows_of
from tokenward.lab.solving.policy import batch_of
from tokenward.lab.solving.solve import solve
from tokenward.recipes import build
from tokenward.types import TokenStats

RAGGED = {"vocab": 2, "horizon": 3, "eos": 1, "prompts": 2, "tau": TAU, "seed": 4}
EPS = 1e-4  # GroupScale's


def grouped(world, size):
    return replace(world, prompts=tuple(replace(prompt, group=size) for prompt in world.prompts))


# ------------------------------------------------------------------------------------------- the multisets themselves


@pytest.mark.parametrize(("things", "size"), [(5, 1), (5, 3), (3, 5), (2, 7), (4, 4), (1, 3)])
def test_multisets_have_the_probability_of_all_their_orders(things, size):
    law = random_law(np.random.default_rng(0), things)
    expected: dict[tuple[int, ...], float] = {}
    for draw in itertools.product(range(things), repeat=size):
        key = tuple(sorted(draw))
        expected[key] = expected.get(key, 0.0) + math.prod(law[i] for i in draw)
    found = multisets(things, size)
    chance = found.chance(torch.tensor(law))
    got: dict[tuple[int, ...], float] = {}
    for number, p in enumerate(chance.tolist()):
        rows = (found.group == number).nonzero().squeeze(-1)
        members = itertools.chain.from_iterable([int(found.thing[r])] * int(found.count[r]) for r in rows)
        got[tuple(sorted(members))] = p
    assert got.keys() == expected.keys()
    assert max(abs(got[key] - expected[key]) for key in got) < 1e-15


def test_too_many_multisets_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"^group 5 of 4096 leaves: [0-9,]+ multisets are more than 1,000,000; .*$"):
        multisets(4096, 5)


def test_leaves_that_are_never_drawn_are_in_no_group():
    world = grouped(bandit(sampler=[0.5, 0, 0.5, 0, 0]), 3)
    rows = rows_of("scores", world, world.prompts[0].sampler[None])
    assert set(rows.place.tolist()) == {0, 2}
    assert float(rows.weight.sum()) == pytest.approx(1, abs=1e-15)


def test_prompts_may_have_groups_of_different_size():
    world = plain.tree_world(**RAGGED)
    world = replace(world, prompts=(replace(world.prompts[0], group=2), world.prompts[1]))
    batch = batch_of(build("rloo"), world, world.ref)
    assert batch.group_size[0] == 2
    assert batch.group_size[-1] == torch.inf
    leaves = world.tree.leaves
    assert len(torch.unique(batch.group)) == leaves * (leaves + 1) // 2 + 1
    assert float(batch.weight.sum()) == pytest.approx(1, abs=1e-14)
    assert float(batch.weight[batch.group_size.isinf()].sum()) == pytest.approx(2 / 3, abs=1e-14)


def test_pairs_within_a_group_are_two_different_draws():
    law = random_law(np.random.default_rng(1), 4)
    for size in (2, 3, None):
        world = bandit(ref=law, reward=np.arange(4.0))
        rows = rows_of("rollouts", grouped(world, size), world.ref)
        found = pairs_within(rows)
        joint = np.zeros((4, 4))
        np.add.at(joint, tuple(rows.place[found.pairs].T.numpy()), found.weight.numpy())
        assert np.abs(joint - np.outer(law, law)).max() < 1e-15


# ------------------------------------------------------------------- unbiased baselines: the same gradient at every G


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rloo", {"beta_kl": TAU}),
        ("rloo", {"beta_kl": TAU, "aggregation": "sequence_mean"}),
        ("rloo", {"beta_kl": TAU, "kl": "loss_k3"}),
        ("mirror_descent", {"beta_kl": TAU, "kl": "exact"}),
        ("mirror_descent", {"beta_kl": TAU}),
        ("rebel", {"beta_kl": TAU}),
        ("reinforce", {"beta_kl": TAU}),
        ("ppo", {"beta_kl": TAU}),
    ],
)
def test_e4_leave_one_out_pairs_and_critics_do_not_feel_the_size_of_groups(name, settings, size):
    world = plain.tree_world(**RAGGED)
    rng = np.random.default_rng(2)
    law = np.stack([random_law(rng, world.tree.leaves) for _ in range(2)])
    infinite = slope(name, world, law, **settings)
    assert np.abs(slope(name, grouped(world, size), law, **settings) - infinite).max() < 1e-13
    assert np.abs(infinite).max() > 1e-3


def test_a_mean_baseline_that_counts_the_row_itself_shrinks_the_gradient():
    """E[A_i | y_i] = (1 − 1/G)(r_i − E r)."""
    law = random_law(np.random.default_rng(3), 5)
    recipe = build("grpo", beta_kl=0.0)
    recipe = replace(recipe, steps=recipe.steps[:-1])  # without the division
    for size in (2, 3, 7):
        problem = at("grpo", grouped(bandit(), size), law)
        problem.recipe = recipe
        found = torch.autograd.grad(problem.loss(), problem.logits)[0][0, 0].numpy()
        assert np.abs(found + (1 - 1 / size) * law * (REWARD - law @ REWARD)).max() < 1e-14


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rloo", {}),
        ("rloo", {"aggregation": "sequence_mean"}),
        ("grpo", {"kl": "reward"}),
        ("rebel", {}),
        ("mirror_descent", {"kl": "exact"}),
        ("reinforce", {"kl": "loss_k2"}),
    ],
)
def test_what_does_not_feel_the_size_keeps_its_target(name, settings, size):
    world = plain.tree_world(**RAGGED)
    recipe = build(name, beta_kl=TAU, **settings)
    expected = predict(recipe, world)
    found = predict(recipe, grouped(world, size))
    assert found.target == expected.target
    assert found.target is not None
    assert float((found.law - expected.law).abs().max()) < 1e-12
    solution = solve(recipe, grouped(world, size))
    assert solution.converged
    for x in range(2):
        assert tv(solution.law[x], expected.law[x]) < 1e-7


@pytest.mark.parametrize("size", [2, 3, 4])
def test_grpos_own_division_has_no_force_at_the_target_of_a_kl_in_the_reward(size):
    """All regularized returns are equal at π^τ: no group has any spread, whatever divides it. Elsewhere it pushes."""
    world = grouped(plain.tree_world(**RAGGED), size)
    target = world.target.numpy()
    assert np.abs(slope("grpo", world, target, beta_kl=TAU, kl="reward")).max() < 1e-12
    other = np.stack([random_law(np.random.default_rng(5), world.tree.leaves)] * 2)
    assert np.abs(slope("grpo", world, other, beta_kl=TAU, kl="reward")).max() > 1e-2


# ------------------------------------------------------------------------------------------ GRPO in groups of G answers


@lru_cache
def all_tuples(size):
    """Every G-tuple of the five answers, and the advantage of its first."""
    drawn = np.array(list(itertools.product(range(5), repeat=size)))
    reward = REWARD[drawn]
    return drawn, (reward[:, 0] - reward.mean(-1)) / (reward.std(-1) + EPS)  # 0/ε where all are the same answer


def grpo_advantage(law, size):
    """E[A_i | y_i = y] over all G-tuples that begin with y."""
    drawn, advantage = all_tuples(size)
    return np.bincount(drawn[:, 0], law[drawn[:, 1:]].prod(-1) * advantage, minlength=5)


def grpo_force(law, size, beta, kl):
    """−F⁻¹g up to a constant: the expected advantage less the pull of the KL."""
    pull = 1 - REF / law if kl == "loss_k3" else np.log(law / REF)
    force = grpo_advantage(law, size) - beta * pull
    return force - force.mean()


@pytest.mark.parametrize("kl", ["exact", "loss_k2", "loss_k3"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_e4_grpos_expected_gradient_is_that_of_all_tuples(size, kl):
    rng = np.random.default_rng(6)
    for _ in range(3):
        law = random_law(rng, 5)
        got = slope("grpo", grouped(bandit(), size), law, beta_kl=0.4, kl=kl) / law
        assert np.abs(got - got.mean() + grpo_force(law, size, 0.4, kl)).max() < 1e-12


@pytest.mark.parametrize("kl", ["exact", "loss_k3"])
@pytest.mark.parametrize(("size", "tau"), [(2, 0.5), (3, 0.7), (4, 0.5), (4, 1.0)])
def test_e4_grpo_rests_where_the_force_of_all_tuples_vanishes(size, tau, kl):
    world, recipe = grouped(bandit(tau=tau), size), build("grpo", beta_kl=tau, kl=kl)
    assert predict(recipe, world).law is None  # known by expectation, not in closed form
    solution = solve(recipe, world)
    assert solution.converged
    law = solution.law[0].numpy()
    assert np.abs(grpo_force(law, size, tau, kl)).max() < 1e-8
    by_hand = REF.copy()  # a plain iteration of its own
    for _ in range(2000):
        by_hand = by_hand * np.exp(0.1 * grpo_force(by_hand, size, tau, kl))
        by_hand /= by_hand.sum()
    assert tv(law, by_hand) < 1e-8


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_e4_at_finite_size_nothing_collapses_as_advantages_are_bounded(size):
    """|A| ≤ √(G − 1), so no log-ratio to π_ref differs from another by more than 2√(G − 1)/β."""
    tau = 0.5  # where infinite groups do collapse
    assert not solve(build("grpo", beta_kl=tau, kl="exact"), bandit(tau=tau)).converged
    world, recipe = grouped(bandit(tau=tau), size), build("grpo", beta_kl=tau, kl="exact")
    solution = solve(recipe, world)
    assert solution.converged
    ratio = np.log(solution.law[0].numpy() / REF)
    assert np.ptp(ratio) <= 2 * math.sqrt(size - 1) / tau
    batch = batch_of(recipe, world, world.ref)
    zero = torch.zeros_like(batch.mask, dtype=torch.float64)
    signal = recipe.signal(batch, TokenStats(logp=zero, old_logp=zero, ref_logp=zero))
    most = float(signal.advantage.abs().max())
    assert most <= math.sqrt(size - 1)
    assert most > 0.9 * math.sqrt(size - 1)


@pytest.mark.slow
def test_large_groups_approach_the_limit():
    world = bandit(tau=2.0)
    recipe = build("grpo", beta_kl=2.0, kl="exact")
    limit = predict(recipe, world).law[0]
    far = [tv(solve(recipe, grouped(world, size)).law[0], limit) for size in (2, 5, 12)]
    assert far[0] > 2 * far[1] > 4 * far[2]


# ------------------------------------------------------------------------------------------------- scores in groups


def test_rows_of_scores_are_draws_of_the_sampler():
    mu = random_law(np.random.default_rng(8), 5)
    world = grouped(bandit(sampler=mu.tolist()), 3)
    batch = batch_of(build("ra", normalizer="given"), world, world.ref)
    marginal = np.zeros(5)
    np.add.at(marginal, batch.tokens[:, 0].numpy(), batch.weight.numpy())
    assert np.abs(marginal - mu).max() < 1e-15
    assert tv(solve(build("ra", beta=TAU, normalizer="given"), world).law[0], gibbs(REF, REWARD, TAU)) < 1e-7
