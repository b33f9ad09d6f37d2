"""Answers of several laws in the lab: rows and pairs against plain products, games against their own equations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at, slope
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, kl, random_law, sigmoid, softmax, tree_world, tv
from tokenward.errors import InputError
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import batch_of, policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.solve import solve
from tokenward.objective.recipe import Stream
from tokenward.objective.terms import PairTerm
from tokenward.recipes import build

RAGGED = {"vocab": 3, "horizon": 2, "eos": 2, "prompts": 2, "seed": 7}
# Stone, paper, scissors, and a fourth answer that loses to the first two and beats the third: no scores give this.
CYCLE = np.array([[0.5, 0.9, 0.2, 0.8], [0.1, 0.5, 0.95, 0.7], [0.8, 0.05, 0.5, 0.4], [0.2, 0.3, 0.6, 0.5]])


def judged(world, *matrices):
    """The world with a judge of pairs for each prompt."""
    prompts = []
    for prompt, p in zip(world.prompts, matrices, strict=True):
        labels = replace(prompt.labels, matrix=torch.tensor(np.asarray(p), dtype=torch.float64))
        prompts.append(replace(prompt, labels=labels))
    return replace(world, prompts=tuple(prompts))


def cyclic(tau=0.3):
    rng = np.random.default_rng(3)
    return judged(bandit(reward=rng.normal(size=4), ref=[0.4, 0.1, 0.3, 0.2], tau=tau), CYCLE)


def any_judge(rng, n):
    upper = np.triu(rng.uniform(0.05, 0.95, size=(n, n)), 1)
    return upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(n)


def words(world):
    return plain.sequences(world.tree.vocab, world.tree.horizon, world.tree.eos)


def mixed_tokens(world, law, ref, share):
    """∝ π^{1−c}·π_ref^c at each prefix, by a walk over the prefixes."""
    every, one, two = words(world), plain.through(words(world), law), plain.through(words(world), ref)
    found = []
    for word in every:
        p = 1.0
        for t in range(len(word)):
            here = sorted({w[t] for w in every if w[:t] == word[:t]})
            weight = {
                a: (one[(*word[:t], a)] / one[word[:t]]) ** (1 - share) * (two[(*word[:t], a)] / two[word[:t]]) ** share
                for a in here
            }
            p *= weight[word[t]] / sum(weight.values())
        found.append(p)
    return np.array(found)


# ------------------------------------------------------------------------------------------------- rows and their laws


def test_rows_and_pairs_of_two_streams_have_their_own_laws():
    world = tree_world(**RAGGED)
    rng = np.random.default_rng(0)
    laws = torch.tensor(np.stack([random_law(rng, world.tree.leaves) for _ in world.prompts]))
    batch = batch_of(build("nash_md", mixture=0.3), world, laws)
    leaves, prompts = world.tree.leaves, len(world.prompts)
    assert batch.origin.tolist() == [0] * prompts * leaves + [1] * prompts * leaves
    share = world.weight.numpy()
    joint = np.zeros((prompts, leaves, leaves))
    for (a, b), w in zip(batch.pairs.tolist(), batch.pair_weight.tolist(), strict=True):
        assert batch.group[a] == batch.group[b] and (batch.origin[a], batch.origin[b]) == (0, 1)
        joint[int(batch.group[a]), a % leaves, b % leaves] += w
    for x in range(prompts):
        rival = mixed_tokens(world, laws[x].numpy(), world.ref[x].numpy(), 0.3)
        assert np.abs(joint[x] - share[x] * np.outer(laws[x], rival)).max() < 1e-14
        rows = (batch.group == x) & (batch.origin == 1)
        assert np.abs(batch.weight[rows].numpy() - share[x] * rival).max() < 1e-14


def test_on_single_tokens_the_mixture_is_the_geometric_mean_and_on_trees_it_is_not():
    world, law = bandit(), random_law(np.random.default_rng(1), 5)
    rows = batch_of(build("nash_md", mixture=0.4), world, torch.tensor(law)[None]).weight[5:]
    assert tv(rows, softmax(0.6 * np.log(law) + 0.4 * np.log(REF))) < 1e-14
    tree = tree_world(**{**RAGGED, "prompts": 1})
    other = random_law(np.random.default_rng(2), tree.tree.leaves)
    rows = batch_of(build("nash_md", mixture=0.4), tree, torch.tensor(other)[None]).weight[tree.tree.leaves :]
    whole = softmax(0.6 * np.log(other) + 0.4 * np.log(tree.ref[0].numpy()))
    assert tv(rows, whole) > 1e-3


def test_the_greedy_row_takes_the_likeliest_token_at_each_place_not_the_likeliest_answer():
    world = tree_world(vocab=2, horizon=2, eos=None)
    law = torch.tensor([[0.3, 0.3, 0.4, 0.0]], dtype=torch.float64).clamp(min=1e-9)  # 00 01 10 11: first token 0 at .6
    batch = batch_of(build("remax"), world, law / law.sum())
    greedy = batch.weight[batch.origin == 1]
    assert greedy.nonzero().flatten().tolist() == [0]  # of equal tokens the first
    assert float(greedy.sum()) == pytest.approx(1)


def test_a_greedy_baseline_leaves_the_expected_update_alone():
    world, law = bandit(), random_law(np.random.default_rng(4), 5)
    returns = REWARD - TAU * np.log(law / REF)
    expected = -law * (returns - law @ returns)
    assert np.abs(slope("remax", world, law, beta_kl=TAU) - expected).max() < 1e-13


def test_the_expected_update_of_xpo():
    world, law, alpha = bandit(), random_law(np.random.default_rng(5), 5), 0.2
    lr = np.log(law / REF)
    p = sigmoid(REWARD[:, None] - REWARD)
    force = np.outer(law, REF) * (sigmoid(TAU * (lr[:, None] - lr)) - p)  # slope by z of the pair (i of π, j of π_ref)
    by_log = TAU * (force.sum(1) - force.sum(0)) + alpha * REF
    expected = by_log - law * by_log.sum()
    assert np.abs(slope("xpo", world, law, beta=TAU, alpha=alpha) - expected).max() < 1e-13


# --------------------------------------------------------------------------------------------------- points of rest


@pytest.mark.parametrize("shape", [{"vocab": 5, "horizon": 1, "eos": None}, RAGGED])
@pytest.mark.parametrize(("name", "settings"), [("online_dpo", {}), ("xpo", {"alpha": 0.0}), ("remax", {})])
def test_with_a_judge_of_scores_they_rest_at_boltzmann(shape, name, settings):
    world = tree_world(**shape)
    recipe = build(name, **{"beta_kl" if name == "remax" else "beta": world.tau}, **settings)
    found, solution = predict(recipe, world), solve(recipe, world)
    assert (found.target, found.shares, solution.converged) == ("boltzmann", True, True)
    for law, ref, reward in zip(solution.law, world.ref, world.reward, strict=True):
        assert tv(law, gibbs(ref, reward, world.tau)) < 1e-8


def test_the_temperature_of_the_judge_divides_the_reward():
    world = bandit()
    recipe = build("online_dpo", beta=TAU, label_temperature=2.0)
    assert tv(solve(recipe, world).law[0], gibbs(REF, REWARD, 2 * TAU)) < 1e-8
    assert tv(predict(recipe, world).law[0], gibbs(REF, REWARD, 2 * TAU)) < 1e-12


def test_xpo_without_its_bonus_rests_at_boltzmann_and_the_bonus_leads_away_from_the_reference():
    world = bandit()
    assert predict(build("xpo", beta=TAU, alpha=0.02), world).law is None
    solutions = [solve(build("xpo", beta=TAU, alpha=a), world) for a in (0.0, 0.005, 0.02)]
    assert all(one.converged for one in solutions)
    assert tv(solutions[0].law[0], gibbs(REF, REWARD, TAU)) < 1e-8
    away = [kl(REF, one.law[0].numpy()) for one in solutions]
    assert away[0] < away[1] < away[2]  # less mass on what the reference would say


def test_xpo_with_equal_laws_is_online_dpo_on_that_pair():
    """Where π = π_ref both streams have one law: the same value and slope, pair by pair."""
    world, law = bandit(), REF
    bonusless = {"beta": TAU, "alpha": 0.0}
    one, other = at("xpo", world, law, **bonusless), at("online_dpo", world, law, beta=TAU)
    assert one.loss().item() == pytest.approx(other.loss().item(), abs=1e-14)
    gap = slope("xpo", world, law, **bonusless) - slope("online_dpo", world, law, beta=TAU)
    assert np.abs(gap).max() < 1e-14


def rests_at(law, ref, wins, rival, tau):
    """The largest part of log π/π_ref − P(· ≻ rival)/τ that is not constant."""
    gap = np.log(law / ref) - wins @ rival / tau
    return np.ptp(gap)


@pytest.mark.parametrize(
    ("tau", "share"), [pytest.param(0.05, 0.0, marks=pytest.mark.slow), (0.3, 0.0), (0.3, 0.125), (0.3, 1.0)]
)
def test_nash_md_rests_where_no_answer_gains_against_the_mixture(tau, share):
    world = cyclic(tau)
    ref, recipe = world.ref[0].numpy(), build("nash_md", beta_kl=tau, mixture=share)
    found, solution = predict(recipe, world), solve(recipe, world)
    law = solution.law[0].numpy()
    rival = softmax((1 - share) * np.log(law) + share * np.log(ref))
    assert solution.converged
    assert rests_at(law, ref, CYCLE, rival, tau) < 1e-7
    assert found.target == ("nash" if share == 0 else "nash_mixture")
    assert tv(found.law[0], law) < 1e-8


@pytest.mark.slow
def test_the_nash_policy_cannot_be_exploited_and_that_of_the_mixture_can():
    """v(π′, π) = π′Pπ − τ KL(π′‖π_ref) + τ KL(π‖π_ref) is ½ at Nash; its best reply has τ log Σ π_ref e^{P(·≻π)/τ}."""
    world, tau = cyclic(0.1), 0.1
    ref = world.ref[0].numpy()

    def gain(law):
        best = tau * np.log(ref @ np.exp(CYCLE @ law / tau)) + tau * kl(law, ref)
        return best - 0.5

    nash = solve(build("nash_md", beta_kl=tau, mixture=0.0), world).law[0].numpy()
    half = solve(build("nash_md", beta_kl=tau, mixture=0.5), world).law[0].numpy()
    assert abs(gain(nash)) < 1e-9
    assert gain(half) > 1e-3


def test_ipo_on_own_pairs_is_the_nash_policy_too():
    world, tau = cyclic(0.2), 0.2
    recipe = build("online_dpo", beta=tau, link="ipo")
    found, solution = predict(recipe, world), solve(recipe, world)
    law = solution.law[0].numpy()
    assert solution.converged and found.target == "nash"
    assert rests_at(law, world.ref[0].numpy(), CYCLE, law, tau) < 1e-7
    assert tv(law, solve(build("nash_md", beta_kl=tau, mixture=0.0), world).law[0]) < 1e-8
    assert tv(found.law[0], law) < 1e-8


@pytest.mark.slow
def test_with_a_judge_without_scores_online_dpo_is_not_the_nash_policy():
    """Logistic: Σ_j π_j (P_ij − σ(τ(lr_i − lr_j))) = 0; no closed form, another policy."""
    world, tau = cyclic(0.2), 0.2
    recipe = build("online_dpo", beta=tau)
    solution, ref = solve(recipe, world), world.ref[0].numpy()
    law = solution.law[0].numpy()
    margin = tau * (np.log(law / ref)[:, None] - np.log(law / ref))
    assert solution.converged and predict(recipe, world).law is None
    assert np.abs((CYCLE - sigmoid(margin)) @ law).max() < 1e-8
    assert tv(law, solve(build("nash_md", beta_kl=tau, mixture=0.0), world).law[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nash_md", "online_dpo"])
def test_games_on_trees_with_a_judge_of_pairs(name):
    world, rng = tree_world(**RAGGED), np.random.default_rng(11)
    matrices = [any_judge(rng, world.tree.leaves) for _ in world.prompts]
    world, share = judged(world, *matrices), 0.0 if name == "online_dpo" else 0.4
    settings = {"beta": 0.25, "link": "ipo"} if name == "online_dpo" else {"beta_kl": 0.25, "mixture": share}
    found, solution = predict(build(name, **settings), world), solve(build(name, **settings), world)
    assert solution.converged
    for law, want, ref, wins in zip(solution.law, found.law, world.ref, matrices, strict=True):
        rival = mixed_tokens(world, law.numpy(), ref.numpy(), share)
        assert rests_at(law.numpy(), ref.numpy(), wins, rival, 0.25) < 1e-7
        assert tv(law, want) < 1e-8


@pytest.mark.slow
def test_with_the_tokens_own_kl_nash_md_is_myopic_on_trees():
    world = tree_world(**{**RAGGED, "prompts": 1})
    found, solution = (f(build("nash_md", beta_kl=0.3, kl="loss_k2"), world) for f in (predict, solve))
    law, ref = solution.law[0].numpy(), world.ref[0].numpy()
    wins = sigmoid(world.reward[0].numpy()[:, None] - world.reward[0].numpy())
    rival = mixed_tokens(world, law, ref, 0.5)
    assert tv(law, plain.myopic(words(world), ref, plain.outcome(words(world), wins @ rival), 0.3)) < 1e-7
    assert (found.target, tv(found.law[0], law) < 1e-8) == ("nash_myopic", True)
    assert rests_at(law, ref, wins, rival, 0.3) > 1e-3


# ------------------------------------------------------------------------------------------------- what is not known


def test_several_laws_take_infinite_groups_and_parts_of_group_size_are_refused():
    world = bandit()
    grouped = replace(world, prompts=tuple(replace(prompt, group=4) for prompt in world.prompts))
    recipe = build("remax", beta_kl=TAU)
    assert tv(solve(recipe, grouped).law[0], solve(recipe, world).law[0]) < 1e-9
    rloo = build("rloo", beta_kl=TAU)
    both = replace(rloo, name="both", streams=(*rloo.streams, Stream("rollouts", sampler="greedy")))
    with pytest.raises(InputError, match="recipe both: GroupBaseline depends on the size of groups"):
        solve(both, grouped)
    assert predict(both, world).law is None


def test_a_pair_with_a_greedy_answer_is_not_predicted():
    xpo = build("xpo", beta=TAU, alpha=0.0)
    greedy = replace(xpo, streams=(xpo.streams[0], Stream("rollouts", sampler="greedy")))
    assert predict(greedy, bandit()).law is None
    assert isinstance(xpo.terms[0], PairTerm)


# --------------------------------------------------------------------------------------------------- groups dropped


def test_dropping_groups_of_equal_scores_against_all_tuples():
    """RLOO on groups of 3, of which those with equal rewards are drawn again: the mean over the others."""
    reward = np.array([1.0, 0.0, 1.0])
    world = bandit(reward=reward, ref=[0.5, 0.3, 0.2])
    world = replace(world, prompts=tuple(replace(prompt, group=3) for prompt in world.prompts))
    law = np.array([0.2, 0.3, 0.5])
    rloo = build("rloo", beta_kl=TAU)
    recipe = replace(rloo, streams=(Stream("rollouts", group=2, keep="mixed"),))
    returns = reward - TAU * np.log(law / world.ref[0].numpy())
    total, mass = np.zeros(3), 0.0
    for draw in itertools.product(range(3), repeat=3):
        if len({reward[i] for i in draw}) == 1:
            continue
        chance = float(np.prod(law[list(draw)]))
        mass += chance
        for k, i in enumerate(draw):
            others = [returns[j] for n, j in enumerate(draw) if n != k]
            total += chance / 3 * -(returns[i] - np.mean(others)) * (np.eye(3)[i] - law)
    problem = Problem(recipe, world, guide=None, old=None)
    with torch.no_grad():
        problem.logits.copy_(policy_with(torch.tensor(law)[None], tree=world.tree).logits)
    assert np.abs(problem.gradient()[0].numpy()[0, 0] - total / mass).max() < 1e-14


def test_dropping_groups_moves_no_point_of_rest_where_all_advantages_vanish_there():
    world = replace(bandit(), prompts=tuple(replace(prompt, group=2) for prompt in bandit().prompts))
    rloo = build("rloo", beta_kl=TAU)
    recipe = replace(rloo, streams=(Stream("rollouts", group=2, keep="mixed"),))
    assert tv(solve(recipe, world).law[0], gibbs(REF, REWARD, TAU)) < 1e-8
    assert predict(recipe, world).target == "boltzmann"
    loss = replace(build("rloo", beta_kl=TAU, kl="loss_k2"), streams=recipe.streams)
    assert predict(loss, world).law is None
    flat = bandit(reward=np.ones(5))
    assert tv(solve(recipe, flat).law[0], REF) < 1e-8  # no group is mixed, and none is thrown away
