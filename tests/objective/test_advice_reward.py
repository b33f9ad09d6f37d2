"""Advice on rewards that are scaled, clipped or charged with an adaptive coefficient.

What it claims of optima is checked in tests/lab/test_remembered.py.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from tests.lab.plain import bandit
from tokenward.lab.optima import exact
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.solve import solve
from tokenward.objective.advice import Facts, advise
from tokenward.objective.advice import reward as advice_reward
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.remembered import AdvantageClip, RunningScale
from tokenward.recipes import build

NOTHING, TWO, ONE = Facts(), Facts(updates_per_batch=2), Facts(updates_per_batch=1)


def scaled_after_the_pull() -> Recipe:
    ppo = build("ppo")
    return replace(ppo, steps=(*ppo.steps[:2], RunningScale(), *ppo.steps[2:]))


CASES = [
    ("RunningScale before the KL", "note", ("ppo", {"reward_scale": "std"}, NOTHING), scaled_after_the_pull()),
    ("RunningScale before the KL", "note", ("ppo", {"reward_scale": "std", "kl": "exact"}, NOTHING), build("ppo")),
    ("RunningScale before the KL", "note", ("ppo", {"reward_scale": "std", "kl_target": 1.0}, NOTHING), build("ppo")),
    ("ClipReward", "note", ("ppo", {"reward_clip": 2.0}, NOTHING), build("ppo_max", reward_clip=None)),
    ("AdvantageClip", "note", ("ppo_max", {"advantage_clip": 1.0}, NOTHING), build("ppo_max")),
    ("AdvantageClip with ClipReward", "warning", ("ppo_max", {"advantage_clip": 1.0}, NOTHING),
     build("ppo_max", advantage_clip=1.0, reward_clip=None)),
    ("AdaptiveKL", "note", ("ppo", {"kl_target": 3.0}, NOTHING), build("ppo")),
    ("policy: Ratio", "note", ("ppo", {"clip": None}, TWO), build("ppo")),
]  # fmt: skip


@pytest.mark.parametrize(("part", "level", "earns", "clean"), CASES)
def test_each_statement_has_its_cause(part: str, level: str, earns: tuple, clean: Recipe) -> None:
    name, keywords, facts = earns
    said = {one.part: one for one in advise(build(name, **keywords), facts=facts)}
    assert said[part].level == level
    assert part not in {one.part for one in advise(clean, facts=facts)}


def test_every_statement_is_made_somewhere_above() -> None:
    for check in advice_reward.CHECKS:
        parts = {one.part for _, _, (name, kw, facts), _ in CASES for one in check(build(name, **kw), facts)}
        assert len(parts) == inspect.getsource(check).count("yield Advice(")


def test_a_ratio_that_something_holds_needs_no_warning() -> None:
    for name, keywords, facts in (("ppo", {"clip": None}, ONE), ("trpo", {}, TWO)):
        assert "policy: Ratio" not in {one.part for one in advise(build(name, **keywords), facts=facts)}


def test_units_stand_in_the_text() -> None:
    def text(name: str, **keywords: float | str | None) -> str:
        return " ".join(one.text for one in advise(build(name, **keywords), facts=Facts(updates_per_batch=8)))

    assert "beyond ±0.8 std become alike" in text("ppo_max")
    assert "beyond ±2 become alike" in text("ppo", reward_clip=2.0)
    assert "KL of a response is 3 nats" in text("ppo", kl_target=3.0)
    assert "over 8 updates on a batch" in text("ppo", clip=None)


def test_clipped_advantages_rest_elsewhere_without_an_exact_critic() -> None:
    """With a critic of 0 advantages are β log Z of the prompt, and 0 less their mean; clipped before that, another."""
    world = bandit(tau=0.7, critic="zero")
    recipe = build("ppo", beta_kl=0.7)
    assert exact.total_variation(predict(recipe, world).law, solve(recipe, world).law) < 1e-7
    steps = (*recipe.steps[:3], AdvantageClip(0.4), *recipe.steps[3:])
    moved = solve(replace(recipe, steps=steps), world)
    assert exact.total_variation(predict(recipe, world).law, moved.law) > 0.05
