"""The Batch and TokenStats of a world: what a language model's would be in expectation."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import tree_world
from tokenward.errors import InputError
from tokenward.lab import verify
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import Models, batch_of, policy_with, sampling_law, stats_of
from tokenward.lab.solving.problem import Problem
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe, Stream
from tokenward.recipes import RECIPES, build, maker


def a_world(**fields) -> World:
    return tree_world(vocab=3, horizon=3, eos=2, prompts=2, **fields)


def models_at(world: World, seed: int = 5, **extra) -> Models:
    rng = np.random.default_rng(seed)
    laws = [torch.tensor(np.stack([plain.random_law(rng, world.tree.leaves) for _ in range(2)])) for _ in range(2)]
    return Models(policy_with(laws[0], tree=world.tree), policy_with(laws[1], tree=world.tree), **extra)


def test_rows_are_the_leaves_of_each_prompt():
    world = a_world()
    batch = batch_of(build("rloo"), world, world.ref)
    words = plain.sequences(3, 3, 2)
    assert [tuple(r[:n]) for r, n in zip(batch.tokens.tolist(), batch.length.tolist(), strict=True)] == words * 2
    assert batch.group.tolist() == [0] * 15 + [1] * 15
    assert torch.equal(batch.mask.sum(-1), batch.length)
    assert batch.score.tolist() == world.reward.flatten().tolist()
    assert bool(batch.group_size.isinf().all())
    expected = np.concatenate([world.ref[0].numpy() / 3, world.ref[1].numpy() * 2 / 3])
    assert np.allclose(batch.weight, expected, atol=1e-15)


def test_a_policy_sums_its_tokens_to_its_law():
    world = a_world()
    models = models_at(world)
    batch = batch_of(build("dpo"), world, world.ref)
    stats = stats_of(build("dpo"), world, batch, models)
    assert torch.allclose(stats.logp.sum(-1).exp(), models.policy.law().flatten(), rtol=1e-12)
    assert torch.allclose(stats.old_logp.sum(-1).exp(), models.old.law().flatten(), rtol=1e-12)
    assert torch.allclose(stats.ref_logp.sum(-1).exp(), world.ref.flatten(), rtol=1e-12)
    assert bool((stats.logp[~batch.mask] == 0).all())


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("uniform", lambda w: torch.full((2, 15), 1 / 15, dtype=torch.float64)),
        ("reference", lambda w: w.ref),
        ("target", lambda w: w.target),
        ("policy", lambda w: w.ref.flip(-1)),
        ("policy-through", lambda w: w.ref.flip(-1)),
        ([0.0, 0.5, 0.5, *[0.0] * 12], lambda w: torch.tensor([[0.0, 0.5, 0.5, *[0.0] * 12]] * 2).double()),
    ],
)
def test_rows_follow_the_sampler(sampler, expected):
    world = a_world(sampler=sampler)
    policy = world.ref.flip(-1).requires_grad_()
    law = sampling_law("scores", world, policy)
    assert torch.allclose(law, expected(world), atol=1e-15)
    assert law.requires_grad == (sampler == "policy-through")
    assert torch.equal(sampling_law("rollouts", world, policy), policy)
    assert not sampling_law("rollouts", world, policy).requires_grad
    assert torch.equal(sampling_law("demos", world, policy), world.target)


def test_pairs_stay_within_their_prompt_and_weigh_as_it_does():
    world = a_world(pairs=[[0, 3, 1], [4, 2, 3]])
    batch = batch_of(build("dpo"), world, world.ref)
    assert batch.pairs.tolist() == [[0, 3], [4, 2], [15, 18], [19, 17]]
    assert batch.pair_weight.tolist() == pytest.approx([1 / 12, 1 / 4, 1 / 6, 1 / 2])
    gap = batch.score[batch.pairs[:, 0]] - batch.score[batch.pairs[:, 1]]
    assert np.allclose(batch.pair_target, plain.sigmoid(gap.numpy()))


def test_uniform_pairs_are_all_ordered_pairs_with_self_pairs():
    batch = batch_of(build("dpo"), tree_world(vocab=3, horizon=1, eos=None), torch.ones(1, 3, dtype=torch.float64) / 3)
    assert batch.pairs.tolist() == [[i, j] for i in range(3) for j in range(3)]
    assert batch.pair_weight.tolist() == pytest.approx([1 / 9] * 9)


def test_pairs_of_rollouts_are_two_draws_of_the_policy_whatever_the_world_says():
    world = tree_world(vocab=3, horizon=1, eos=None, pairs=[[0, 1, 1]])
    law = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    batch = batch_of(build("rebel"), world, law)
    assert np.allclose(batch.pair_weight, np.outer(law[0], law[0]).ravel())
    assert batch.pair_target is None


def test_scores_of_una_are_squashed_and_labels_soft():
    world = a_world()
    assert np.allclose(batch_of(build("una"), world, world.ref).score, plain.sigmoid(world.reward.numpy().ravel()))
    assert np.allclose(batch_of(build("kto"), world, world.ref).label, plain.sigmoid(world.reward.numpy().ravel()))
    given = batch_of(build("ra", normalizer="given"), world, world.ref).normalizer
    z = [
        np.log(np.sum(r * np.exp(s / world.tau))) for r, s in zip(world.ref.numpy(), world.reward.numpy(), strict=True)
    ]
    assert np.allclose(given, world.tau * np.repeat(z, 15))


def test_exact_kl_stands_at_each_state_with_gradient():
    world = a_world()
    models = models_at(world)
    logits = models.policy.logits.requires_grad_()
    batch = batch_of(build("rloo", kl="exact"), world, world.ref)
    stats = stats_of(build("rloo", kl="exact"), world, batch, models)
    assert stats.kl_ref.requires_grad
    words = plain.sequences(3, 3, 2)
    own, ref = (plain.through(words, law) for law in (models.policy.law()[0].detach().numpy(), world.ref[0].numpy()))
    for leaf, word in enumerate(words):
        for t in range(len(word)):
            parts = [(own[(*word[:t], a)] / own[word[:t]], ref[(*word[:t], a)] / ref[word[:t]]) for a in range(3)]
            expected = sum(p * np.log(p / q) for p, q in parts)
            assert float(stats.kl_ref[leaf, t].detach()) == pytest.approx(expected, abs=1e-12)
    assert logits.grad is None


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_exact_critic_is_the_expected_reward_to_come(gamma):
    """V_old(s) by brute force: the mean over the old policy's continuations of Σ γ^i (shaped reward)."""
    world = a_world()
    rng = np.random.default_rng(9)
    guide = torch.tensor(np.stack([plain.random_law(rng, 15) for _ in range(2)]))
    models = models_at(world, guide=guide)
    recipe = build("rto", beta_kl=0.3, beta_guide=0.2, gamma=gamma)
    batch = batch_of(recipe, world, models.old.law())
    stats = stats_of(recipe, world, batch, models)
    words = plain.sequences(3, 3, 2)
    for x in range(2):
        old = models.old.law()[x].numpy()
        logs = [plain.token_logs(words, law[x].numpy()) for law in (models.old.law(), world.ref, guide)]
        reward = [
            [0.2 * (g - r) - 0.3 * (o - r) for o, r, g in zip(*(log[i] for log in logs), strict=True)]
            for i in range(15)
        ]
        for i in range(15):
            reward[i][-1] += float(world.reward[x, i])
        for i, word in enumerate(words):
            for t in range(len(word)):
                under = [j for j, w in enumerate(words) if w[:t] == word[:t]]
                mass = np.array([old[j] for j in under])
                to_come = [sum(gamma**k * r for k, r in enumerate(reward[j][t:])) for j in under]
                expected = float(mass @ np.array(to_come) / mass.sum())
                assert float(stats.old_value[x * 15 + i, t]) == pytest.approx(expected, abs=1e-11)
    assert not stats.value.requires_grad


def test_the_critic_is_zero_only_in_the_prompts_that_say_so():
    world = a_world()
    raw = [
        {"ref": p.ref.tolist(), "reward": p.reward.tolist(), "critic": c}
        for p, c in zip(world.prompts, ("zero", "exact"), strict=True)
    ]
    world = plain.parse_world({"tau": 1, "vocab": 3, "horizon": 3, "eos": 2, "prompts": raw})
    recipe = build("ppo")
    value = stats_of(recipe, world, batch_of(recipe, world, world.ref), models_at(world)).old_value
    assert bool((value[:15] == 0).all())
    assert bool((value[15:, 0].abs() > 1e-3).all())


def test_a_guide_that_is_missing_is_asked_for():
    world = a_world()
    with pytest.raises(InputError, match="recipe rto needs a guide"):
        stats_of(build("rto"), world, batch_of(build("rto"), world, world.ref), models_at(world))


def test_recipes_of_two_streams_are_refused():
    dpo = build("dpo")
    with pytest.raises(InputError, match="recipe both: demos cannot stand beside pairs"):
        Recipe("both", dpo.sources, (*dpo.streams, Stream("demos")), dpo.terms)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_once_with_its_shapes_checked(name):
    """Prediction, loss and gradient at the reference on a ragged tree: tests that solve leave the checks out."""
    world = verify.with_guides(tree_world(vocab=2, horizon=2, eos=1, prompts=2))
    guide = torch.stack([prompt.guide for prompt in world.prompts])
    recipe = build(name, **verify.settings(maker(name), world, {}))
    predict(recipe, world, guide=guide)
    old = policy_with(world.ref, tree=world.tree)
    assert not jaxtyping.config.jaxtyping_disable
    for slope in Problem(recipe, world, guide=guide, old=old).gradient():
        assert bool(slope.isfinite().all())
