"""Whole recipes on rows small enough to work out: where their parts meet, not the parts themselves."""

from __future__ import annotations

import math

import pytest
import torch

from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats

F = torch.float64


def column(*values: float) -> torch.Tensor:
    """Rows of one prompt token and one response token."""
    return torch.tensor([[0.0, value] for value in values], dtype=F)


def rows(count: int, **fields: torch.Tensor) -> Batch:
    return Batch(
        tokens=torch.zeros(count, 2, dtype=torch.long),
        length=torch.full((count,), 2),
        mask=torch.tensor([[False, True]] * count),
        group=torch.zeros(count, dtype=torch.long),
        weight=torch.ones(count, dtype=F),
        **fields,
    )


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(value: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(value, torch.tensor(expected, dtype=F))


def test_cdpo_gives_the_smoothed_mass_to_the_other_answer():
    """Δ = 2 − (−1), z = .5·3; p = .75 becomes .8·.75 + .2·.25 = .65: −.65 log σ(1.5) − .35 log σ(−1.5)."""
    batch = rows(2, pairs=torch.tensor([[0, 1]]), pair_target=torch.tensor([0.75], dtype=F))
    stats = TokenStats(logp=column(-1, -3), ref_logp=column(-3, -2))
    value = build("cdpo", beta=0.5, smoothing=0.2).value(batch, stats)
    close(value, -0.65 * math.log(sigma(1.5)) - 0.35 * math.log(sigma(-1.5)))


def test_kto_compares_with_its_point_in_reward_units():
    """lr = 2 (desirable) and −1 (undesirable), z₀ = .5, β = .4: the mean of 1.5(1 − σ(.6)) and .5(1 − σ(.6))."""
    batch = rows(2, label=torch.tensor([1.0, 0.0], dtype=F))
    stats = TokenStats(logp=column(-1, -3), old_logp=column(-1, -3), ref_logp=column(-3, -2))
    start = Signal(point=torch.tensor([0.5, 0.5], dtype=F))
    value = build("kto", beta=0.4, desirable=1.5, undesirable=0.5).value(batch, stats, start)
    close(value, (1.5 + 0.5) * (1 - sigma(0.6)) / 2)


def test_grpo_divides_by_the_population_standard_deviation():
    """Scores 0, 0, 3: mean 1, variance (1 + 1 + 4)/3 = 2."""
    batch = rows(3, score=torch.tensor([0.0, 0.0, 3.0], dtype=F))
    advantage = build("grpo", beta_kl=0.0).signal(batch, TokenStats()).advantage
    torch.testing.assert_close(advantage[:, 1], torch.tensor([-1.0, -1.0, 2.0], dtype=F) / (math.sqrt(2) + 1e-4))


def test_ppo_moves_the_critic_from_where_it_stood():
    """One token: R = 3, V_old = 1, V = .9. A single advantage is whitened to 0; value: .1·½·(−.1 − 2)²."""
    batch = rows(1, score=torch.tensor([3.0], dtype=F))
    stats = TokenStats(logp=column(-1), old_logp=column(-1), value=column(0.9), old_value=column(1))
    close(build("ppo", beta_kl=0.0, value_clip=0.2, value_coef=0.1).value(batch, stats), 0.1 * 0.5 * 2.1**2)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        # R = (1 − .3·.5, 0 + .3·.5), A = ±.7: the mean of .7·.5 and −.7·1.5
        ("reward", (0.35 - 1.05) / 2),
        # A = ±1: the mean of .5 and −1.5 is −.5, to which comes .3 times the mean of …
        ("loss_k2", -0.5 + 0.3 * 0.125),
        ("loss_k3", -0.5 + 0.3 * (math.exp(-0.5) + math.exp(0.5) - 2) / 2),
        ("exact", -0.5 + 0.3 * (0.2 + 0.4) / 2),
    ],
)
def test_the_kl_stands_in_one_place(kl, expected):
    """RLOO, β_kl = .3, two samples of one prompt, scores 1 and 0, log π = (−.5, −1.5), log π_ref = −1."""
    batch = rows(2, score=torch.tensor([1.0, 0.0], dtype=F))
    logp = column(-0.5, -1.5)
    stats = TokenStats(logp=logp, old_logp=logp, ref_logp=column(-1, -1), kl_ref=column(0.2, 0.4))
    close(build("rloo", kl=kl, beta_kl=0.3).value(batch, stats), expected)
