"""Where a dense reward stands: worked by hand, against a loop over tokens, and what the GAE makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import batch_of, stats_of
from tokenward.masking import keep, spans
from tokenward.objective.signal.rewards import Guide, Outcome
from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats

F = torch.float64
NAN = float("nan")
PLACES = ["token", "sentence", "end", "residual"]


def by_hand() -> tuple[Batch, TokenStats]:
    """Two rows of 2 and 1 prompt tokens; 4 and 2 response tokens, one of them an answer of a tool; padding of NaN."""

    def rows(first, second):
        return torch.tensor([[NAN, NAN, *first], [NAN, *second, NAN, NAN, NAN]], dtype=F)

    mask = torch.tensor([[False, False, True, True, False, True], [False, True, True, False, False, False]])
    batch = Batch(
        tokens=torch.zeros(2, 6, dtype=torch.long),
        length=torch.tensor([6, 3]),
        mask=mask,
        group=torch.tensor([0, 1]),
        weight=torch.ones(2, dtype=F),
        score=torch.tensor([2.0, -1.0], dtype=F),
        segment=torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]),
    )
    stats = TokenStats(
        old_logp=rows([-0.7, -1.0, NAN, -1.5], [-1.0, -0.4]),
        ref_logp=rows([-1.0, -1.0, NAN, -1.0], [-2.0, -0.5]),
        guide_logp=rows([-0.5, -2.0, NAN, -0.8], [-1.0, -0.6]),
        guide_ref_logp=rows([-1.0, -1.2, NAN, -1.0], [-1.3, -1.0]),
        old_value=torch.zeros(2, 6, dtype=F),
    )
    return batch, stats


def rewards(batch: Batch, stats: TokenStats, **settings) -> list[float]:
    found = build("rto", **{"beta_guide": 0.1, "beta_kl": 0.2, **settings}).signal(batch, stats).reward
    assert bool((found[~batch.mask] == 0).all())
    return found[batch.mask].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # .1·(guide − its reference): .05, −.08, .02; .03, .04. −.2·(old − ref): −.06, 0, .1; −.2, −.02. Scores 2, −1.
        ({}, [-0.01, -0.08, 2.12, -0.17, -0.98]),
        ({"placement": "sentence"}, [-0.06, -0.03, 2.12, -0.17, -0.98]),
        ({"placement": "end"}, [-0.06, 0.0, 2.09, -0.2, -0.95]),
        ({"placement": "residual"}, [-0.01, -0.08, 2.13, -0.17, -1.05]),
        # clipped to ±.04 first: .04, −.04, .02; .03, .04
        ({"guide_clip": 0.04}, [-0.02, -0.04, 2.12, -0.17, -0.98]),
        ({"guide_clip": 0.04, "placement": "sentence"}, [-0.06, 0.0, 2.12, -0.17, -0.98]),
        ({"guide_clip": 0.04, "placement": "end"}, [-0.06, 0.0, 2.12, -0.2, -0.95]),
        ({"guide_clip": 0.04, "placement": "residual"}, [-0.02, -0.04, 2.1, -0.17, -1.05]),
        ({"beta_guide": 0.0}, [-0.06, 0.0, 2.1, -0.2, -1.02]),
        ({"beta_score": 0.5}, [-0.01, -0.08, 1.12, -0.17, -0.48]),
        ({"beta_score": 0.0, "beta_kl": 0.0}, [0.05, -0.08, 0.02, 0.03, 0.04]),
    ],
)
def test_b5_the_reward_token_by_token(settings, expected):
    assert rewards(*by_hand(), **settings) == pytest.approx(expected)


def test_b5_the_guide_is_compared_with_its_own_reference():
    batch, stats = by_hand()
    found = rewards(batch, replace(stats, guide_ref_logp=stats.ref_logp))
    assert found == pytest.approx([-0.01, -0.1, 2.12, -0.1, -1.03])


def test_a_score_of_weight_zero_is_not_asked_for():
    batch, stats = by_hand()
    recipe = build("rto", beta_score=0.0, beta_guide=1.0, beta_kl=1.0)
    assert "score" not in recipe.needs and recipe.steps == build("distill").steps
    assert recipe.signal(replace(batch, score=None), stats).reward is not None


def test_the_weight_of_the_score_holds_for_token_rewards_too():
    batch, stats = by_hand()
    batch = replace(batch, reward=torch.full((2, 6), 0.3, dtype=F))
    plain, half = (keep(Outcome(c)(batch, stats, Signal()).reward, batch.mask) for c in (1.0, 0.5))
    torch.testing.assert_close(half, 0.5 * plain)


def plainly(reward: torch.Tensor, batch: Batch, where: str) -> torch.Tensor:
    """The placement of one row after another, token by token."""
    out = torch.zeros_like(reward)
    for b in range(batch.rows):
        own = batch.mask[b].nonzero().flatten().tolist()
        total = sum(float(reward[b, t]) for t in own)
        for i, t in enumerate(own):
            end = i + 1 == len(own)
            if where == "sentence":
                place = max(u for u in own if batch.segment[b, u] == batch.segment[b, t])
                out[b, place] += reward[b, t]
            elif where == "end":
                out[b, own[-1]] += reward[b, t]
            else:
                out[b, t] += reward[b, t] - (total if end and where == "residual" else 0.0)
    return out


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("seed", range(3))
def test_placements_are_those_of_a_loop_over_tokens(where, seed):
    batch = batch_of(seed=seed)
    stats = stats_of(batch)
    dense = 0.7 * (stats.guide_logp - stats.guide_ref_logp)
    recipe = build("rto", placement=where, beta_guide=0.7)
    guide = next(step for step in recipe.steps if isinstance(step, Guide))
    found = guide(batch, stats.masked(batch.mask), Signal()).reward
    torch.testing.assert_close(found, plainly(dense, batch, where))
    total = found.sum(-1)
    expected = torch.zeros_like(total) if where == "residual" else keep(dense, batch.mask).sum(-1)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_b2_gae_of_the_residual_is_that_of_ppo_with_a_shifted_critic(lam):
    """GAE(r_RS, V) = GAE(r_PPO, V + Φ), Φ_t = Σ_{i<t} of the clipped rewards, for any V, with holes and ragged rows."""
    batch = batch_of()
    stats = stats_of(batch)
    step = keep((0.4 * (stats.guide_logp - stats.guide_ref_logp)).clamp(-0.1, 0.1), batch.mask)
    before = step.cumsum(-1) - step
    ours = build("rto", placement="residual", beta_guide=0.4, guide_clip=0.1, lam=lam)
    ppo = build("ppo", lam=lam)
    left = replace(ours, steps=ours.steps[:-1]).signal(batch, stats).advantage
    shifted = replace(stats, old_value=stats.old_value + before)
    right = replace(ppo, steps=ppo.steps[:-1]).signal(batch, shifted).advantage
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
    other = replace(ppo, steps=ppo.steps[:-1]).signal(batch, stats).advantage
    assert float((other - left).abs().max()) > 1e-3


def test_b2_a_blind_critic_sees_the_placement_with_lambda_or_gamma_below_one():
    """V = 0: with λ = γ = 1 a later place changes later advantages alone; the first token's return is the same."""
    batch = batch_of()
    stats = replace(stats_of(batch), old_value=torch.zeros_like(batch.reward))

    def advantage(where, lam, gamma=1.0):
        recipe = build("rto", placement=where, beta_guide=0.7, lam=lam, gamma=gamma)
        return replace(recipe, steps=recipe.steps[:-1]).signal(batch, stats).advantage

    start = batch.mask.to(torch.int8).argmax(-1)[:, None]
    for where in ("sentence", "end"):
        first = [advantage(w, 1.0).gather(1, start) for w in ("token", where)]
        torch.testing.assert_close(first[0], first[1], rtol=1e-12, atol=1e-12)
        apart = [advantage(w, 0.95).gather(1, start) for w in ("token", where)]
        assert float((apart[0] - apart[1]).abs().max()) > 1e-3
        discounted = [advantage(w, 1.0, gamma=0.9).gather(1, start) for w in ("token", where)]
        assert float((discounted[0] - discounted[1]).abs().max()) > 1e-3


def test_spans_break_behind_ends_and_at_foreign_tokens():
    """A prompt's full stop ends nothing; two ends in a row make a span of one token; an end before a tool's answer."""
    mask = torch.tensor([[False, False, True, True, True, True, False, False, True, True, False]])
    ends = torch.tensor([[False, True, False, True, True, False, True, False, False, True, True]])
    assert spans(mask, ends).tolist() == [[0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 3]]
    assert spans(mask, torch.zeros_like(ends)).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]]
    assert spans(mask[:, :1], ends[:, :1]).tolist() == [[0]]
