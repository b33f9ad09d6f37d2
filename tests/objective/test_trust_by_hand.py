"""TRPO and mirror descent on rows small enough to work out."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objective.test_recipes_by_hand import close, column, rows
from tokenward.errors import InputError
from tokenward.objective.updates import ConstrainedStep, Gradient
from tokenward.recipes import build
from tokenward.types import TokenStats

F = torch.float64


def test_mirror_descent_with_an_exact_kl_adds_the_kl_of_each_state():
    """Scores 1 and 0, leave-one-out A = 1 and −1; ϱ = 2 and ½: the mean of −2 and ½, and (1/.5)·(.3 + .1)/2."""
    batch = rows(2, score=torch.tensor([1.0, 0.0], dtype=F))
    old = column(-1, -2)
    logp = old + torch.tensor([[0.0, math.log(2)], [0.0, -math.log(2)]], dtype=F)
    stats = TokenStats(logp=logp, old_logp=old, kl_old=column(0.3, 0.1))
    recipe = build("mirror_descent", ratio="token", kl_old="exact", eta=0.5, beta_kl=0.0)
    close(recipe.value(batch, stats), (-2 + 0.5) / 2 + 2 * 0.2)
    sampled = build("mirror_descent", ratio="token", eta=0.5, beta_kl=0.0)
    close(sampled.value(batch, stats), (-2 + 0.5) / 2 + 2 * (2 * math.log(2) - 0.5 * math.log(2)) / 2)


def test_trpo_is_the_ratio_alone_and_a_critic():
    """Scores 3 and 1, V_old = 1: A = 2 and 0, whitened ±1; ϱ = 3 and 1, no clip. R = 3 and 1 against V = 2 and 1.5."""
    batch = rows(2, score=torch.tensor([3.0, 1.0], dtype=F))
    old = column(-2, -1)
    logp = old + torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=F)
    stats = TokenStats(logp=logp, old_logp=old, value=column(2, 1.5), old_value=column(1, 1))
    recipe = build("trpo", beta_kl=0.0)
    close(recipe.value(batch, stats), (-3 + 1) / 2 + 0.5 * (1 + 0.25) / 2)
    clipped = build("trpo", beta_kl=0.0, value_clip=0.2)  # max of the plain and the clipped square
    close(clipped.value(batch, stats), (-3 + 1) / 2 + 0.5 * (1.8**2 + 0.25) / 2)


def test_trpo_takes_its_step_from_its_keywords():
    recipe = build("trpo", max_kl=0.02, cg_steps=7, damping=0.2, backtracks=3, shrink=0.8, critic_updates=2)
    assert recipe.update == ConstrainedStep(0.02, 7, 0.2, 3, 0.8, 2)
    assert build("trpo").update == ConstrainedStep(0.01, 10, 0.1, 10, 0.5, 10)
    assert build("ppo").update == Gradient()
    plus = build("trpo", reward_scale="std", reward_clip=10.0)
    assert [type(step).__name__ for step in plus.steps[1:3]] == ["RunningScale", "ClipReward"]


@pytest.mark.parametrize("setting", [{"max_kl": 0.0}, {"damping": -0.1}, {"shrink": 1.0}, {"backtracks": 0}])
def test_a_step_that_cannot_be_is_refused(setting):
    (name,) = setting
    with pytest.raises(InputError, match=f"{name} must"):
        build("trpo", **setting)
