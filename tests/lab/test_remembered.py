"""Where scaled rewards and adaptive coefficients come to rest, against plain numpy and against their own histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import bandit, tree_world
from tokenward.lab import verify
from tokenward.lab.optima.remembered import COLLAPSES, kl_of
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import Models, batch_of, policy_with, stats_of
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.memory import own
from tokenward.objective.signal.remembered import RunningScale
from tokenward.recipes import build


def ask(name, world, **overrides):
    return verify.answer(name, verify.with_guides(world), overrides=overrides)


def gibbs(world: World, reward, beta: float):
    """π_ref·exp(r/β)/Z of each prompt."""
    return np.stack([plain.gibbs(ref, r, beta) for ref, r in zip(world.ref.numpy(), reward, strict=True)])


def moments(world: World, law, reward) -> tuple[float, float]:
    """Mean and population std of rewards over prompts and answers."""
    weight = world.weight.numpy()[:, None] * law
    mean = (weight * reward).sum()
    return mean, np.sqrt((weight * (reward - mean) ** 2).sum())


def largest_std(world: World, beta: float) -> float | None:
    """The largest σ with σ = std of rewards under π_ref·exp(r/(σβ))/Z, on a fine grid and by halving."""
    reward = world.reward.numpy()

    def gap(sigma):
        return moments(world, gibbs(world, reward, sigma * beta), reward)[1] - sigma

    grid = np.geomspace(10, 2e-2, 1000)
    signs = np.array([gap(sigma) for sigma in grid])
    crossing = np.nonzero(signs[:-1] * signs[1:] < 0)[0]
    if not len(crossing):
        return None
    high, low = grid[crossing[0]], grid[crossing[0] + 1]
    for _ in range(100):
        middle = (high + low) / 2
        high, low = (middle, low) if gap(middle) * gap(high) > 0 else (high, middle)
    return (high + low) / 2


def a_world(shape: str, **fields) -> World:
    vocab, horizon, eos = {"bandit": (5, 1, None), "ragged": (3, 2, 2)}[shape]
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, seed=3, tau=0.9, **fields)


@pytest.mark.parametrize("shape", ["bandit", "ragged"])
@pytest.mark.slow
def test_a_scaled_reward_has_a_temperature_in_units_of_its_own_std(shape):
    world = a_world(shape)
    sigma = largest_std(world, world.tau)
    assert sigma is not None
    expected = gibbs(world, world.reward.numpy(), sigma * world.tau)
    for scale in ("std", "mean_std"):  # a mean taken off every answer changes nothing
        one = ask("ppo", world, reward_scale=scale)
        assert (one["target"], one["shares_pi_tau"]) == ("scaled", False)
        assert plain.tv(np.array(one["predicted"]), expected) < 1e-9
        assert one["tv"] < 1e-7


@pytest.mark.parametrize("shape", ["bandit", pytest.param("ragged", marks=pytest.mark.slow)])
def test_a_clipped_scaled_reward_is_read_at_its_own_mean_and_std(shape):
    """ppo_max: (r − m)/σ cut to ±.8, with m and σ those of the policy it leads to."""
    world = a_world(shape)
    one = ask("ppo_max", world)
    assert one["target"] == "scaled"
    law, reward = np.array(one["predicted"]), world.reward.numpy()
    mean, std = moments(world, law, reward)
    shaped = np.clip((reward - mean) / std, -0.8, 0.8)
    assert plain.tv(law, gibbs(world, shaped, world.tau)) < 1e-9
    assert np.abs(shaped).max() == 0.8
    assert one["tv"] < 1e-7


@pytest.mark.slow
def test_the_target_of_a_scaled_reward_does_not_know_the_unit_of_rewards():
    world = a_world("bandit")
    larger = replace(world, prompts=tuple(replace(p, reward=50 * p.reward) for p in world.prompts))
    first, second = (ask("ppo_max", one)["predicted"] for one in (world, larger))
    assert plain.tv(np.array(first), np.array(second)) < 1e-9
    assert plain.tv(np.array(ask("ppo", world)["predicted"]), np.array(ask("ppo", larger)["predicted"])) > 0.1


def test_a_clip_alone_ends_at_the_clipped_reward():
    world = a_world("ragged")
    one = ask("ppo", world, reward_clip=0.5)
    assert one["target"] == "clipped"
    expected = gibbs(world, np.clip(world.reward.numpy(), -0.5, 0.5), world.tau)
    assert plain.tv(np.array(one["predicted"]), expected) < 1e-12
    assert one["tv"] < 1e-7


def test_without_a_std_that_agrees_with_its_policy_the_policy_collapses():
    world = bandit(tau=0.2)
    assert largest_std(world, 0.2) is None
    recipe = build("ppo", beta_kl=0.2, reward_scale="std")
    prediction = predict(recipe, world)
    assert (prediction.law, prediction.note) == (None, COLLAPSES)
    assert largest_std(world, 2.0) is not None
    assert predict(build("ppo", beta_kl=2.0, reward_scale="std"), world).target == "scaled"


def test_scaled_after_the_pull_nothing_is_predicted():
    recipe = build("ppo", beta_kl=0.9)
    steps = (*recipe.steps[:2], RunningScale(), *recipe.steps[2:])
    assert predict(replace(recipe, steps=steps), a_world("bandit")).target is None


def test_an_adaptive_coefficient_rests_where_the_kl_is_its_target():
    world = a_world("bandit")
    one = ask("ppo", world, kl_target=0.15)
    assert one["target"] == "steered"
    reward, low, high = world.reward.numpy(), 1e-3, 1e3

    def kl(beta):
        law, ref = gibbs(world, reward, beta), world.ref.numpy()
        return (world.weight.numpy()[:, None] * law * np.log(law / ref)).sum()

    for _ in range(200):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if kl(middle) > 0.15 else (low, middle)
    assert plain.tv(np.array(one["predicted"]), gibbs(world, reward, low)) < 1e-8
    assert one["tv"] < 1e-7
    unknown = predict(build("ppo", beta_kl=0.9, kl_target=50.0), world)
    assert unknown.law is None and "KL of a response is 50" in str(unknown.note)


def history(recipe: Recipe, world: World, *, batches: int, beta):
    """Batch after batch of the population, each followed by the whole soft policy step for the rewards it gave."""
    law, memory = world.ref, recipe.memory
    for _ in range(batches):
        policy = policy_with(law, tree=world.tree)
        batch = batch_of(recipe, world, law)
        stats = stats_of(recipe, world, batch, Models(policy, policy))
        signal, memory = recipe.signal_after(batch, stats, memory)
        assert signal.reward is not None
        reward = signal.reward.sum(-1).reshape(law.shape) + beta(memory) * (law.log() - world.ref.log())
        law = torch.softmax(world.ref.log() + reward / beta(memory), -1)
    return law


@pytest.mark.slow
def test_the_history_of_rewards_ends_where_it_is_predicted():
    """Rows of all batches count alike: the past fades as 1/n."""
    world, recipe = a_world("bandit"), build("ppo_max", beta_kl=0.9)
    expected = predict(recipe, world).law
    short, long = (history(recipe, world, batches=n, beta=lambda _: 0.9) for n in (5, 150))
    assert plain.tv(long.numpy(), expected.numpy()) < 0.1 * plain.tv(short.numpy(), expected.numpy()) < 5e-3


@pytest.mark.slow
def test_the_history_of_coefficients_ends_at_the_target():
    """A batch of the population counts one row: with a horizon of 5, the coefficient moves by 4 % at most."""
    world, recipe = a_world("bandit"), build("ppo", beta_kl=0.9, kl_target=0.15, kl_horizon=5.0)
    place = next(i for i, step in enumerate(recipe.steps) if type(step).__name__ == "AdaptiveKL")
    law = history(recipe, world, batches=120, beta=lambda memory: float(own(memory, place)["coef"]))
    assert kl_of(law, world) == pytest.approx(0.15, rel=1e-6)
    assert plain.tv(law.numpy(), predict(recipe, world).law.numpy()) < 1e-6


def test_without_its_clip_ppo_ends_where_it_ends_with_it():
    one = ask("ppo", a_world("ragged"), clip=None)
    assert one["target"] == "boltzmann" and one["tv"] < 1e-7
