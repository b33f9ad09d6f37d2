"""Closed forms for given data beyond the theory's fixture, and every recipe on worlds with every kind of data."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, random_law, sigmoid, tree_world, tv
from tokenward.lab import verify
from tokenward.lab.optima import exact
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.optimizers import descend, steepest
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.empirical import drawn
from tokenward.objective.divergences import DivergenceRatio
from tokenward.objective.groups import BoltzmannWeight, MeanReward, MonteCarloNormalizer
from tokenward.objective.links import Logistic, ScoreFunction, Square, SquareMargin, SquashedSquare
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.targets import Score, ScoreGap, Won
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm
from tokenward.recipes import RECIPES, build

CYCLE = {"kind": "matrix", "p": [[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]]}


def pairs_recipe(score, link, target) -> Recipe:
    return Recipe("mine", (), (Stream("pairs"),), (PairTerm("mine", score=score, link=link, target=target),))


def rows_recipe(**parts) -> Recipe:
    return Recipe("mine", (), (Stream("scores"),), (RowTerm("mine", **parts),))


def both(recipe, world):
    """The name of the prediction, its law and the law that is reached, of the first prompt."""
    prediction, solution = predict(recipe, world), solve(recipe, world)
    return prediction.target, prediction.law[0].numpy(), solution.law[0].numpy()


# ---------------------------------------------------------------------------------- averaged log-ratios, f-divergences


@pytest.mark.parametrize("anchor", ["ref_logp", None])
@pytest.mark.parametrize("kind", ["logistic", "ipo", "square"])
def test_averaged_log_ratios_put_the_length_into_the_exponent(anchor, kind):
    """π = π_ref·exp(|y|(u + c)/β), checked by its differences alone: β log(π/π_ref)/|y| − u is constant."""
    world = tree_world(vocab=3, horizon=3, eos=2, tau=0.7)
    words = plain.sequences(3, 3, 2)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    length = np.array([len(word) for word in words])
    link, target = {
        "logistic": (Logistic(), Won()),
        "ipo": (SquareMargin(margin=0.8), Won()),
        "square": (Square(), ScoreGap()),
    }[kind]
    name, law, reached = both(pairs_recipe(LogRatio(anchor, beta=0.5, pool="mean"), link, target), world)
    assert name == "length_power"
    wanted = reward
    if kind == "ipo":  # uniform pairs: the least-squares score is the mean wanted margin against all
        wanted = 2 * (sigmoid(reward[:, None] - reward) - 0.5).mean(1) * 0.8
    score = 0.5 * (np.log(law) - (np.log(ref) if anchor else 0)) / length - wanted
    assert np.ptp(score) < 1e-9
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert tv(reached, law) < 1e-7


@pytest.mark.parametrize(("divergence", "slope"), [
    ("reverse_kl", lambda u: np.log(u)),
    ("forward_kl", lambda u: -1 / u),
    ("js", lambda u: np.log(u / (1 + u))),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(5, 1, None), (2, 2, 1)])
def test_f_dpo_reaches_the_policy_whose_slopes_are_the_reward(divergence, slope, shape):
    """f′(π/π_ref) = (r − λ)/β: the slopes differ as rewards do, and the law sums to one."""
    vocab, horizon, eos = shape
    world = tree_world(vocab=vocab, horizon=horizon, eos=eos)
    name, law, reached = both(pairs_recipe(DivergenceRatio(divergence, beta=0.6), Logistic(), Won()), world)
    assert name == ("boltzmann" if divergence == "reverse_kl" else "f_divergence")
    assert np.ptp(0.6 * slope(law / world.ref[0].numpy()) - world.reward[0].numpy()) < 1e-9
    assert law.sum() == pytest.approx(1, abs=1e-12)
    assert tv(reached, law) < 1e-7


def test_without_a_reference_the_score_alone_remains():
    world = tree_world(vocab=2, horizon=2, eos=1)
    name, law, reached = both(pairs_recipe(LogRatio(beta=0.5), Logistic(), Won()), world)
    assert name == "unanchored"
    assert tv(law, plain.softmax(world.reward[0].numpy() / 0.5)) < 1e-12
    assert tv(reached, law) < 1e-7


# --------------------------------------------------------------------------------------------- regressions on scores


def residual_of_regression(law, mu, shift):
    """∂/∂θ of E_μ(τ log π/π_ref + c − r)² by the logits."""
    error = TAU * np.log(law / REF) + shift - REWARD
    return 2 * TAU * (mu * error - law * (mu @ error))


@pytest.mark.parametrize("mu", [[0.2, 0.2, 0.2, 0.2, 0.2], [0.05, 0.4, 0.3, 0.05, 0.2]])
def test_a_wrong_constant_for_the_normalizer_is_a_lambert_law(mu):
    """A constant below the soft value: λ > 0."""
    mu = np.array(mu)
    world, recipe, shift = bandit(sampler=mu.tolist()), build("ra", beta=TAU, normalizer="mean_reward"), mu @ REWARD
    name, law, reached = both(recipe, world)
    assert name == "lambert"
    assert np.abs(residual_of_regression(law, mu, shift)).max() < 1e-9
    assert tv(reached, law) < 1e-7


def test_a_constant_above_the_soft_value_has_no_prediction():
    """Σ π_ref e^{(r−c)/τ} < 1: W has two branches there, and the minimum need not lie on the smaller one."""
    for world in (bandit(sampler=[0.2, 0.05, 0.1, 0.6, 0.05]), bandit(sampler="target")):
        assert predict(build("ra", beta=TAU, normalizer="mean_reward"), world).target is None
    shift = 1.05 * TAU * np.log(REF @ np.exp(REWARD / TAU))
    recipe = rows_recipe(score=LogRatio("ref_logp", beta=TAU), link=Square(), target=Score())
    assert predict(recipe, bandit(reward=REWARD - shift)).target is None


def test_a_monte_carlo_normalizer_is_exact_for_infinite_groups_only():
    mu = [0.1, 0.2, 0.3, 0.2, 0.2]
    recipe = build("ra", beta=TAU, normalizer="monte_carlo")
    assert predict(build("ra", beta=TAU, normalizer="monte_carlo", sampler="reference"), bandit()).shares
    assert predict(recipe, bandit(sampler=mu)).shares
    assert predict(recipe, bandit(sampler=mu, group=3)).target is None
    assert tv(solve(recipe, bandit(sampler=mu)).law[0], gibbs(REF, REWARD, TAU)) < 1e-7
    assert tv(solve(recipe, bandit(sampler=mu, group=3)).law[0], gibbs(REF, REWARD, TAU)) > 1e-3


@pytest.mark.parametrize("sampler", ["reference", "uniform", "target", [0.1, 0.2, 0.3, 0.2, 0.2]])
def test_weighted_likelihood_is_forward_boltzmann_whoever_answers(sampler):
    named = {"sampler": sampler} if isinstance(sampler, str) else {}
    world = bandit(**({} if named else {"sampler": sampler}))
    name, law, reached = both(build("bda", beta=TAU, direction="forward", **{"sampler": "data", **named}), world)
    assert name == "boltzmann"
    assert tv(law, gibbs(REF, REWARD, TAU)) < 1e-12
    assert tv(reached, law) < 1e-7


def test_weights_for_another_law_than_the_sampler_reach_what_they_weigh():
    mu = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    recipe = rows_recipe(score=LogRatio(), link=ScoreFunction(), target=BoltzmannWeight(TAU, drawn="ref_logp"))
    name, law, reached = both(recipe, bandit(sampler=mu.tolist()))
    expected = mu * np.exp(REWARD / TAU)
    assert name == "weighted"
    assert tv(law, expected / expected.sum()) < 1e-12
    assert tv(reached, law) < 1e-7


def test_offsets_of_squashed_scores_are_not_those_of_rewards():
    for offset in (MeanReward(), MonteCarloNormalizer(TAU)):
        parts = {"score": LogRatio("ref_logp", beta=TAU), "target": Score(), "offset": offset}
        assert predict(rows_recipe(link=SquashedSquare(), **parts), bandit()).target is None
        assert predict(rows_recipe(link=Square(), **parts), bandit()).target is not None


def test_demonstrations_may_have_any_law():
    demos = np.array([0.5, 0.2, 0.3, 0.0, 0.0])
    name, law, reached = both(build("sft"), bandit(demos=demos.tolist()))
    assert (name, law.tolist()) == ("demonstrations", demos.tolist())
    assert tv(reached, demos) < 1e-6


def test_greedy_is_the_limit_of_the_target():
    ref, reward = torch.tensor(REF)[None], torch.tensor([[1.0, 2.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
    law = exact.greedy(ref, reward)
    assert law.tolist() == [pytest.approx([0, 0.25 / 0.45, 0.2 / 0.45, 0, 0])]
    assert exact.total_variation(law, exact.boltzmann(ref, reward, tau=1e-3)) < 1e-12


# ------------------------------------------------------------------------------------------------------- finite data


def test_samples_are_frequencies_of_what_was_drawn():
    world = bandit(samples=200, seed=5, sampler=[0.4, 0.3, 0.3, 0, 0], demos=[0.5, 0.5, 0, 0, 0])
    one, again = drawn(world).prompts[0], drawn(world).prompts[0]
    other = drawn(bandit(samples=200, seed=6)).prompts[0]
    assert torch.equal(one.sampler, again.sampler)
    assert one.pairs.weight.tolist() != other.pairs.weight.tolist()
    for law in (one.sampler, one.demos):
        assert law.sum().item() == pytest.approx(1)
        assert (200 * law - (200 * law).round()).abs().max() < 1e-9
        assert law[3:].tolist() == [0, 0]
    assert (200 * one.pairs.weight - (200 * one.pairs.weight).round()).abs().max() < 1e-9
    counts = 200 * one.sampler
    hits = counts * one.binary
    assert (hits[counts > 0] - hits[counts > 0].round()).abs().max() < 1e-9  # each label is 0 or 1
    assert one.samples is None  # a drawn world is not drawn again


def test_prompts_and_kinds_of_data_are_drawn_apart():
    world = drawn(tree_world(vocab=4, horizon=1, eos=None, prompts=2, samples=1000, seed=1, sampler="uniform"))
    first, second = world.prompts
    assert not torch.equal(first.sampler, second.sampler)
    assert not torch.equal(first.sampler, first.demos)


def test_many_samples_come_near_the_population():
    near = [
        tv(solve(build("dpo", beta=TAU), bandit(samples=n, seed=0)).law[0], gibbs(REF, REWARD, TAU))
        for n in (10**3, 10**6)
    ]
    assert near[1] < 0.01
    assert near[1] < near[0]


def test_few_samples_have_no_most_likely_policy_and_say_so():
    """Ford: someone always won or always lost. From scores RDA knows the target as soon as all are linked."""
    dpo = ask("dpo", bandit(samples=12, seed=0))
    assert not dpo["converged"]
    assert dpo["predicted"] is None
    assert dpo["note"] == "no finite minimum: some answers always win"
    assert all(math.isfinite(p) for p in dpo["reached"][0])
    assert ask("rda", bandit(samples=60, seed=0))["target"] == "boltzmann"


def ask(name, world, **overrides):
    return verify.answer(name, verify.with_guides(world), overrides=overrides)


# -------------------------------------------------------------------------------------------- every recipe, everywhere


def factorized():
    rng = np.random.default_rng(3)
    chosen, rejected = random_law(rng, 3), random_law(rng, 3)
    return [[i, j, float(chosen[i] * rejected[j])] for i, j in itertools.product(range(3), repeat=2)]


def three(**fields):
    return bandit(**{"ref": [0.5, 0.3, 0.2], "reward": [0.4, 1.3, -0.6], **fields})


def tree(**fields):
    return tree_world(vocab=2, horizon=2, eos=1, prompts=2, **fields)


WORLDS = {
    "ragged": lambda: tree(),
    "deterministic": lambda: three(labels={"kind": "deterministic"}),
    "independent": lambda: three(labels={"kind": "oriented", "joint": factorized()}),
    "cycle": lambda: three(labels=CYCLE),
    "noise": lambda: tree(labels={"kind": "bradley-terry", "noise": 0.1, "temperature": 2}),
    "split": lambda: tree(pairs=[[0, 1, 1]]),
    "binary": lambda: three(binary=[0.2, 1.0, 0.4]),
    "demos": lambda: three(demos=[0.0, 0.4, 0.6]),
    "group": lambda: three(group=3),
    "samples": lambda: tree(samples=25, seed=2),
    "features": lambda: tree(features=[[1.0], [0.3], [-0.8]]),
    "policy": lambda: three(sampler="policy", pairs="sampler"),
    "unseen": lambda: three(sampler=[0.6, 0.4, 0.0], pairs="sampler"),
    "small tau": lambda: three(tau=1e-3),
    "tiny tau": lambda: tree(tau=1e-6),
    "rare": lambda: three(ref=[0.5, 0.5 - 1e-12, 1e-12]),
    "flat": lambda: three(reward=[1.0, 1.0, 1.0]),
    "far": lambda: three(reward=[1e4, -1e4, 0.0]),
}
LOOSE = {("rare", "grpo")}  # k3 grows as e^{-z}: at π_ref = 1e-12 slopes of 1e-8 leave 1e-5 of the law


QUICK = ("samples",)


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in WORLDS])
def test_every_recipe_answers_in_finite_numbers_and_reaches_what_is_predicted(kind):
    world = verify.with_guides(WORLDS[kind]())
    for name in RECIPES:
        one = verify.answer(name, world, overrides={})
        text = json.dumps(one, allow_nan=False)
        assert "NaN" not in text
        assert [sum(row) for row in one["reached"]] == pytest.approx(
            [1.0 if name != "reward_model" else 0.0] * len(one["reached"]), abs=1e-6
        )
        within = 1e-4 if (kind, name) in LOOSE else 1e-6
        assert one["tv"] is None or one["tv"] <= within, (name, one["target"], one["tv"])
        assert one.get("max_error") is None or one["max_error"] <= 1e-6, name
        assert one.get("tv_identified") is None or one["tv_identified"] <= 1e-6, name
        assert "\n" not in verify.render([one]).splitlines()[2]


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [("adam", "dpo"), *(("gradient", name) for name in ("dpo", "ra", "sft", "rloo", "reward_model"))],
)
def test_named_optimizers_reach_a_unique_optimum_too(optimizer, name):
    one = ask(name, three(optimizer=optimizer))
    assert one["predicted"] is not None
    assert (one["tv"] if one["tv"] is not None else one["max_error"]) < 1e-6


def test_plain_gradient_descent_takes_the_step_that_the_curvature_allows():
    """θ ← θ − g/λ with λ the largest eigenvalue of the Hessian at the start, here in numpy: RDA's is constant."""
    problem = at("rda", three(), [0.5, 0.3, 0.2], beta=TAU)
    problem.freeze_batch()
    largest = 2 * TAU**2 * np.linalg.eigvalsh(plain.laplacian(np.full((3, 3), 2 / 9)))[-1]
    assert steepest(problem) == pytest.approx(largest, rel=1e-6)
    before, slope = problem.vector(), problem.gradient()[0].flatten()
    _, steps = descend(problem, limit=1)
    assert steps == 1
    assert np.abs((problem.vector() - before + slope / largest).numpy()).max() < 1e-9
