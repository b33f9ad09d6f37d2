"""What `tokenward lab` answers: targets by recipe and world, and that they are reached."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import bandit, tree_world
from tokenward.errors import InputError
from tokenward.lab import verify
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world import default_world
from tokenward.objective.signal.rewards import Guide
from tokenward.recipes import RECIPES, build

CLIPPED = ("grpo", "reinforce_pp_baseline", "dr_grpo", "dapo", "gspo", "cispo")
ON_POLICY = ("reinforce", "rloo", "reinforce_pp", "ppo", "rto", "distill", "mirror_descent", "trpo", "remax")
SHAPES = {"bandit": (5, 1, None), "tree": (3, 3, None), "ragged": (3, 3, 2)}


@pytest.fixture(scope="module")
def every():
    return {one["recipe"]: one for one in verify.run(list(RECIPES), world_path=None, overrides={})}


def ask(name, world, **overrides):
    return verify.answer(name, verify.with_guides(world), overrides=overrides)


def a_world(shape, **fields):
    vocab, horizon, eos = SHAPES[shape]
    n = len(plain.sequences(vocab, horizon, eos))
    guide = plain.random_law(np.random.default_rng(77), n).tolist()
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, seed=3, tau=0.4, guide=guide, **fields)


TARGETS = {
    **dict.fromkeys(("dpo", "pra", "rda", "ra", "reinforce", "rloo", "ppo", "rebel", "mirror_descent"), "boltzmann"),
    **dict.fromkeys(("trpo", "online_dpo", "remax"), "boltzmann"), "nash_md": "nash_mixture", "xpo": None,
    **dict.fromkeys(("bda", "bco"), "boltzmann"), "f_dpo": "f_divergence",
    **dict.fromkeys(("dr_grpo", "dapo", "gspo", "cispo"), "boltzmann"), "reinforce_pp_baseline": None,
    **dict.fromkeys(("dpo_averaged", "ipo_averaged"), "length_power"),
    "ppo_max": "scaled", "ipo": "ipo", "rto": "extrapolated", "distill": "guide", "sft": "demonstrations",
    **dict.fromkeys(("grpo", "drto", "reinforce_pp", "slic", "kto", "una", "cdpo", "simpo", "reward_model")),
}  # fmt: skip


def test_every_recipe_has_its_target_on_the_default_world(every):
    assert {name: one["target"] for name, one in every.items()} == TARGETS


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target])
def test_a_predicted_target_is_reached(every, name):
    assert every[name]["tv"] <= 1e-7
    assert every[name]["converged"]
    assert every[name]["residual"] <= 1e-8


def test_scenarios_follow_access_and_only_boltzmann_is_shared(every):
    scenario = {name: one["scenario"] for name, one in every.items()}
    assert {n for n, s in scenario.items() if s == "BDA"} == {*ON_POLICY, *CLIPPED, "bda", "ppo_max", "drto"}
    assert {n for n, s in scenario.items() if s == "RA"} == {"ra", "una"}
    assert {n for n, s in scenario.items() if s == "RDA"} == {"rda", "rebel"}
    assert {n for n, s in scenario.items() if s is None} == {"sft"}
    assert {n for n, one in every.items() if one["shares_pi_tau"]} == {
        n for n, t in TARGETS.items() if t == "boltzmann"
    }


def test_an_answer_has_the_fields_of_the_format(every):
    fields = {
        "recipe", "scenario", "shares_pi_tau", "target", "predicted", "reached", "tv", "residual", "converged"
    }  # fmt: skip
    assert all(set(one) - {"max_error", "note"} == fields for one in every.values())
    assert {name for name, one in every.items() if "note" in one} == {"drto", "xpo"}
    assert [name for name, one in every.items() if "max_error" in one] == ["reward_model"]
    assert all((one["tv"] is None) == (one["predicted"] is None) for n, one in every.items() if n != "reward_model")
    assert [len(rows) for rows in every["dpo"]["reached"]] == [15, 15]
    json.dumps(list(every.values()), allow_nan=False)


def test_a_reward_model_is_judged_by_its_centered_scores(every):
    one = every["reward_model"]
    reward = default_world().reward.numpy()
    centered = reward - reward.mean(-1, keepdims=True)
    assert np.abs(np.array(one["predicted"]) - centered).max() < 1e-12
    assert np.abs(np.array(one["reached"]) - centered).max() < 1e-7
    assert one["max_error"] <= 1e-7
    assert (one["target"], one["tv"], one["shares_pi_tau"]) == (None, None, False)


def test_the_forms_of_the_target_agree():
    assert verify.forms_apart(default_world()) <= 1e-10


def expected_law(name, world, x):
    """The optimum of a recipe in plain numpy."""
    words = plain.sequences(world.tree.vocab, world.tree.horizon, world.tree.eos)
    ref, reward = world.ref[x].numpy(), world.reward[x].numpy()
    guide = world.prompts[x].guide.numpy()
    if name == "rto":
        return plain.gibbs(ref, 0.05 * np.log(guide / ref) + reward, world.tau)
    if name == "distill":
        return guide
    if name == "myopic":
        return plain.myopic(words, ref, plain.outcome(words, reward), world.tau)
    return plain.gibbs(ref, reward, world.tau)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name", ["dpo", "rda", "rloo", "ppo", "rto", "distill", "reinforce", "rebel", "mirror_descent", "ra"]
)
def test_recipes_reach_what_numpy_says(shape, name):
    world = a_world(shape)
    one = ask(name, world)
    for x in range(2):
        assert plain.tv(one["reached"][x], expected_law(name, world, x)) < 1e-7
        assert plain.tv(one["predicted"][x], expected_law(name, world, x)) < 1e-12
    assert one["shares_pi_tau"] == (name not in ("rto", "distill"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kl", ["loss_k2", "exact"])
@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_a_kl_in_the_loss_ends_at_the_myopic_policy_and_shares_nothing(shape, kl, name):
    world = a_world(shape)
    one = ask(name, world, kl=kl)
    assert one["target"] == "myopic"
    assert not one["shares_pi_tau"]  # not even for single tokens, where the two laws are one
    for x in range(2):
        assert plain.tv(one["reached"][x], expected_law("myopic", world, x)) < 1e-7
        assert plain.tv(one["predicted"][x], expected_law("myopic", world, x)) < 1e-12


@pytest.mark.parametrize("kl", ["loss_k2", "exact"])
def test_mirror_descent_with_a_kl_in_the_loss_reaches_a_myopic_policy(kl):
    one = ask("mirror_descent", a_world("ragged"), kl=kl)
    assert (one["target"], one["shares_pi_tau"]) == ("myopic", False)
    assert one["tv"] < 1e-7


@pytest.mark.parametrize(
    ("name", "overrides", "target"),
    [
        ("rloo", {"kl": "loss_k3"}, None),
        ("reinforce_pp", {}, None),
        ("reinforce_pp", {"aggregation": "token_mean"}, "boltzmann"),
        ("reinforce", {"aggregation": "sequence_mean"}, None),
        ("ppo", {"aggregation": "sequence_mean"}, None),
        ("rloo", {"aggregation": "sequence_mean"}, "boltzmann"),
        ("rloo", {"aggregation": "sequence_mean", "kl": "loss_k2"}, None),
        ("grpo", {"kl": "reward"}, "boltzmann"),
        ("grpo", {"kl": "exact"}, None),
        ("ppo", {"gamma": 0.9}, None),
        ("ppo", {"beta_kl": 0.0}, None),
        ("ppo", {"lam": 0.0}, "boltzmann"),
        ("mirror_descent", {"ratio": "token"}, "per_state"),
        ("mirror_descent", {"ratio": "token", "beta_kl": 0.4}, "boltzmann"),
        ("rebel", {"beta_kl": 0.4}, "boltzmann"),
        ("rto", {"beta_guide": 0.0}, "boltzmann"),
        ("rto", {"guide_clip": 0.02}, "extrapolated"),
        ("rto", {"beta_guide": 0.9}, "extrapolated"),
        ("simpo", {"gamma": 0.0}, "length_power"),
        ("simpo", {"gamma": 0.5}, None),
        ("cdpo", {"smoothing": 0.0}, "boltzmann"),
        ("sft", {"aggregation": "sequence_mean"}, None),
        ("sft", {"aggregation": "token_sum"}, "demonstrations"),
        ("ra", {"normalizer": "given"}, "boltzmann"),
    ],
)
def test_settings_decide_the_target_on_a_ragged_tree(name, overrides, target):
    one = ask(name, a_world("ragged"), **overrides)
    assert one["target"] == target
    if target:
        assert one["tv"] < 1e-7


@pytest.mark.parametrize("name", ["reinforce_pp", "ppo", "sft"])
def test_sequence_means_are_harmless_where_all_lengths_are_one(name):
    one = ask(name, a_world("tree"), aggregation="sequence_mean")
    assert one["target"] == ("demonstrations" if name == "sft" else "boltzmann")
    assert one["tv"] < 1e-7


def test_an_imperfect_critic_ends_the_prediction_unless_lambda_is_one():
    world = a_world("ragged", critic="zero")
    assert ask("ppo", world)["target"] is None
    whole = ask("ppo", world, lam=1.0)
    assert whole["target"] == "boltzmann"
    assert whole["tv"] < 1e-7
    assert ask("ppo", a_world("bandit", critic="zero"))["target"] == "boltzmann"


def test_another_beta_reaches_another_boltzmann_policy_that_is_not_shared():
    world = a_world("ragged")
    for name, keyword in (("dpo", "beta"), ("rloo", "beta_kl"), ("rebel", "beta_kl"), ("ra", "beta")):
        one = ask(name, world, **{keyword: 0.9})
        assert (one["target"], one["shares_pi_tau"]) == ("boltzmann", False)
        for x in range(2):
            assert plain.tv(one["reached"][x], plain.gibbs(world.ref[x].numpy(), world.reward[x].numpy(), 0.9)) < 1e-7


def test_a_guide_that_is_absent_is_what_dpo_reaches():
    noisy = {"kind": "bradley-terry", "temperature": 2}
    world = tree_world(vocab=3, horizon=2, eos=None, labels=noisy)
    filled = verify.with_guides(world)
    assert plain.tv(filled.prompts[0].guide, plain.gibbs(world.ref[0].numpy(), world.reward[0].numpy(), 1.4)) < 1e-12
    cyclic = {"kind": "matrix", "p": [[0.5, 0.8, 0.3], [0.2, 0.5, 0.9], [0.7, 0.1, 0.5]]}
    world = bandit(ref=[0.2, 0.3, 0.5], reward=[1, 2, 3], labels=cyclic)
    reached = ask("dpo", world)
    assert reached["target"] is None
    assert plain.tv(verify.with_guides(world).prompts[0].guide, reached["reached"][0]) < 1e-10
    given = [0.1, 0.1, 0.8]
    kept = verify.with_guides(bandit(ref=[0.2, 0.3, 0.5], reward=[1, 2, 3], guide=given))
    assert kept.prompts[0].guide.tolist() == pytest.approx(given)


def test_unknown_recipes_and_keywords_are_refused():
    with pytest.raises(InputError, match="unknown recipe 'dop'"):
        verify.run(["dop"], world_path=None, overrides={})
    with pytest.raises(InputError, match="recipe sft has no setting 'kl'"):
        verify.run(["sft"], world_path=None, overrides={"kl": "exact"})


def test_a_recipe_of_a_file_is_read_by_its_parts(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tokenward.objective.links import Logistic\n"
        "from tokenward.objective.recipe import Recipe, Stream\n"
        "from tokenward.objective.targets import Won\n"
        "from tokenward.objective.terms import LogRatio, PairTerm\n\n\n"
        "def mine(*, beta: float = 0.1, margin: float = 0.0) -> Recipe:\n"
        '    score = LogRatio("ref_logp", beta=beta)\n'
        '    term = PairTerm("mine", score=score, link=Logistic(margin=margin), target=Won())\n'
        '    return Recipe("mine", ("rafailov2023dpo",), (Stream("pairs"),), (term,))\n'
    )
    (one,) = verify.run([f"{path}:mine"], world_path=None, overrides={})
    assert (one["recipe"], one["target"], one["shares_pi_tau"]) == ("mine", "boltzmann", True)
    assert one["tv"] < 1e-7
    (other,) = verify.run([f"{path}:mine"], world_path=None, overrides={"margin": 0.5})
    assert other["target"] is None


def test_the_table_says_what_was_reached_and_what_was_missed(every):
    text = verify.render(list(every.values()))
    lines = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert text.splitlines()[0].split() == ["recipe", "scenario", "shares", "π^τ", "target", "tv", "verdict"]
    assert list(lines) == list(RECIPES)
    assert lines["dpo"].split()[1:4] == ["PRA", "yes", "boltzmann"]
    assert lines["dpo"].endswith("reached")
    assert "centered scores, largest error" in lines["reward_model"]
    assert "no closed form; residual" in lines["slic"] and "(at rest" in lines["una"]
    one = {**every["una"], "residual": 5e-7, "converged": False}
    assert "no closed form; residual 5e-07 (at rest below 1e-08)" in verify.render([one])
    assert verify.missed(list(every.values())) == []
    wrong = {**every["dpo"], "tv": 0.3}
    assert "MISSED; at rest" in verify.render([wrong])
    assert verify.missed([wrong, every["slic"]]) == ["dpo"]


def test_numbers_do_not_depend_on_the_default_precision():
    torch.set_default_dtype(torch.float32)
    assert ask("dpo", a_world("bandit"))["tv"] < 1e-9


@pytest.mark.parametrize(("name", "overrides", "noise"), [("cdpo", {"smoothing": 0.1}, 0.0), ("dpo", {}, 0.1)])
def test_smoothed_labels_are_predicted_where_comparisons_form_a_tree(name, overrides, noise):
    """Each margin is the logit of its own smoothed probability, and margins add up along the tree's only paths."""
    edges = [[0, 1, 1], [1, 2, 3], [1, 3, 1]]
    labels = {"kind": "bradley-terry", "noise": noise}
    ref, reward = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, 0.0, -0.5, 2.0])
    one = ask(name, bandit(ref=ref, reward=reward, tau=0.4, pairs=edges, labels=labels), **overrides)
    assert (one["target"], one["shares_pi_tau"]) == ("smoothed", False)
    score = np.zeros(4)
    for i, j in ((0, 1), (1, 2), (1, 3)):
        p = 0.9 * plain.sigmoid(reward[i] - reward[j]) + 0.1 * plain.sigmoid(reward[j] - reward[i])
        known, new, sign = (j, i, 1) if (i, j) == (0, 1) else (i, j, -1)
        score[new] = score[known] + sign * np.log(p / (1 - p))
    assert plain.tv(one["predicted"][0], plain.gibbs(ref, score, 0.4)) < 1e-12
    assert one["tv"] < 1e-7
    cycle = bandit(ref=ref, reward=reward, tau=0.4, labels=labels)
    assert ask(name, cycle, **overrides)["target"] is None


def test_a_reward_model_knows_each_component_of_the_comparisons_on_its_own():
    one = ask("reward_model", bandit(ref=[0.25] * 4, reward=[1, 4, 2, 7], pairs=[[0, 1, 1], [2, 3, 1]]))
    assert one["predicted"] == [pytest.approx([-1.5, 1.5, -2.5, 2.5])]
    assert one["max_error"] < 1e-7
    noisy = bandit(ref=[0.25] * 4, reward=[1, 4, 2, 7], labels={"kind": "bradley-terry", "noise": 0.1})
    unknown = ask("reward_model", noisy)
    assert (unknown["predicted"], unknown["max_error"], unknown["tv"]) == (None, None, None)
    assert unknown["converged"]


def test_a_clipped_guide_with_a_kl_in_the_loss_reaches_its_own_myopic_policy():
    world = a_world("ragged")
    recipe = build("rto", beta_kl=world.tau, kl="exact", beta_guide=0.4, guide_clip=0.05)
    recipe = replace(recipe, steps=recipe.steps[:-1])  # without whitening, which has a temperature of its own
    laws = torch.stack([prompt.guide for prompt in world.prompts])
    found = predict(recipe, world, guide=laws)
    assert found.target == "myopic"
    assert plain.tv(found.law[0], solve(recipe, world, guide=laws).law[0]) < 1e-7
    words = plain.sequences(*SHAPES["ragged"])
    ref, guide = world.ref[0].numpy(), world.prompts[0].guide.numpy()
    outcome, reward = plain.outcome(words, world.reward[0].numpy()), {}
    for word, own, base in zip(words, plain.token_logs(words, guide), plain.token_logs(words, ref), strict=True):
        for t, token in enumerate(word):
            extra = float(np.clip(0.4 * (own[t] - base[t]), -0.05, 0.05))
            score = outcome[(word[:t], token)] if t == len(word) - 1 else 0.0
            reward[(word[:t], token)] = extra + score
    assert plain.tv(found.law[0], plain.myopic(words, ref, reward, world.tau)) < 1e-12


def test_distillation_with_another_weight_extrapolates_its_guide():
    world = a_world("tree")
    recipe = build("distill", beta_kl=0.4)
    steps = tuple(replace(step, coef=0.6) if isinstance(step, Guide) else step for step in recipe.steps)
    guide = torch.stack([prompt.guide for prompt in world.prompts])
    prediction = predict(replace(recipe, steps=steps), world, guide=guide)
    assert prediction.target == "extrapolated"
    for x in range(2):
        ref, own = world.ref[x].numpy(), guide[x].numpy()
        expected = ref * (own / ref) ** 1.5
        assert plain.tv(prediction.law[x], expected / expected.sum()) < 1e-12


def test_what_is_known_within_components_is_answered_and_checked():
    world = tree_world(vocab=2, horizon=2, eos=None, pairs=[[0, 1, 1], [2, 3, 1]])
    one = ask("dpo", world)
    assert (one["target"], one["predicted"], one["tv"]) == (None, None, None)
    assert [part["leaves"] for part in one["identified"][0]] == [[0, 1], [2, 3]]
    for part in one["identified"][0]:
        ref, reward = world.ref[0].numpy()[part["leaves"]], world.reward[0].numpy()[part["leaves"]]
        assert plain.tv(part["law"], plain.gibbs(ref, reward, world.tau)) < 1e-12
    assert one["tv_identified"] < 1e-7
    assert "reached within each component" in verify.render([one])
    assert verify.missed([one]) == []
    wrong = {**one, "tv_identified": 0.2}
    assert "MISSED within each component" in verify.render([wrong])
    assert verify.missed([wrong]) == ["dpo"]


def test_a_loss_without_a_minimum_is_never_said_to_have_converged():
    one = ask("dpo", bandit(labels={"kind": "deterministic"}))
    assert (one["converged"], one["predicted"]) == (False, None)
    assert verify.render([one]).endswith("no finite minimum: some answers always win")
    scores = ask("reward_model", bandit(reward=[1e4, -1e4, 0.0, 3.0, 2.0]))  # labels of 1 to the last digit
    assert (scores["converged"], scores["predicted"], scores["max_error"]) == (False, None, None)


@pytest.mark.slow
def test_adam_leaves_a_reward_models_free_constants_anywhere():
    one = ask("reward_model", bandit(ref=[0.4, 0.3, 0.3], reward=[1, 0, 2], pairs=[[0, 1, 1]], optimizer="adam"))
    assert (one["predicted"], one["max_error"]) == (None, None)


@pytest.mark.parametrize("name", ["dpo", "rda", "pra", "ipo", "rebel", "rloo"])
@pytest.mark.parametrize("tau", [1e-3, 1e-6])
def test_rewards_as_close_as_tau_are_told_apart_however_small_it_is(name, tau):
    world = bandit(tau=tau, ref=[0.3, 0.3, 0.4], reward=[1, 1 - tau, 1 - 3 * tau])
    one = ask(name, world)
    assert one["converged"]
    assert one["tv"] < 1e-6
    if name != "ipo":
        assert plain.tv(one["reached"][0], plain.gibbs([0.3, 0.3, 0.4], [0, -1, -3], 1.0)) < 1e-6
