"""Rates: closed forms against gradient descent, against plain numpy, and the statements 20–23 on UDRRA."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.lab import plain
from tests.lab.at import at
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, sigmoid, tree_world
from tokenward.cli import main
from tokenward.errors import InputError
from tokenward.lab.optima.targets import predict
from tokenward.lab.rates.curvature import modes
from tokenward.lab.rates.rate import bound_from_reference, rate
from tokenward.lab.worlds.world_file import parse_world
from tokenward.recipes import build

GAP = REWARD[:, None] - REWARD
UNIFORM = np.full((5, 5), 2 / 25)
RATES = {  # η = 0.5, uniform pairs and answers, τ = 0.35, 0.7, 1.4
    "pra": (0.997733, 0.990930, 0.963722),
    "rda": (0.951, 0.804, 0.216),
    "bda": (0.999786, 0.991716, 0.963966),
    "ra": (0.9755, 0.902, 0.608),
}


def made(name, tau, **settings):
    if name == "ra":
        settings = {"normalizer": "given", **settings}
    if name == "bda":
        settings = {"direction": "forward", "sampler": "reference", **settings}
    return build(name, beta=tau, **settings)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("name", RATES)
def test_20_local_rates_predicted_and_measured(name, index):
    tau = (0.35, 0.7, 1.4)[index]
    found = rate(made(name, tau), bandit(tau=tau, sampler="uniform"), step=0.5)
    assert found.predicted == pytest.approx(RATES[name][index], abs=1e-6 if name in ("pra", "bda") else 5e-4)
    assert found.measured == pytest.approx(found.predicted, abs=1e-3 * (1 - found.predicted))
    assert found.agrees


def test_20_reverse_kl_and_detached_samplers_are_multiples_of_one_curvature():
    world, target = bandit(), gibbs(REF, REWARD, TAU)
    slow = np.sort(np.linalg.eigvalsh(np.diag(target) - np.outer(target, target)))[1]
    for recipe, factor in (
        (build("bda", beta=TAU), TAU),
        (build("reinforce", beta_kl=TAU), TAU),
        (build("rda", beta=TAU, sampler="policy"), 4 * TAU**2),
        (build("ra", beta=TAU, normalizer="given", sampler="policy"), 2 * TAU**2),
    ):
        found = rate(recipe, world, step=0.5)
        assert found.predicted == pytest.approx(1 - 0.5 * factor * slow, abs=1e-12)
        assert found.agrees
        assert np.sort(target)[0] < slow < np.sort(target)[1]


def plain_gradients(tau):
    """By the logits of a bandit, in numpy."""

    def pra(logits):
        z = tau * (logits - np.log(REF))
        return -tau * (UNIFORM * (sigmoid(GAP) - sigmoid(z[:, None] - z))).sum(-1)

    def rda(logits):
        z = tau * (logits - np.log(REF))
        return 2 * tau * (UNIFORM * (z[:, None] - z - GAP)).sum(-1)

    def ra(logits):
        law = plain.softmax(logits)
        force = 2 * tau * 0.2 * (tau * np.log(law / REF) + tau * np.log(REF @ np.exp(REWARD / tau)) - REWARD)
        return force - law * force.sum()

    return {"pra": pra, "rda": rda, "ra": ra}


@pytest.mark.parametrize("name", ["pra", "rda", "ra"])
def test_20_descent_from_the_reference_in_plain_numpy_settles_at_the_predicted_ratio(name):
    tau, target = 1.4, gibbs(REF, REWARD, 1.4)
    world = bandit(tau=tau, sampler="uniform")
    recipe = made(name, tau)
    (found,) = modes(recipe, world, predict(recipe, world))
    step = 1 / (float(found.values[0]) + float(found.values[-1]))  # no overshoot: the smallest λ is the slowest
    logits, errors, slope = np.log(REF), [], plain_gradients(tau)[name]
    for _ in range(25):
        logits = logits - step * slope(logits)
        error = np.log(plain.softmax(logits) / target)
        errors.append(np.linalg.norm(error - error.mean()))
    assert errors[-1] / errors[-2] == pytest.approx(rate(recipe, world, step=step).predicted, rel=1e-3)


TREES = {
    "dpo": {},
    "rda": {},
    "ra": {},
    "ipo": {},
    "dpo_averaged": {},
    "reward_model": {},
    "sft": {},
    "reinforce": {"aggregation": "token_mean"},
    "rloo": {"aggregation": "token_sum", "kl": "exact"},
    "ppo": {},
    "pra": {"sampler": "policy"},
    "bda": {"direction": "forward", "sampler": "uniform"},
}


@pytest.mark.parametrize("name", TREES)
def test_prediction_is_what_descent_does_on_a_ragged_tree_of_two_prompts(name):
    world = tree_world(vocab=2, horizon=3, eos=1, prompts=2, seed=3)
    key = {"reward_model": None, "sft": None, "reinforce": "beta_kl", "rloo": "beta_kl", "ppo": "beta_kl"}
    pull = key.get(name, "beta")
    found = rate(build(name, **({pull: TAU} if pull else {}), **TREES[name]), world)
    assert found.predicted is not None and found.measured is not None
    assert 1 - found.measured == pytest.approx(1 - found.predicted, rel=1e-3)
    assert len(found.prompts) == 2
    assert found.predicted == max(one.contraction for one in found.prompts)
    assert found.step * found.largest_stable_step**-1 == pytest.approx(0.5, rel=1e-9)


def test_a_lopsided_graph_and_what_is_never_compared():
    for pairs in ([[0, 1, 1], [1, 2, 5]], [[0, 1, 1], [2, 3, 1], [3, 4, 0.01]], [[0, 4, 1], [4, 2, 1], [2, 1, 2]]):
        found = rate(build("dpo", beta=TAU), bandit(pairs=pairs))
        weight = np.zeros((5, 5))
        for i, j, w in pairs:
            weight[i, j] = weight[j, i] = w / sum(pair[2] for pair in pairs)
        eigen = np.linalg.eigvalsh(TAU**2 * plain.laplacian(weight * sigmoid(GAP) * sigmoid(-GAP)))
        assert found.condition == pytest.approx(eigen.max() / eigen[eigen > 1e-12].min(), rel=1e-9)
        assert found.agrees
        assert (found.bound is None) == (len(eigen[eigen > 1e-12]) < 4)


def test_a_sampler_that_misses_answers_leaves_them_flat():
    found = rate(build("ra", beta=TAU, normalizer="given"), bandit(sampler=[0.3, 0.2, 0.3, 0.2, 0.0]))
    assert found.agrees
    assert "leaf 1, μ = 0.2" in found.cause


def test_features_shared_by_the_answers_change_the_rate():
    rng = np.random.default_rng(0)
    other = rng.normal(size=5)
    features = np.stack([REWARD, other], -1)  # π^τ is in the class: θ = (1/τ, 0)
    found = rate(build("dpo", beta=TAU), bandit(features=features.tolist()), step=1.0)
    curve = TAU**2 * plain.laplacian(UNIFORM * sigmoid(GAP) * sigmoid(-GAP))
    eigen = np.linalg.eigvalsh(features.T @ curve @ features)  # 𝓛1 = 0: the center of φ does not count
    assert found.predicted == pytest.approx(max(abs(1 - eigen[0]), abs(1 - eigen[1])), abs=1e-12)
    assert found.agrees
    outside = rate(build("dpo", beta=TAU), bandit(features=other[:, None].tolist()), step=1.0)
    assert outside.predicted is None and 0 < outside.measured < 1


@pytest.mark.parametrize("step", [0.5, 4.0])
def test_21_bound_from_the_reference_holds_at_every_step(step):
    world = bandit()
    factor = bound_from_reference(build("pra", beta=TAU), world, step=step)
    widest = 2 * np.abs(GAP).max()
    connectivity = np.sort(np.linalg.eigvalsh(plain.laplacian(UNIFORM)))[1]
    assert factor == pytest.approx(1 - step * TAU**2 * sigmoid(widest) * sigmoid(-widest) * connectivity, abs=1e-15)
    assert factor >= rate(build("pra", beta=TAU), world, step=step).predicted
    problem = at("pra", world, REF, beta=TAU)
    start, before = np.linalg.norm(REWARD - REWARD.mean()) / TAU, np.inf
    for k in range(60):
        error = np.log(problem.policy().law()[0].detach().numpy() / gibbs(REF, REWARD, TAU))
        assert np.linalg.norm(error - error.mean()) <= factor**k * start + 1e-12
        assert error.max() - error.min() <= before + 1e-12
        before = error.max() - error.min()
        problem.move_to(problem.vector() - step * problem.gradient()[0].flatten())


def test_21_no_bound_where_its_conditions_fail():
    dpo, longest = build("dpo", beta=TAU), 2 / (TAU**2 * 4 * 2 / 25)
    assert bound_from_reference(dpo, bandit(), step=0.999 * longest) is not None
    assert bound_from_reference(dpo, bandit(), step=1.001 * longest) is None
    assert bound_from_reference(dpo, tree_world(vocab=2, horizon=2, eos=None), step=0.1) is None
    assert bound_from_reference(dpo, bandit(pairs=[[0, 1, 1]]), step=0.1) is None
    assert bound_from_reference(dpo, bandit(sampler="policy", pairs="sampler"), step=0.1) is None
    assert bound_from_reference(dpo, bandit(labels={"kind": "bradley-terry", "noise": 0.1}), step=0.1) is None
    assert bound_from_reference(build("rda", beta=TAU), bandit(), step=0.1) is None


def steps(name, tau, step, *, until=1e-3):
    """Of plain descent from π_ref on all pairs, until the total variation to π^τ is small; in numpy."""
    slope, logits, goal, count = plain_gradients(tau)[name], np.log(REF), gibbs(REF, REWARD, tau), 0
    while plain.tv(plain.softmax(logits), goal) > until:
        logits = logits - step * slope(logits)
        count += 1
    return count


def test_22_fixed_steps_take_longer_as_tau_falls_and_steps_with_tau_squared_do_not():
    taus = (0.2, 0.35, 0.7, 1.4, 2.8)
    assert [steps("pra", tau, 0.25) for tau in taus] == [15085, 5325, 1177, 267, 57]
    assert [steps("pra", tau, 0.25 * (0.7 / tau) ** 2) for tau in taus] == [1229, 1329, 1177, 1075, 946]
    assert [steps("rda", tau, 0.25) for tau in taus] == [735, 257, 56, 12, 9]
    assert [steps("rda", tau, 0.25 * (0.7 / tau) ** 2) for tau in taus] == [58, 62, 56, 54, 49]


def condition(recipe, tau):
    world = bandit(tau=tau)
    return modes(recipe, world, predict(recipe, world))[0].condition


def test_22_condition_numbers_stay_for_fixed_pairs_and_explode_for_the_policys_own():
    taus = (2.0, 1.0, 0.5, 0.25, 0.1)
    assert [condition(build("pra", beta=tau), tau) for tau in taus] == pytest.approx([2.02] * 5, abs=5e-3)
    assert [condition(build("rda", beta=tau), tau) for tau in taus] == pytest.approx([1.0] * 5, abs=1e-9)
    own = [condition(build("bda", beta=tau), tau) for tau in taus]
    assert own == pytest.approx([3.2, 8.0, 110, 1.9e4, 2.3e10], rel=0.03)
    detached = [condition(build("rda", beta=tau, sampler="policy"), tau) for tau in taus]
    assert detached == pytest.approx(own, rel=1e-4)
    pra = [condition(build("pra", beta=tau, sampler="policy"), tau) for tau in taus]
    assert pra == pytest.approx([4.8, 15, 317, 8.2e4, 1.2e11], rel=0.05)


@pytest.mark.parametrize(("name", "eta"), [("mirror_descent", 0.3), ("mirror_descent", 1.2), ("rebel", 0.8)])
def test_23_exact_proximal_steps_contract_by_one_minus_eta_tau(name, eta):
    world = tree_world(vocab=2, horizon=2, eos=1, prompts=1, seed=1)
    found = rate(build(name, eta=eta, beta_kl=TAU), world)
    assert (found.kind, found.step) == ("exact steps", eta)
    assert found.predicted == pytest.approx(abs(1 - eta * TAU), abs=1e-15)
    assert found.measured == pytest.approx(found.predicted, abs=1e-6)


def test_too_long_a_step_diverges_as_predicted():
    found = rate(build("dpo", beta=TAU), bandit())
    longer = rate(build("dpo", beta=TAU), bandit(), step=1.1 * found.largest_stable_step)
    assert longer.predicted == pytest.approx(1.2, abs=1e-9)
    assert longer.measured == pytest.approx(1.2, abs=1e-6)
    assert "too long" in longer.cause


def test_no_rate_where_there_is_no_optimum_and_no_prediction_without_a_closed_form():
    hard = rate(build("dpo", beta=TAU), bandit(labels={"kind": "deterministic"}))
    assert (hard.predicted, hard.measured, hard.agrees) == (None, None, None)
    assert "does not come to rest" in hard.cause
    kto = rate(build("kto", beta=TAU), bandit())
    assert kto.predicted is None and 0 < kto.measured < 1
    scaled, world = build("grpo", beta_kl=2.0, kl="exact"), bandit(tau=2.0)  # the std moves with the policy
    assert predict(scaled, world).law is not None and modes(scaled, world, predict(scaled, world)) is None
    assert not replace(rate(build("rda", beta=TAU), bandit()), measured=0.5).agrees


def test_bad_steps_and_worlds_too_large_are_refused_in_one_line():
    with pytest.raises(InputError, match="step must be a number above 0, got -1"):
        rate(build("dpo", beta=TAU), bandit(), step=-1.0)
    with pytest.raises(InputError, match=r"2,046 logits, at most 2,000"):
        rate(build("dpo", beta=TAU), tree_world(vocab=2, horizon=10, eos=None))


def test_lab_rate_on_the_command_line(tmp_path, capsys):
    world = {"tau": 0.7, "vocab": 5, "horizon": 1, "prompts": [{"ref": REF.tolist(), "reward": REWARD.tolist()}]}
    file = tmp_path / "world.json"
    file.write_text(json.dumps(world), encoding="utf-8")
    assert main(["lab", "pra", "mirror_descent", "--rate", "--step", "0.5", "--world", str(file), "--json"]) == 0
    pra, mirror = json.loads(capsys.readouterr().out)
    assert pra["predicted"] == pytest.approx(0.990930, abs=1e-6)
    assert pra["agrees"] and pra["prompts"][0]["condition"] == pytest.approx(2.02, abs=5e-3)
    assert mirror["predicted"] == pytest.approx(0.5)
    assert main(["lab", "rda", "--rate", "--world", str(file)]) == 0
    told = capsys.readouterr().out
    assert "agree" in told and "the reward gaps do not enter" in told
    assert main(["lab", "rda", "--step", "1"]) == 2
    assert main(["lab", "rda", "--rate", "--step", "big"]) == 2
    assert "step must be a number, got 'big'" in capsys.readouterr().err


def test_prompts_that_share_features_have_one_rate():
    rng = np.random.default_rng(2)
    plain_world = tree_world(vocab=2, horizon=2, eos=None, prompts=2, seed=4)
    prompts = [
        {"weight": one.weight, "ref": one.ref.tolist(), "reward": one.reward.tolist(),
         "features": np.stack([one.reward.numpy(), rng.normal(size=4), rng.normal(size=4)], -1).tolist()}
        for one in plain_world.prompts
    ]  # fmt: skip
    world = parse_world({"tau": TAU, "vocab": 2, "horizon": 2, "prompts": prompts})
    for recipe in (build("dpo", beta=TAU), build("reinforce", beta_kl=TAU, aggregation="token_sum")):
        found = rate(recipe, world)
        assert len(found.prompts) == 1 and found.agrees
        assert "features" in found.cause


def test_groups_of_finite_size_change_no_rate_under_a_leave_one_out_baseline():
    found = rate(build("rloo", beta_kl=TAU), bandit(group=3), step=0.5)
    assert found.agrees
    assert found.predicted == pytest.approx(rate(build("rloo", beta_kl=TAU), bandit(), step=0.5).predicted, abs=1e-15)
    assert rate(build("grpo", beta_kl=TAU), bandit(group=3), step=0.5).predicted is None


def test_a_regression_that_does_not_reach_zero_has_its_own_curvature():
    """The mean reward in the place of τ log Z: the forces left at the optimum are a multiple of π, and they count."""
    for sampler in ("reference", "uniform"):
        found = rate(build("ra", beta=TAU, normalizer="mean_reward", sampler=sampler), bandit())
        assert found.predicted is not None and found.agrees
