"""Closed forms against the same formulas in numpy, and against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import tree_world
from tokenward.lab.optima import exact
from tokenward.lab.worlds.world import default_world

SHAPES = [(5, 1, None), (3, 3, None), (3, 3, 2), (2, 5, 0)]


def world_and_words(shape, **fields):
    vocab, horizon, eos = shape
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, **fields), plain.sequences(*shape)


def token_form(world):
    tree = world.tree
    return exact.soft_values(tree, tree.conditional(world.ref), tree.outcome(world.reward), tau=world.tau)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [0.2, 0.7, 3.0])
def test_sequence_form_and_token_form_are_one_policy(shape, tau):
    world, _ = world_and_words(shape, tau=tau)
    by_tokens = world.tree.leaf_sum(token_form(world).logp).exp()
    for x in range(2):
        gibbs = plain.gibbs(world.ref[x].numpy(), world.reward[x].numpy(), tau)
        assert np.abs(by_tokens[x].numpy() - gibbs).max() < 1e-12
        assert np.abs(world.target[x].numpy() - gibbs).max() < 1e-14


def test_both_forms_agree_on_the_default_world():
    world = default_world()
    assert world.tree.ragged
    assert float((world.tree.leaf_sum(token_form(world).logp).exp() - world.target).abs().max()) < 1e-10


@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_a_policy_are_expectations_over_leaves(shape):
    world, words = world_and_words(shape)
    tree, policy = world.tree, world.target
    logp = tree.conditional(policy)
    q, v = exact.values(tree, logp, tree.outcome(world.reward))
    law, reward = policy[0].numpy(), world.reward[0].numpy()
    for leaf, word in enumerate(words):
        for t in range(len(word)):
            state = int(tree.state[leaf, t])
            under = np.array([w[:t] == word[:t] for w in words])
            assert float(v[0, state]) == pytest.approx(law[under] @ reward[under] / law[under].sum(), abs=1e-12)
            under = np.array([w[: t + 1] == word[: t + 1] for w in words])
            expected = law[under] @ reward[under] / law[under].sum()
            assert float(q[0, state, word[t]]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_myopic_policy_is_that_of_plain_recursion(shape, beta):
    world, words = world_and_words(shape)
    tree = world.tree
    law = exact.myopic(tree, tree.conditional(world.ref), tree.outcome(world.reward), beta=beta)
    for x in range(2):
        ref, reward = world.ref[x].numpy(), world.reward[x].numpy()
        expected = plain.myopic(words, ref, plain.outcome(words, reward), beta)
        assert np.abs(law[x].numpy() - expected).max() < 1e-12
        boltzmann = plain.gibbs(ref, reward, beta)
        # the two are one for single tokens, and only there
        assert (plain.tv(expected, boltzmann) < 1e-12) == (shape[1] == 1)


def test_the_myopic_policy_at_a_mean_over_tokens_solves_its_own_temperature():
    world, words = world_and_words((3, 3, 2))
    tree = world.tree
    ref, reward = tree.conditional(world.ref), tree.outcome(world.reward)
    law = exact.myopic_per_token(tree, ref, reward, beta=0.9, weight=world.weight)
    length = np.array([len(w) for w in words])
    mean = float(world.weight.numpy() @ (law.numpy() @ length))
    for x in range(2):
        rewards = plain.outcome(words, world.reward[x].numpy())
        expected = plain.myopic(words, world.ref[x].numpy(), rewards, 0.9 / mean)
        assert np.abs(law[x].numpy() - expected).max() < 1e-10


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_length_power_is_a_law_with_the_asked_differences(beta):
    rng = np.random.default_rng(0)
    length = torch.tensor([1, 3, 2, 3, 7, 1])
    score = torch.tensor(rng.normal(size=(3, 6)))
    law = exact.length_power(length, score, beta=beta)
    assert torch.allclose(law.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-14)
    asked = beta * law.log() / length - score
    assert float((asked - asked[:, :1]).abs().max()) < 1e-8


def test_regularized_value_is_reward_less_kl():
    world, _ = world_and_words((3, 2, None))
    rng = np.random.default_rng(1)
    law = np.stack([plain.random_law(rng, 9) for _ in range(2)])
    got = exact.regularized_value(torch.tensor(law), ref=world.ref, reward=world.reward, tau=world.tau)
    for x in range(2):
        expected = law[x] @ world.reward[x].numpy() - world.tau * plain.kl(law[x], world.ref[x].numpy())
        assert float(got[x]) == pytest.approx(expected, abs=1e-12)
    at_target = exact.regularized_value(world.target, ref=world.ref, reward=world.reward, tau=world.tau)
    assert torch.allclose(at_target, world.normalizer, atol=1e-12)


def test_rtos_optimum_extrapolates_the_guide():
    rng = np.random.default_rng(2)
    ref, guide, reward = plain.random_law(rng, 6), plain.random_law(rng, 6), rng.normal(size=6)
    total = 0.4 * np.log(guide / ref)
    as_rows = [torch.tensor(a)[None] for a in (ref, total, reward)]
    law = exact.extrapolated(as_rows[0], as_rows[1], reward=as_rows[2], beta=0.1)[0].numpy()
    expected = ref * (guide / ref) ** 4 * np.exp(reward / 0.1)
    assert np.abs(law - expected / expected.sum()).max() < 1e-12


def test_bradley_terry_is_the_logistic_of_the_gap():
    p = exact.bradley_terry(torch.tensor([[1.0, 3.0]], dtype=torch.float64), temperature=2.0)[0]
    assert p.flatten().tolist() == pytest.approx([0.5, plain.sigmoid(-1.0), plain.sigmoid(1.0), 0.5])


def test_total_variation_is_that_of_the_worst_prompt():
    a = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    assert exact.total_variation(a, b) == 0.75
