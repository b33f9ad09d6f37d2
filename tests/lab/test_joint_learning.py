"""Demonstrations and preferences together (AIHF in tabular form), beside Newton's method and slopes in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab.at import at
from tests.lab.plain import gibbs, kl, random_law, sigmoid, softmax, tree_world, tv
from tokenward.errors import InputError
from tokenward.lab.theory.joint_learning import Joint, joint_optimum, single_loop
from tokenward.lab.worlds.world import Labels

SHAPES = [(5, 1, None), (3, 2, None), (3, 3, 2)]
WEIGHTS = [(1.0, 1.0), (0.3, 2.0), (4.0, 0.5)]


def a_world(shape, *, demos="other", prompts=2, seed=0):
    """Demonstrations of a random law ("other") or of π^τ ("target")."""
    vocab, horizon, eos = shape
    world = tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=prompts, tau=0.6, seed=seed)
    rng = np.random.default_rng(seed + 1)
    laws = [None if demos == "target" else torch.tensor(random_law(rng, world.tree.leaves)) for _ in range(prompts)]
    return replace(world, prompts=tuple(replace(p, demos=d) for p, d in zip(world.prompts, laws, strict=True)))


def labels_of(prompt):
    """ν_ij = 1/L² for every ordered pair, and P(i ≻ j)."""
    reward = prompt.reward.numpy()
    return 1 / len(reward) ** 2, sigmoid(reward[:, None] - reward[None, :])


def objective(world, x, reward, w1, w2):
    """w₁ E_D log π_R + w₂ E_P log σ(R_w − R_l), term by term."""
    law = gibbs(world.ref[x].numpy(), reward, 0.6)
    nu, p = labels_of(world.prompts[x])
    margin = reward[:, None] - reward[None, :]
    return (
        w1 * world.demos[x].numpy() @ np.log(law)
        + w2 * nu * (p * np.log(sigmoid(margin)) + (1 - p) * np.log(sigmoid(-margin))).sum()
    )


def newton(world, x, w1, w2):
    """The maximum over R with R_0 = 0 by steps that are halved until the objective rises."""
    theta, (nu, p) = np.zeros(world.tree.leaves), labels_of(world.prompts[x])
    for _ in range(40):
        law, q = gibbs(world.ref[x].numpy(), theta, 0.6), sigmoid(theta[:, None] - theta[None, :])
        slope = w1 / 0.6 * (world.demos[x].numpy() - law) + 2 * w2 * nu * (p - q).sum(1)
        edge = 2 * w2 * nu * q * q.T
        bend = w1 / 0.36 * (np.diag(law) - np.outer(law, law)) + np.diag(edge.sum(1)) - edge
        step = np.append(0.0, np.linalg.solve(bend[1:, 1:], slope[1:]))
        here, size = objective(world, x, theta, w1, w2), 1.0
        while objective(world, x, theta + size * step, w1, w2) < here - 1e-13 and size > 1e-6:
            size /= 2
        theta = theta + size * step
    return theta - theta.mean()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("w1", "w2"), WEIGHTS)
def test_the_optimum_is_newtons_in_numpy_and_no_neighbor_is_better(shape, w1, w2):
    world = a_world(shape)
    found = joint_optimum(Joint(world, w1, w2))
    rng = np.random.default_rng(3)
    for x in range(2):
        reward = found.reward[x].numpy()
        assert np.abs(reward - newton(world, x, w1, w2)).max() < 1e-8
        assert np.abs(found.law[x].numpy() - gibbs(world.ref[x].numpy(), reward, 0.6)).max() < 1e-12
        top = objective(world, x, reward, w1, w2)
        assert all(objective(world, x, reward + 0.01 * rng.normal(size=len(reward)), w1, w2) < top for _ in range(50))


@pytest.mark.parametrize("shape", SHAPES)
def test_to_maximize_is_to_minimize_two_divergences(shape):
    """w₁ KL(D‖π_R) + w₂ KL(p‖σ(ΔR)) differs from the objective by the entropies of the data only."""
    world, rng = a_world(shape), np.random.default_rng(7)
    joint, offsets = Joint(world, 0.7, 1.9), []
    for _ in range(5):
        reward = rng.normal(size=(2, world.tree.leaves))
        of_demos, of_labels = joint.misfit(torch.tensor(reward))
        for x in range(2):
            law = gibbs(world.ref[x].numpy(), reward[x], 0.6)
            assert float(of_demos[x]) == pytest.approx(kl(world.demos[x].numpy(), law), abs=1e-12)
            nu, p = labels_of(world.prompts[x])
            q = sigmoid(reward[x][:, None] - reward[x][None, :])
            apart = nu * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
            assert float(of_labels[x]) == pytest.approx(apart, abs=1e-12)
        both = [0.7 * float(of_demos[x]) + 1.9 * float(of_labels[x]) for x in range(2)]
        offsets.append([both[x] + objective(world, x, reward[x], 0.7, 1.9) for x in range(2)])
    assert np.ptp(offsets, axis=0).max() < 1e-10


@pytest.mark.parametrize("shape", SHAPES)
def test_preferences_alone_are_a_reward_model_and_rlhf(shape):
    """w₁ = 0: R = r up to a constant, and π_ref·exp(r/β)/Z, whatever the demonstrations."""
    world = a_world(shape)
    found = joint_optimum(Joint(world, 0.0, 1.0))
    for x, prompt in enumerate(world.prompts):
        reward = prompt.reward.numpy()
        assert np.abs(found.reward[x].numpy() - (reward - reward.mean())).max() < 1e-8
        assert np.abs(found.law[x].numpy() - gibbs(prompt.ref.numpy(), reward, 0.6)).max() < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_demonstrations_alone_are_imitated(shape):
    world = a_world(shape)
    found = joint_optimum(Joint(world, 1.0, 0.0))
    assert np.abs(found.law.numpy() - world.demos.numpy()).max() < 1e-9


@pytest.mark.parametrize(("w1", "w2"), [*WEIGHTS, (0.01, 5.0)])
def test_kinds_of_data_that_agree_give_boltzmann_for_all_weights(w1, w2):
    world = a_world((3, 3, 2), demos="target")
    assert np.abs(joint_optimum(Joint(world, w1, w2)).law.numpy() - world.target.numpy()).max() < 1e-9


def test_kinds_of_data_that_disagree_are_weighed_the_misfit_of_each_falls_as_its_weight_grows():
    world = a_world((3, 2, None), prompts=1)
    found = [joint_optimum(Joint(world, share, 1 - share)) for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    of_demos = [kl(world.demos[0].numpy(), one.law[0].numpy()) for one in found]
    nu, p = labels_of(world.prompts[0])
    q = [sigmoid(one.reward[0].numpy()[:, None] - one.reward[0].numpy()[None, :]) for one in found]
    of_labels = [nu * (p * np.log(p / b) + (1 - p) * np.log((1 - p) / (1 - b))).sum() for b in q]
    assert all(np.diff(of_demos) < 0) and all(np.diff(of_labels) > 0)
    assert of_demos[0] > 0.05 and of_labels[-1] > 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_the_single_loop_ends_at_the_joint_optimum(shape):
    """One soft policy step and one reward step in turn; and the policy is behind the reward on the way."""
    world = a_world(shape)
    joint = Joint(world, 0.5, 2.0)
    best = joint_optimum(joint)
    loop = single_loop(joint, rounds=600, towards=best.law)
    assert loop.distance[-1] < 1e-8 and loop.learned.residual < 1e-8
    assert np.abs(loop.learned.reward.numpy() - best.reward.numpy()).max() < 1e-6
    assert loop.distance[0] > 0.01
    short = single_loop(joint, rounds=5, towards=best.law).learned
    behind = max(tv(a, b) for a, b in zip(short.law.numpy(), joint.policy(short.reward).numpy(), strict=True))
    assert behind > 1e-4


def test_the_optimum_is_that_of_nll_plus_dpo_in_the_recipes_own_slopes():
    world = a_world((3, 3, 2))
    found = joint_optimum(Joint(world, 0.7, 1.3)).law
    slopes = []
    for name, settings in (("sft", {"aggregation": "token_sum"}), ("dpo", {"beta": 0.6})):
        problem = at(name, world, found, **settings)
        slopes.append(torch.autograd.grad(problem.loss(), problem.logits)[0])
    assert float((0.7 * slopes[0] + 1.3 * slopes[1]).abs().max()) < 1e-10
    assert min(float(slope.abs().max()) for slope in slopes) > 1e-3  # neither alone is at rest there


def test_a_pull_keeps_an_unseen_answer_finite():
    """An answer that no one demonstrates and that always loses: finite only with the pull."""
    world = tree_world(vocab=3, horizon=1, eos=None, tau=0.6)
    matrix = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    demos = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    prompt = replace(world.prompts[0], demos=demos, labels=Labels(matrix=matrix))
    depths = []
    for pull in (1e-2, 1e-4, 1e-6):
        found = joint_optimum(Joint(replace(world, prompts=(prompt,)), 1.0, 1.0, pull=pull))
        assert found.residual < 1e-10
        assert softmax(np.log(world.ref[0].numpy()) + found.reward[0].numpy() / 0.6) == pytest.approx(
            found.law[0].numpy()
        )
        depths.append(-float(found.reward[0, 2]))
    assert np.all(np.diff(depths) > 0.5)


@pytest.mark.parametrize(("w1", "w2"), [(0.0, 0.0), (-1.0, 2.0)])
def test_weights_that_mean_nothing_are_refused_in_one_line(w1, w2):
    with pytest.raises(InputError, match="give numbers ≥ 0"):
        Joint(a_world((5, 1, None)), w1, w2)
