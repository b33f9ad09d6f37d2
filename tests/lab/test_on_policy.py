"""Clipped and group-relative methods in the lab: where each rests, what finite groups change, what has no optimum."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at, slope
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, random_law, tree_world, tv
from tokenward.cli import main
from tokenward.lab import verify
from tokenward.lab.optima.fixed_points import ARGMAX, NOTHING_PULLS
from tokenward.lab.optima.targets import predict
from tokenward.lab.rates.rate import rate
from tokenward.lab.solving.policy import batch_of
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world_file import parse_world
from tokenward.objective.capped import Capped
from tokenward.objective.links import Clipped, Ratio
from tokenward.objective.recipe import Recipe
from tokenward.recipes import build
from tokenward.types import TokenStats

RAGGED = {"vocab": 2, "horizon": 3, "eos": 0, "prompts": 2, "seed": 5, "tau": TAU}
EVEN = {**RAGGED, "eos": None}


def grouped(world, size):
    return replace(world, prompts=tuple(replace(prompt, group=size) for prompt in world.prompts))


def reached(recipe: Recipe, world, *, target: str | None) -> np.ndarray:
    """The law at rest, which must be the predicted one if there is one, and rest at all."""
    prediction, solution = predict(recipe, world), solve(recipe, world)
    assert prediction.target == target and solution.converged
    if prediction.law is not None:
        assert float((prediction.law - solution.law).abs().max()) < 1e-7
    return solution.law.numpy()


# --------------------------------------------------------------------------------------- KL in the reward: Boltzmann


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dr_grpo", {"budget": 7.0}),
        ("dapo", {}),
        ("gspo", {}),
        ("gspo", {"ratio": "token"}),
        ("cispo", {}),
        ("cispo", {"aggregation": "sequence_mean"}),
        ("grpo", {"kl": "reward", "std": "unbiased"}),
        ("reinforce_pp_baseline", {"kl": "reward"}),
    ],
)
def test_with_the_kl_in_the_reward_all_rest_at_boltzmann(name, settings, size):
    """On ragged answers too: each has one advantage, 0 on all where r − β lr is one number."""
    world = grouped(tree_world(**RAGGED), size)
    law = reached(build(name, beta_kl=TAU, **settings), world, target="boltzmann")
    for x in range(2):
        assert tv(law[x], gibbs(world.ref[x].numpy(), world.reward[x].numpy(), TAU)) < 1e-7


def test_dapos_penalty_is_part_of_the_reward_it_rests_at():
    """Answers of 2 tokens pay half of .6, those of 3 all of it: π_ref·exp((r − penalty)/β)/Z, in plain numpy."""
    world = tree_world(**RAGGED)
    recipe = build("dapo", beta_kl=TAU, overlong_max=3.0, overlong_buffer=2.0, overlong_coef=0.6)
    law = reached(recipe, world, target="shaped")
    words = plain.sequences(2, 3, 0)
    paid = np.array([{1: 0.0, 2: 0.3, 3: 0.6}[len(word)] for word in words])
    apart = []
    for x in range(2):
        want = gibbs(world.ref[x].numpy(), world.reward[x].numpy() - paid, TAU)
        assert tv(law[x], want) < 1e-7
        apart.append(tv(want, gibbs(world.ref[x].numpy(), world.reward[x].numpy(), TAU)))
    assert max(apart) > 0.02
    assert not predict(recipe, world).shares


@pytest.mark.parametrize("link", [Clipped(low=0.01, high=0.02, dual=3.0), Ratio(), Capped(cap=1.5)])
def test_on_its_own_samples_every_ratio_has_the_gradient_of_reinforce(link):
    world = tree_world(**RAGGED)
    law = np.stack([random_law(np.random.default_rng(i), world.tree.leaves) for i in range(2)])
    problem = at("cispo", world, law, beta_kl=TAU)
    (term,) = problem.recipe.terms
    problem.recipe = replace(problem.recipe, terms=(replace(term, link=link),))
    rloo = at("rloo", world, law, beta_kl=TAU)  # groups without bound: the same baseline, no std
    problem.recipe = replace(problem.recipe, steps=problem.recipe.steps[:-1])
    ours, plain_gradient = (torch.autograd.grad(p.loss(), p.logits)[0] for p in (problem, rloo))
    assert float((ours - plain_gradient).abs().max()) < 1e-14 < float(ours.abs().max())


def test_the_two_readings_of_reinforce_pp():
    """To go: Boltzmann under a token mean. Last token alone: Boltzmann on single tokens, nothing known on sequences."""
    world = tree_world(**RAGGED)
    reached(build("reinforce_pp", beta_kl=TAU, aggregation="token_mean"), world, target="boltzmann")
    last = build("reinforce_pp", beta_kl=TAU, aggregation="token_mean", credit="last_token")
    assert tv(reached(last, bandit(), target="boltzmann")[0], gibbs(REF, REWARD, TAU)) < 1e-7
    assert predict(last, world).target is None
    found = solve(last, world).law[0].numpy()
    assert tv(found, gibbs(world.ref[0].numpy(), world.reward[0].numpy(), TAU)) > 0.02


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_the_rate_of_a_ratio_of_whole_answers_is_that_of_a_mean_over_tokens(name):
    """The curvature of gspo is divided by each answer's length, that of cispo by the mean length."""
    found = rate(build(name, beta_kl=TAU), tree_world(**RAGGED))
    assert found.agrees and found.predicted is not None and found.measured is not None
    assert 1 - found.measured == pytest.approx(1 - found.predicted, rel=1e-3)


# ----------------------------------------------------------------------------------------------- finite groups (E4)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("budget", [1.0, 20.0])
def test_a_group_mean_of_g_answers_is_leave_one_out_at_a_lower_rate(size, budget):
    """E over all groups of G: dr_grpo's gradient is (1 − 1/G)/budget times that of rloo, which does not feel G."""
    world = tree_world(**RAGGED)
    law = np.stack([random_law(np.random.default_rng(3 + i), world.tree.leaves) for i in range(2)])
    rloo = slope("rloo", world, law, beta_kl=TAU, aggregation="token_sum")
    assert np.abs(slope("rloo", grouped(world, size), law, beta_kl=TAU, aggregation="token_sum") - rloo).max() < 1e-13
    found = slope("dr_grpo", grouped(world, size), law, beta_kl=TAU, budget=budget)
    assert np.abs(found * budget - (1 - 1 / size) * rloo).max() < 1e-13


@pytest.mark.parametrize("size", [None, 3])
def test_with_its_kl_in_the_loss_dr_grpo_is_warmer_by_g_over_g_minus_one(size):
    """A bandit rests at π_ref·exp(r (1 − 1/G)/β)/Z, a tree at the myopic policy of that temperature. Derived here."""
    warmer = 1.0 if size is None else size / (size - 1)
    recipe = build("dr_grpo", kl="loss_k2", beta_kl=0.5, budget=16.0)
    law = reached(recipe, grouped(bandit(), size), target="myopic")
    assert tv(law[0], gibbs(REF, REWARD, 0.5 * warmer)) < 1e-7
    world = tree_world(**EVEN)
    law = reached(recipe, grouped(world, size), target="myopic")
    other = reached(build("dr_grpo", kl="loss_k2", beta_kl=0.5 * warmer), world, target="myopic")
    assert np.abs(law - other).max() < 1e-7


@pytest.mark.parametrize("std", ["population", "unbiased"])
def test_in_finite_groups_no_advantage_exceeds_its_bound(std):
    """Over all groups of G answers of the bandit: |A| ≤ √(G−1), or (G−1)/√G; the limit is nearly reached."""
    recipe = build("grpo", std=std, beta_kl=0.0)
    reward = np.array([0.0, 0.0, 0.0, 0.0, 1e4])
    for size in (2, 3, 5):
        problem = at("grpo", grouped(bandit(reward=reward), size), REF)
        problem.recipe = recipe
        rows = batch_of(recipe, problem.world, problem.policy().law())
        found = recipe.signal(rows, TokenStats(old_logp=torch.zeros(rows.mask.shape, dtype=torch.float64))).advantage
        assert found is not None
        bound = np.sqrt(size - 1) if std == "population" else (size - 1) / np.sqrt(size)
        assert bound * (1 - 1e-6) < float(found.abs().max()) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cispo", "gspo"])
def test_divided_by_the_std_of_finite_groups_with_a_kl_in_the_loss_nothing_is_known(name):
    world = grouped(bandit(), 3)
    assert predict(build(name, beta_kl=0.5, kl="loss_k2"), world).law is None
    assert predict(build(name, beta_kl=1.5, kl="loss_k2"), bandit()).target == "self_consistent"
    assert solve(build(name, beta_kl=0.5, kl="loss_k2"), world).converged  # at rest, not collapsed


# ------------------------------------------------------------------------------------------------- without any pull


@pytest.mark.parametrize(("name", "size"), [("dr_grpo", None), ("cispo", None), ("dr_grpo", 2)])
def test_without_a_kl_there_is_no_interior_optimum_and_the_lab_says_so(name, size):
    world = replace(bandit(), prompts=(replace(bandit().prompts[0], group=size, guide=torch.tensor(REF)),))
    answer = verify.answer(name, world, overrides={"beta_kl": 0.0})
    assert answer["note"] == ARGMAX == "arg max r: no interior optimum"
    assert answer["predicted"] is None and answer["target"] is None and not answer["shares_pi_tau"]
    assert not answer["converged"]
    assert answer["reached"][0][int(np.argmax(REWARD))] > 0.95  # towards the best answer, as far as the steps go


def test_a_policy_gradient_alone_or_not():
    """1/|y| on ragged answers, and a division by the std of finite groups on trees, are no gradients of E[r]."""
    ragged, even = tree_world(**RAGGED), tree_world(**EVEN)
    said = {
        (name, shape): predict(build(name, beta_kl=0.0), world).note
        for name in ("dr_grpo", "dapo", "gspo")
        for shape, world in (("ragged", ragged), ("even", even), ("finite", grouped(even, 3)))
    }
    silent = {key for key, note in said.items() if note == NOTHING_PULLS}
    assert silent == {("gspo", "ragged"), ("gspo", "finite"), ("dapo", "finite")}
    assert all(note == ARGMAX for key, note in said.items() if key not in silent)
    flat = bandit(reward=np.full(5, 0.3))
    assert predict(build("dr_grpo", beta_kl=0.0), flat).note is None  # every policy is as good


def test_the_table_says_it(capsys, tmp_path):
    prompt = {"ref": REF.tolist(), "reward": REWARD.tolist(), "guide": REF.tolist()}
    world = {"tau": TAU, "vocab": 5, "horizon": 1, "eos": None, "prompts": [prompt]}
    (tmp_path / "world.json").write_text(json.dumps(world), encoding="utf-8")
    assert main(["lab", "dr_grpo", "--world", str(tmp_path / "world.json"), "--beta_kl", "0"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("; arg max r: no interior optimum")


def test_rewards_that_are_all_equal_move_nothing() -> None:
    """Nothing is better than anything else: the spread is 0, and rounding must not pass for one."""
    flat = {"ref": [0.14111584559689025, 0.8588841544031098], "reward": [0.3, 0.3]}
    world = parse_world({"tau": 0.403, "vocab": 2, "horizon": 1, "prompts": [flat], "critic": "zero"})
    found = verify.answer("ppo", verify.with_guides(world), overrides={"kl": "loss_k2"})
    assert found["tv"] < 1e-6
    np.testing.assert_allclose(found["reached"][0], flat["ref"], atol=1e-6)
