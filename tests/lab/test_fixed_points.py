"""Fixed points of methods on their own samples: temperatures of their own, the k3 policy, collapse, length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, kl, random_law, tree_world, tv
from tokenward.lab.optima import exact
from tokenward.lab.optima.self_consistent import roots, self_consistent, spread
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.descent import follow
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world_file import parse_world
from tokenward.objective.signal.advantages import GroupBaseline, SequenceReturn, Whiten
from tokenward.objective.signal.rewards import Outcome
from tokenward.recipes import build

EPS = 1e-4  # GroupScale's


def grouped(world, size):
    return replace(world, prompts=tuple(replace(prompt, group=size) for prompt in world.prompts))


def std(law, reward=REWARD):
    return float(np.sqrt(law @ reward**2 - (law @ reward) ** 2))


# ------------------------------------------------------------------------------- GRPO in the limit of large groups


def sigmas(tau, eps=0.0):
    """Every σ in [1e-3, 3] with σ = std under π_ref·exp(r/(τ(σ + ε))), smallest first; a fine scan and bisection."""

    def gap(s):
        logs = np.log(REF) + REWARD / (tau * (np.atleast_1d(s)[:, None] + eps))
        law = np.exp(logs - logs.max(-1, keepdims=True))
        law /= law.sum(-1, keepdims=True)
        return np.sqrt((law * (REWARD - (law @ REWARD)[:, None]) ** 2).sum(-1)) - s

    grid = np.linspace(1e-3, 3, 60_000)
    signs = np.sign(gap(grid))
    found = []
    for i in np.flatnonzero(signs[:-1] != signs[1:]):
        low, high = grid[i], grid[i + 1]
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sign(gap(middle))[0] == signs[i] else (low, middle)
        found.append(low)
    return found


def test_the_two_temperatures_of_the_notes():
    assert sigmas(1.0) == pytest.approx([0.1635, 0.6505], abs=1e-4)
    assert sigmas(0.5) == sigmas(0.7) == []


@pytest.mark.parametrize("kind", ["exact", "loss_k2"])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_grpo_rests_at_the_larger_self_consistent_temperature(tau, kind):
    world, recipe = bandit(tau=tau), build("grpo", beta_kl=tau, kl=kind)
    found = predict(recipe, world)
    assert (found.target, found.shares) == ("self_consistent", False)
    expected = gibbs(REF, REWARD, tau * (sigmas(tau, EPS)[-1] + EPS))
    assert tv(found.law[0], expected) < 1e-10
    solution = solve(recipe, world)
    assert solution.converged
    assert tv(solution.law[0], expected) < 1e-10


@pytest.mark.parametrize("tau", [0.5, 0.7])
def test_without_such_a_temperature_grpo_collapses_as_groups_grow(tau):
    world, recipe = bandit(tau=tau), build("grpo", beta_kl=tau, kl="exact")
    found = predict(recipe, world)
    assert found.law is None
    assert found.target is None
    assert "groups grow without bound" in found.note
    solution = solve(recipe, world)
    assert not solution.converged
    assert solution.law[0, 3] > 0.99
    assert predict(recipe, grouped(world, 8)).note is None  # a statement about infinite groups only


def test_the_smaller_temperature_is_a_watershed_and_beyond_it_the_best_answer_attracts():
    world, recipe = bandit(tau=1.0), build("grpo", beta_kl=1.0, kl="exact")
    watershed = sigmas(1.0, EPS)[0]
    for factor, stays in ((1.1, True), (0.9, False)):
        problem = Problem(recipe, world, guide=None, old=None)
        start = torch.tensor(gibbs(REF, REWARD, watershed * factor + EPS))[None]
        problem.move_to(policy_with(start, tree=world.tree).logits.flatten())
        residual, _ = follow(problem, size=0.05)
        assert (residual < 1e-8) == stays
        if stays:
            assert tv(problem.policy().law()[0].detach(), predict(recipe, world).law[0]) < 1e-7
        else:
            assert problem.policy().law()[0, 3] > 0.999


def test_prompts_have_temperatures_of_their_own():
    """The same rewards twice as large: GRPO's target does not change, for the spread takes the factor back."""
    prompts = [{"ref": REF.tolist(), "reward": (factor * REWARD).tolist()} for factor in (1, 2)]
    world = parse_world({"tau": 1.5, "vocab": 5, "horizon": 1, "eos": None, "prompts": prompts})
    law = predict(build("grpo", beta_kl=1.5, kl="exact"), world).law
    assert tv(law[0], law[1]) < 1e-4  # eps is not scaled
    assert tv(law[0], gibbs(REF, REWARD, 1.5 * (sigmas(1.5, EPS)[-1] + EPS))) < 1e-10


def test_a_prompt_whose_answers_are_equally_good_stays_at_the_reference():
    prompts = [{"ref": REF.tolist(), "reward": r} for r in ([1.0] * 5, REWARD.tolist())]
    world = parse_world({"tau": 1.5, "vocab": 5, "horizon": 1, "eos": None, "prompts": prompts})
    recipe = build("grpo", beta_kl=1.5, kl="exact")
    assert tv(predict(recipe, world).law[0], REF) < 1e-10
    assert tv(solve(recipe, world).law[0], REF) < 1e-9


def test_roots_are_all_found_from_the_largest():
    assert roots(lambda x: (x - 0.2) * (x - 1) * (x - 5), low=1e-3, high=10.0) == pytest.approx([5, 1, 0.2], rel=1e-12)
    assert roots(lambda x: 1 + x, low=1e-3, high=10.0) == []


# ----------------------------------------------------------------------------- batch whitening and a KL in the loss


def baseline_form(**settings):
    """REINFORCE++ "with baseline": group mean off, whitened over the batch, KL as a loss."""
    steps = (Outcome(), SequenceReturn(), GroupBaseline("mean"), Whiten())
    return replace(build("reinforce_pp", **settings), steps=steps)


def by_tokens(world, laws, tau, eps=1e-8):
    """(policies, σ) for a trial σ: the std over tokens of r less its prompt's mean, under the myopic policies."""
    words = plain.sequences(world.tree.vocab, world.tree.horizon, world.tree.eos)
    total = mean = second = 0.0
    for share, law, reward in zip(world.weight.numpy(), laws, world.reward.numpy(), strict=True):
        for p, word, value in zip(law, words, reward - law @ reward, strict=True):
            total += share * p * len(word)
            mean += share * p * len(word) * value
            second += share * p * len(word) * value**2
    return np.sqrt(second / total - (mean / total) ** 2)


@pytest.mark.parametrize(("shape", "aggregation"), [((3, 2, 2), "token_mean"), ((2, 3, None), "token_sum")])
def test_the_baseline_form_is_myopic_at_its_own_batch_std(shape, aggregation):
    vocab, horizon, eos = shape
    tau = 1.2
    world = tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, tau=tau, seed=2)
    recipe = baseline_form(beta_kl=tau, kl="loss_k2", aggregation=aggregation)
    assert predict(recipe, world).law is None and "not known" in predict(recipe, world).note
    solution = solve(recipe, world)
    assert solution.converged
    words = plain.sequences(vocab, horizon, eos)
    sigma = by_tokens(world, solution.law.numpy(), tau)
    for x in range(2):
        reward = plain.outcome(words, world.reward[x].numpy())
        expected = plain.myopic(words, world.ref[x].numpy(), reward, tau * (sigma + 1e-8))
        assert tv(solution.law[x], expected) < 1e-9
    assert abs(sigma - 1) > 0.01  # not the temperature τ itself


@pytest.mark.parametrize("lam", [0.0, 0.9])
def test_ppo_with_a_kl_in_the_loss_rests_where_its_own_whitened_advantages_say(lam):
    world = tree_world(vocab=3, horizon=2, eos=2, prompts=2, tau=2.5, seed=5)
    recipe = build("ppo", beta_kl=2.5, kl="exact", lam=lam)
    assert predict(recipe, world).law is None
    solution = solve(recipe, world)
    assert solution.converged
    reward = world.tree.outcome(world.reward)
    sigma = float(spread(recipe, world, solution.law, reward)[0])
    ref = world.tree.conditional(world.ref)
    expected = exact.myopic(world.tree, ref, reward, beta=2.5 * (sigma + 1e-8))
    assert max(tv(a, b) for a, b in zip(solution.law, expected, strict=True)) < 1e-9


def test_on_a_tree_the_flow_may_run_away_from_a_self_consistent_policy():
    """Why nothing is predicted there: a temperature exists, and is not reached from π_ref."""
    world = tree_world(vocab=3, horizon=2, eos=2, tau=0.5, seed=2)
    recipe = build("grpo", beta_kl=0.5, kl="exact", aggregation="token_mean")
    reward, ref = world.tree.outcome(world.reward), world.tree.conditional(world.ref)

    def law_at(temperature):
        return exact.myopic(world.tree, ref, reward / temperature[:, None, None], beta=1.0)

    law = self_consistent(recipe, world, law_at, reward, beta=0.5)
    sigma = float(spread(recipe, world, law, reward)[0])
    assert tv(law[0], law_at(torch.tensor([0.5 * (sigma + EPS)]).double())[0]) < 1e-6
    assert predict(recipe, world).law is None and tv(solve(recipe, world).law[0], law[0]) > 0.1


@pytest.mark.parametrize("seed", [4, 31])
def test_long_steps_would_leap_over_the_point_of_rest(seed):
    """Bandits in which only the flow in small steps ends at the largest self-consistent temperature."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 5))
    ref = rng.dirichlet(np.ones(size) * 0.5) + 1e-3
    tau = float(rng.uniform(0.4, 1.2))
    world = bandit(ref=ref / ref.sum(), reward=2 * rng.normal(size=size), tau=tau)
    recipe = build("grpo", beta_kl=tau, kl="exact")
    assert tv(solve(recipe, world).law[0], predict(recipe, world).law[0]) < 1e-8


def test_ppo_on_a_bandit_divides_by_the_std_of_the_batch():
    world = bandit(tau=1.0)
    found = predict(build("ppo", beta_kl=1.0, kl="exact"), world).law[0]
    assert tv(found, gibbs(REF, REWARD, sigmas(1.0, 1e-8)[-1] + 1e-8)) < 1e-9


def test_whitening_leaves_a_kl_in_the_reward_where_it_was():
    for name in ("ppo", "reinforce_pp"):
        found = predict(build(name, beta_kl=TAU), bandit())
        assert (found.target, found.shares) == ("boltzmann", True)


# ---------------------------------------------------------------------------------------------------- k3 in the loss


def k3_law(reward, beta):
    """π = π_ref·β/(λ − r), λ by a plain search for Σπ = 1."""
    low, high = reward.max() + 1e-14, reward.max() + beta + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (REF * beta / (middle - reward)).sum() > 1 else (low, middle)
    return REF * beta / (high - reward)


@pytest.mark.parametrize("tau", [0.2, 0.7, 2.0])
@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_e2_k3_as_a_loss_has_its_own_policy_for_single_tokens(name, tau):
    world, recipe = bandit(tau=tau), build(name, beta_kl=tau, kl="loss_k3")
    found = predict(recipe, world)
    assert (found.target, found.shares) == ("k3", False)
    expected = k3_law(REWARD, tau)
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    assert tv(found.law[0], expected) < 1e-9
    assert tv(solve(recipe, world).law[0], expected) < 1e-8
    assert tv(expected, gibbs(REF, REWARD, tau)) > 1e-2


@pytest.mark.parametrize("tau", [0.3, 0.7, 2.0])
def test_e2_grpos_own_k3_does_not_collapse(tau):
    """σ is that of π_ref·βσ/(λ − r): the weight of every answer keeps it from vanishing."""
    world, recipe = bandit(tau=tau), build("grpo", beta_kl=tau)
    found = predict(recipe, world)
    assert found.target == "k3"
    law = found.law[0].numpy()
    sigma = std(law)
    assert tv(law, k3_law(REWARD, tau * (sigma + EPS))) < 1e-8
    solution = solve(recipe, world)
    assert solution.converged
    assert tv(solution.law[0], law) < 1e-8
    assert law.min() > 1e-3


def test_e2_on_trees_k3_has_no_closed_form():
    world = tree_world(vocab=2, horizon=2, eos=None, tau=TAU)
    for name in ("rloo", "grpo", "ppo", "reinforce_pp"):
        assert predict(build(name, beta_kl=TAU, kl="loss_k3"), world).law is None


# ------------------------------------------------------------------------------- one number for each row, and lengths


@pytest.mark.parametrize(("group", "shape"), [(None, (2, 3, 1)), (2, (3, 2, 0)), (3, (2, 3, 1))])
@pytest.mark.parametrize(("name", "settings"), [("rloo", {"aggregation": "sequence_mean"}), ("grpo", {"kl": "reward"})])
def test_e3_sequence_means_are_safe_where_a_row_has_one_advantage_with_a_baseline(name, settings, shape, group):
    vocab, horizon, eos = shape
    world = grouped(tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, tau=0.5, seed=9), group)
    recipe = build(name, beta_kl=0.5, **settings)
    found = predict(recipe, world)
    assert (found.target, found.shares) == ("boltzmann", True)
    solution = solve(recipe, world)
    assert solution.converged
    for x in range(2):
        assert tv(solution.law[x], gibbs(world.ref[x].numpy(), world.reward[x].numpy(), 0.5)) < 1e-7


def test_e3_without_the_baseline_they_are_not():
    world = tree_world(vocab=2, horizon=3, eos=1, tau=0.5, seed=9)
    recipe = replace(build("rloo", beta_kl=0.5, aggregation="sequence_mean"))
    recipe = replace(recipe, steps=recipe.steps[:-1])
    assert predict(recipe, world).law is None
    assert tv(solve(recipe, world).law[0], gibbs(world.ref[0].numpy(), world.reward[0].numpy(), 0.5)) > 5e-3


@pytest.mark.parametrize("group", [None, 2, 4])
def test_boltzmann_weights_on_own_samples_rest_at_the_target_however_large_the_group(group):
    """In a finite group the normalized weights are biased, but where π is the target they are all 1."""
    world = grouped(tree_world(vocab=2, horizon=3, eos=1, prompts=2, tau=0.6, seed=1), group)
    recipe = build("bda", beta=0.6, direction="forward")
    found = predict(recipe, world)
    assert (found.target, found.shares) == ("boltzmann", True)
    solution = solve(recipe, world)
    for x in range(2):
        assert tv(solution.law[x], gibbs(world.ref[x].numpy(), world.reward[x].numpy(), 0.6)) < 1e-7
    assert predict(recipe, grouped(world, 1)).law is None  # one answer has weight 1, whatever it is
    assert tv(solve(recipe, grouped(world, 1)).law[0], world.ref[0]) < 1e-12


# ----------------------------------------------------------------------------------- E7: PPO's optimum, the frontier


@pytest.mark.parametrize("beta_guide", [0.1, 0.5, 1.0, 2.0])
def test_e7_rto_is_never_above_the_frontier_of_reward_and_kl(beta_guide):
    """Among all policies of one KL to π_ref, π^τ for some τ has the most reward: RTO's optimum has no more."""
    rng = np.random.default_rng(3)
    for guide in (gibbs(REF, REWARD, 0.3), random_law(rng, 5)):  # an exact guide, and any other
        world = bandit(guide=guide.tolist())
        recipe = build("rto", beta_kl=TAU, beta_guide=beta_guide)
        law = predict(recipe, world, guide=torch.tensor(guide)[None]).law[0].numpy()
        at = kl(law, REF)
        low, high = 1e-3, 1e3
        for _ in range(200):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if kl(gibbs(REF, REWARD, middle), REF) > at else (low, middle)
        frontier = gibbs(REF, REWARD, high)
        assert kl(frontier, REF) == pytest.approx(at, abs=1e-9)
        assert law @ REWARD <= frontier @ REWARD + 1e-9
        if tv(guide, gibbs(REF, REWARD, 0.3)) < 1e-12:
            assert law @ REWARD == pytest.approx(frontier @ REWARD, abs=1e-8)  # the same line, further along
