"""Placements and robust weights on enumerated trees: sentences of a world, closed forms, and what is at rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at
from tests.lab.plain import tree_world, tv
from tokenward.errors import InputError
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import batch_of
from tokenward.lab.solving.reading import unscaled
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world_file import parse_world
from tokenward.recipes import build

TAU, GUIDE, SCORE = 0.5, 0.3, 2.0  # β_kl, β_guide, β_score
SETS = [
    {"rho": 0.3},
    {"rho": 50.0},
    {"rho": 0.3, "atoms": "span"},
    {"rho": 0.4, "divergence": "chi2"},
    {"rho": 0.4, "divergence": "chi2_bound"},
    {"robust_eta": 5.0, "nominal": "uniform"},
]


@pytest.fixture
def world():
    base = tree_world(vocab=3, horizon=3, eos=2, prompts=2, tau=TAU, seed=4)
    rng = np.random.default_rng(5)
    return replace(base, prompts=tuple(replace(p, guide=torch.tensor(plain.random_law(rng, 15))) for p in base.prompts))


def guides(world):
    return torch.stack([p.guide for p in world.prompts])


def law_of(world, score=1.0):
    """π_ref·(π_guide/π_ref)^(β_guide/τ)·exp(β_score r/τ)/Z in numpy."""
    laws = []
    for p in world.prompts:
        ref, guide, reward = (x.numpy() for x in (p.ref, p.guide, p.reward))
        laws.append(plain.gibbs(ref, GUIDE * np.log(guide / ref) + score * reward, TAU))
    return np.stack(laws)


def recipe(name="drto", **settings):
    return build(name, beta_guide=GUIDE, beta_kl=TAU, **settings)


def test_sentences_of_a_world_end_at_its_delimiters(world):
    batch = batch_of(recipe("rto", placement="sentence"), world, world.ref)
    for tokens, length, span in zip(batch.tokens.tolist(), batch.length.tolist(), batch.segment.tolist(), strict=True):
        number = 0
        for t in range(length):
            assert span[t] == number
            number += tokens[t] == 0
    none = batch_of(recipe("rto", placement="sentence"), replace(world, delimiters=()), world.ref)
    assert int(none.segment.max()) == 0
    assert batch_of(recipe("rto"), world, world.ref).segment is None


def test_delimiters_are_read_from_a_world_file():
    given = {"tau": 1, "vocab": 2, "horizon": 1, "prompts": [{"ref": [0.5, 0.5], "reward": [0, 1]}]}
    assert parse_world(given).delimiters == (0,)
    assert parse_world({**given, "delimiters": [1, 0]}).delimiters == (1, 0)
    with pytest.raises(InputError, match=r"delimiters\[0\] must be 1 or less, got 2"):
        parse_world({**given, "delimiters": [2]})
    with pytest.raises(InputError, match="delimiters must be a list of tokens, got 1"):
        parse_world({**given, "delimiters": 1})


@pytest.mark.parametrize("where", ["token", "sentence", "end", "residual"])
def test_the_weight_of_the_score_stands_in_the_optimum(world, where):
    ours = recipe("rto", beta_score=SCORE, placement=where)
    found = solve(ours, world, guide=guides(world)).law.numpy()
    expected = law_of(world, SCORE)
    if where == "residual":
        expected = np.stack([plain.gibbs(p.ref.numpy(), SCORE * p.reward.numpy(), TAU) for p in world.prompts])
    assert np.abs(found - expected).max() < 1e-8
    assert np.abs(predict(ours, world, guide=guides(world)).law.numpy() - expected).max() < 1e-12
    assert max(tv(a, b) for a, b in zip(found, law_of(world), strict=True)) > 0.02


def test_radius_zero_rests_where_rto_does(world):
    prediction = predict(recipe(rho=0.0), world, guide=guides(world))
    assert prediction.target == "extrapolated"
    assert np.abs(prediction.law.numpy() - law_of(world)).max() < 1e-12
    assert np.abs(solve(recipe(rho=0.0), world, guide=guides(world)).law.numpy() - law_of(world)).max() < 1e-8
    for uneven in ({"nominal": "uniform"}, {"nominal": "uniform", "atoms": "span"}):
        assert predict(recipe(rho=0.0, **uneven), world, guide=guides(world)).law is None


@pytest.mark.parametrize("settings", SETS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("lam", [0.0, 0.95])
def test_rtos_optimum_is_at_rest_whatever_the_weights(world, settings, lam):
    """Every advantage is 0 there with an exact critic; at another policy, or with a blind critic, it is not at rest."""
    robust = unscaled(recipe(lam=lam, **settings), world)
    law, guide = law_of(world), guides(world).numpy()

    def slope(law, where):
        problem = at("drto", where, law, guide=guide)
        problem.recipe = robust
        return max(float(g.abs().max()) for g in problem.gradient())

    assert slope(law, world) < 1e-12
    assert slope(np.full_like(law, 1 / 15), world) > 1e-3
    blind = replace(world, prompts=tuple(replace(p, critic="zero") for p in world.prompts))
    assert slope(law, blind) > 1e-4


def test_what_is_known_of_a_robust_recipe_is_said_and_no_law_is_claimed(world):
    note = "at rest whatever the weights"
    for settings in SETS:
        found = predict(recipe(**settings), world, guide=guides(world))
        assert found.law is None
        assert (found.note is not None and note in found.note) == (settings.get("divergence") != "chi2_bound")
    blind = replace(world, prompts=tuple(replace(p, critic="zero") for p in world.prompts))
    assert predict(recipe(rho=0.3, lam=1.0), blind, guide=guides(blind)).note is None
    assert predict(build("drto", beta_kl=0.0, beta_guide=GUIDE), world, guide=guides(world)).note is None


@pytest.mark.slow
def test_small_steps_lead_there(world):
    """θ ← θ − s·F⁻¹g with small s, KL set, from π_ref; the residual of the lab's own solver says the same."""
    problem = at("drto", world, world.ref.numpy(), guide=guides(world).numpy())
    problem.recipe = unscaled(recipe(rho=0.1), world)
    start = max(tv(a, b) for a, b in zip(world.ref.numpy(), law_of(world), strict=True))
    for _ in range(120):
        move = problem.natural_gradient()
        problem.move_to(problem.vector() - 0.5 * torch.cat([m.flatten() for m in move]))
    reached = problem.policy().law().detach().numpy()
    assert max(tv(a, b) for a, b in zip(reached, law_of(world), strict=True)) < 0.02 * start
