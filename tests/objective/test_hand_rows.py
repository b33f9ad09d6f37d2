"""Each link and each signal step on a row worked by hand; the arithmetic stands beside the number."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tokenward.errors import InputError
from tokenward.objective import divergences, links, weights
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal import advantages, rewards
from tokenward.objective.signal.rewards import SignalStep
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import LogRatio, TokenTerm
from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats, check_shapes, take

F = torch.float64


def tensor(*values: object) -> torch.Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=F)


def batch(mask: list[list[int]], **fields: torch.Tensor) -> Batch:
    """Rows whose trainable positions are given; length is the last of them plus one unless given."""
    grid = torch.tensor(mask, dtype=torch.bool)
    rows, width = grid.shape
    base: dict[str, torch.Tensor] = {
        "tokens": torch.zeros(rows, width, dtype=torch.long),
        "length": torch.full((rows,), width),
        "mask": grid,
        "group": torch.arange(rows),
        "weight": torch.ones(rows, dtype=F),
    }
    return Batch(**{**base, **fields})


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


LINK_ROWS = [
    # −.8 log σ(1 − .5) − .2 log σ(−1 − .5)
    (links.Logistic(margin=0.5), 1.0, 0.8, -0.8 * math.log(sigma(0.5)) - 0.2 * math.log(sigma(-1.5))),
    # cross-entropy less H(.8): .8 log(.8/σ(1)) + .2 log(.2/σ(−1))
    (links.BernoulliKL(), 1.0, 0.8, 0.8 * math.log(0.8 / sigma(1)) + 0.2 * math.log(0.2 / sigma(-1))),
    # .75 (1 − 2)² + .25 (1 + 2)² = .75 + 2.25
    (links.SquareMargin(margin=2.0), 1.0, 0.75, 3.0),
    # .75 max(0, 1 − .4) + .25 max(0, 1 + .4) = .45 + .35
    (links.Hinge(margin=1.0), 0.4, 0.75, 0.8),
    # undesirable: 3 σ(z)
    (links.Prospect(desirable=2.0, undesirable=3.0), 0.7, 0.0, 3 * sigma(0.7)),
    # desirable: 2 (1 − σ(z))
    (links.Prospect(desirable=2.0, undesirable=3.0), 0.7, 1.0, 2 * (1 - sigma(0.7))),
    (links.Square(), 1.5, -0.5, 4.0),
    (links.SquashedSquare(), 0.3, 0.9, (sigma(0.3) - 0.9) ** 2),
    (links.ClippedSquare(), 1.0, 3.0, 2.0),
    # z = 1 is cut to .2: ½ (.2 − 1)² beats ½ (1 − 1)²
    (links.ClippedSquare(clip=0.2), 1.0, 1.0, 0.32),
    # moving away from the target is not cut in its favor: ½ (−1 − 1)² = 2 beats ½ (−.2 − 1)²
    (links.ClippedSquare(clip=0.2), -1.0, 1.0, 2.0),
    (links.ScoreFunction(), -0.7, 2.0, 1.4),
    # A > 0: the gain stops at 1 + high
    (links.Clipped(low=0.1, high=0.3), math.log(1.5), 2.0, -2 * 1.3),
    # A > 0, ratio small: no cut
    (links.Clipped(low=0.1, high=0.3), math.log(0.5), 2.0, -1.0),
    # A < 0: the gain stops at 1 − low
    (links.Clipped(low=0.1, high=0.3), math.log(0.5), -2.0, 1.8),
    # A < 0, ratio large: no cut
    (links.Clipped(low=0.1, high=0.3), math.log(1.5), -2.0, 3.0),
    # −2·2 + 2·log 2 / .5
    (links.Mirror(eta=0.5), math.log(2), 2.0, -4 + 4 * math.log(2)),
    (links.NegativeLogLikelihood(), -0.3, 9.0, 0.3),
    (links.Identity(), -0.3, 9.0, -0.3),
    (divergences.K2(), 0.6, 9.0, 0.18),
    (divergences.K3(), 0.6, 9.0, math.exp(-0.6) - 0.4),
]


@pytest.mark.parametrize(("link", "z", "target", "expected"), LINK_ROWS, ids=[repr(row[0]) for row in LINK_ROWS])
def test_links(link: links.Link, z: float, target: float, expected: float) -> None:
    torch.testing.assert_close(link(tensor(z), tensor(target)), tensor(expected))


# --------------------------------------------------------------------------------------------------------- rewards


def test_outcome_puts_the_score_on_the_last_trainable_token_and_moves_environment_rewards_back() -> None:
    """Trainable: positions 1, 2, 4. The 7 at 3 (a tool's answer) goes to token 2, the 5 on the prompt to none."""
    b = batch([[0, 1, 1, 0, 1, 0]], length=torch.tensor([5]), score=tensor([10.0]))
    b = replace(b, reward=tensor([[5.0, 1.0, 2.0, 7.0, 4.0, float("nan")]]))
    got = rewards.Outcome()(b, TokenStats(), Signal())
    torch.testing.assert_close(got.reward, tensor([[0.0, 1.0, 2.0 + 7.0, 0.0, 4.0 + 10.0, 0.0]]))


def test_rto_reward_by_hand() -> None:
    """Eq. 4.7 with padding, two lengths, β_guide .5, β_kl .1, a guide reference of its own.

    Row 0: tokens 1, 2. guide ratio (.4, −.2)·.5 = (.2, −.1); policy ratio (1, −1)·.1 = (.1, −.1); score 3 on token 2:
    (.2 − .1, −.1 + .1 + 3) = (.1, 3). Row 1: token 1 only: .5·(−.6) − .1·2 + 1 = .5
    """
    b = batch([[0, 1, 1], [0, 1, 0]], score=tensor([3.0, 1.0]))
    nan = float("nan")
    stats = TokenStats(
        old_logp=tensor([[nan, -1.0, -3.0], [nan, -1.0, nan]]),
        ref_logp=tensor([[nan, -2.0, -2.0], [nan, -3.0, nan]]),
        guide_logp=tensor([[nan, -0.6, -1.2], [nan, -1.6, nan]]),
        guide_ref_logp=tensor([[nan, -1.0, -1.0], [nan, -1.0, nan]]),
    )
    signal = Signal()
    for step in (rewards.Outcome(), rewards.KLPenalty(0.1), rewards.Guide(0.5)):
        signal = step(b, stats, signal)
    torch.testing.assert_close(signal.reward, tensor([[0.0, 0.1, 3.0], [0.0, 0.5, 0.0]]))
    clipped = rewards.Guide(0.5, clip=0.15)(b, stats, Signal())
    torch.testing.assert_close(clipped.reward, tensor([[0.0, 0.15, -0.1], [0.0, -0.15, 0.0]]))


def test_rto_with_beta_guide_zero_is_off_and_asks_for_no_guide() -> None:
    assert "guide_logp" in build("rto", beta_guide=0.01).needs
    off = build("rto", beta_guide=0.0)
    assert not any(isinstance(step, rewards.Guide) for step in off.steps)
    assert off.needs == build("ppo").needs


# ------------------------------------------------------------------------------------------------------ advantages


def run(step: SignalStep, b: Batch, signal: Signal, stats: TokenStats | None = None) -> Signal:
    return step(b, stats or TokenStats(), signal)


def test_return_to_go_crosses_a_hole_without_losing_credit() -> None:
    """Rewards 0,0,0,0,1 with mask 1,1,0,1,1 (theory/methods §10.8): every model token before the reward is credited."""
    b = batch([[1, 1, 0, 1, 1]])
    signal = Signal(reward=tensor([[0.0, 0, 0, 0, 1]]))
    torch.testing.assert_close(run(advantages.ReturnToGo(), b, signal).advantage, tensor([[1.0, 1, 0, 1, 1]]))
    half = run(advantages.ReturnToGo(gamma=0.5), b, signal).advantage
    torch.testing.assert_close(half, tensor([[0.125, 0.25, 0, 0.5, 1]]))  # γ per trainable token


def test_gae_by_hand() -> None:
    """γ = .5, λ = .5, r = (1, 0, 2), V = (1, 2, 3), hole after the first token.

    δ₃ = 2 − 3 = −1; δ₂ = 0 + .5·3 − 2 = −.5; δ₁ = 1 + .5·2 − 1 = 1.
    A₃ = −1; A₂ = −.5 + .25·(−1) = −.75; A₁ = 1 + .25·(−.75) = .8125. Returns A + V.
    """
    b = batch([[1, 0, 1, 1]])
    stats = TokenStats(old_value=tensor([[1.0, 99, 2, 3]]))
    signal = run(advantages.GAE(gamma=0.5, lam=0.5), b, Signal(reward=tensor([[1.0, 0, 0, 2]])), stats)
    torch.testing.assert_close(signal.advantage, tensor([[0.8125, 0, -0.75, -1]]))
    torch.testing.assert_close(signal.returns, tensor([[1.8125, 0, 1.25, 2]]))


def test_sequence_return_and_group_baselines() -> None:
    """One group of returns 1, 2, 6: the mean is 3; the others' means are 4, 3.5, 1.5."""
    b = batch([[1, 1], [1, 0], [1, 1]], group=torch.zeros(3, dtype=torch.long))
    start = run(advantages.SequenceReturn(), b, Signal(reward=tensor([[0.0, 1], [2, 0], [5, 1]])))
    torch.testing.assert_close(start.advantage, tensor([[1.0, 1], [2, 0], [6, 6]]))
    mean = run(advantages.GroupBaseline("mean"), b, start).advantage
    torch.testing.assert_close(mean, tensor([[-2.0, -2], [-1, 0], [3, 3]]))
    others = run(advantages.GroupBaseline("leave_one_out"), b, start).advantage
    torch.testing.assert_close(others, tensor([[1 - 4.0, 1 - 4.0], [2 - 3.5, 0], [6 - 1.5, 6 - 1.5]]))
    many = replace(b, group_size=torch.full((3,), math.inf, dtype=F))
    torch.testing.assert_close(run(advantages.GroupBaseline("leave_one_out"), many, start).advantage, mean)
    with pytest.raises(InputError, match="two samples or more of each prompt"):
        run(advantages.GroupBaseline("leave_one_out"), replace(b, group=torch.arange(3)), start)


def test_group_scale_divides_by_the_population_std_and_leaves_flat_groups_at_zero() -> None:
    """Group 0: −1, 1 has std 1. Group 1: .1 + .2 and .3 differ by rounding only: exactly 0, not noise over eps."""
    b = batch([[1], [1], [1], [1]], group=torch.tensor([0, 0, 1, 1]))
    start = Signal(advantage=tensor([[-1.0], [1.0], [0.1 + 0.2], [0.3]]))
    got = run(advantages.GroupScale(eps=0.0), b, run(advantages.GroupBaseline("mean"), b, start)).advantage
    torch.testing.assert_close(got, tensor([[-1.0], [1.0], [0.0], [0.0]]), atol=0, rtol=1e-12)


def test_whiten_weighs_tokens_and_rows() -> None:
    """Values 0, 0 (weight 1) and 3 (weight 2): mean 1.5, variance (2·2.25 + 2·2.25)/4 = 2.25."""
    b = batch([[1, 1], [1, 0]], weight=tensor([1.0, 2.0]))
    signal = Signal(advantage=tensor([[0.0, 0], [3, 0]]))
    centered = run(advantages.Whiten(scale="none"), b, signal).advantage
    torch.testing.assert_close(centered, tensor([[-1.5, -1.5], [1.5, 0]]))
    torch.testing.assert_close(run(advantages.Whiten(eps=0.0), b, signal).advantage, tensor([[-1.0, -1], [1, 0]]))


# ---------------------------------------------------------------------------------------- aggregation and recipes


def test_aggregations() -> None:
    """Rows of 3 and 1 tokens, weights 1 and 2, every token's loss 1 (A = −1 on π = π_old)."""
    b = batch([[1, 1, 1], [1, 0, 0]], weight=tensor([1.0, 2.0]))
    signal = Signal(advantage=-torch.ones(2, 3, dtype=F))
    stats = TokenStats(logp=tensor([[1.0, 2, 3], [4, 0, 0]]))
    want: dict[weights.Aggregation, tuple[float, float]] = {
        "token_mean": (6 + 8, 1 * 3 + 2 * 1),
        "token_sum": (6 + 8, 3),
        "sequence_mean": (2 + 8, 3),
    }
    for aggregation, (total, weight) in want.items():
        term = TokenTerm(
            "policy", score=LogRatio(), link=links.ScoreFunction(), target=Advantage(), aggregation=aggregation
        )
        torch.testing.assert_close(term.sum(b, stats, signal), tensor(float(total)))
        torch.testing.assert_close(term.weight(b), tensor(float(weight)))


def pair_case() -> tuple[Batch, TokenStats]:
    """Winner of 2 tokens with log-ratio .5 + .3 = .8 (log π −1, −2); loser of 1 token with −.4 (log π −3)."""
    b = batch([[0, 1, 1], [0, 1, 0]], pairs=torch.tensor([[0, 1]]), score=tensor([2.0, 0.5]))
    logp = tensor([[0.0, -1, -2], [0, -3, 0]])
    return b, TokenStats(logp=logp, ref_logp=logp - tensor([[0.0, 0.5, 0.3], [0, -0.4, 0]]))


PAIR_ROWS = [
    ("dpo", {"beta": 0.5}, -math.log(sigma(0.5 * 1.2))),
    ("cdpo", {"beta": 0.5, "smoothing": 0.1}, -0.9 * math.log(sigma(0.6)) - 0.1 * math.log(sigma(-0.6))),
    ("ipo", {"beta": 0.5}, (1.2 - 1) ** 2),
    ("ipo_averaged", {"beta": 0.5}, (0.4 + 0.4 - 1) ** 2),
    # margin log π(w) − log π(l) = −3 + 3 = 0: hinge 2, and .1·3
    ("slic", {"delta": 2.0, "nll_coef": 0.1}, 2.3),
    # means −1.5 and −3: 2·1.5 − .5
    ("simpo", {"beta": 2.0, "gamma": 0.5}, -math.log(sigma(2.5))),
    ("rda", {"beta": 0.5}, (0.6 - 1.5) ** 2),
]


@pytest.mark.parametrize(("name", "settings", "expected"), PAIR_ROWS, ids=[row[0] for row in PAIR_ROWS])
def test_pair_recipes_by_hand(name: str, settings: dict[str, float], expected: float) -> None:
    b, stats = pair_case()
    torch.testing.assert_close(build(name, **settings).value(b, stats), tensor(expected))


def test_regressions_by_hand() -> None:
    """Log-ratios .8 and −.4, β .5: implicit rewards .4, −.2; scores 2, .5; V(x) = 1."""
    b, stats = pair_case()
    stats = replace(stats, value=tensor([[9.0, 1, 9], [9, 1, 9]]))
    torch.testing.assert_close(build("ra", beta=0.5).value(b, stats), tensor(((1.4 - 2) ** 2 + (0.8 - 0.5) ** 2) / 2))
    given = replace(b, normalizer=tensor([1.0, 1.0]))
    torch.testing.assert_close(
        build("ra", beta=0.5, normalizer="given").value(given, stats), build("ra", beta=0.5).value(b, stats)
    )
    una = build("una", beta=0.5).value(replace(b, score=tensor([0.9, 0.1])), stats)
    torch.testing.assert_close(una, tensor(((sigma(0.4) - 0.9) ** 2 + (sigma(-0.2) - 0.1) ** 2) / 2))


def test_dpo_token_weight_is_constant_along_a_response() -> None:
    """−∂loss/∂logp = ±β σ(−z) at every token (corrections E6): a token weight, not credit."""
    b, stats = pair_case()
    force = 0.5 * sigma(-0.6)
    torch.testing.assert_close(
        build("dpo", beta=0.5).token_weight(b, stats), tensor([[0.0, force, force], [0, -force, 0]])
    )


def test_sft_and_reward_model_by_hand() -> None:
    b, stats = pair_case()
    torch.testing.assert_close(build("sft").value(b, stats), tensor((1 + 2 + 3) / 3))
    torch.testing.assert_close(build("sft", aggregation="token_sum").value(b, stats), tensor((1 + 2 + 3) / 2))
    scored = TokenStats(model_score=tensor([0.7, 0.2]))
    torch.testing.assert_close(build("reward_model").value(b, scored), tensor(-math.log(sigma(0.5))))
    torch.testing.assert_close(build("reward_model", margin=0.1).value(b, scored), tensor(-math.log(sigma(0.4))))


def test_soft_pair_targets_mix_both_orders() -> None:
    b, stats = pair_case()
    soft = replace(b, pair_target=tensor([0.7]), pair_weight=tensor([3.0]))
    expected = -0.7 * math.log(sigma(0.6)) - 0.3 * math.log(sigma(-0.6))
    torch.testing.assert_close(build("dpo", beta=0.5).value(soft, stats), tensor(expected))
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.3)
    torch.testing.assert_close(build("pra", beta=0.5).value(soft, stats), tensor(expected - entropy))


def test_rebel_is_rloo_at_the_sampler() -> None:
    """In a group of G at π = π_old, REBEL over all pairs has gradient −(2G/η) Σ (R_i − R̄) ∇log π_i: RLOO's, scaled."""
    group, eta = 4, 0.5
    pairs = torch.combinations(torch.arange(group))
    b = batch([[0, 1, 1]] * group, group=torch.zeros(group, dtype=torch.long), pairs=pairs)
    b = replace(b, score=tensor([1.0, -0.5, 2.0, 0.3]))
    logp = -torch.rand(group, 3, dtype=F, generator=torch.Generator().manual_seed(0))
    stats = TokenStats(logp=logp, old_logp=logp, ref_logp=logp - 0.1)
    rebel = build("rebel", eta=eta, beta_kl=0.2).token_weight(b, stats) * len(pairs)
    rloo = build("rloo", beta_kl=0.2, aggregation="token_sum").token_weight(b, stats) * group
    torch.testing.assert_close(rebel, rloo * (2 * group / eta) * (group - 1) / group)


# ------------------------------------------------------------------------------------------------- records


def test_a_shape_that_does_not_fit_is_named() -> None:
    good = batch([[1, 1]])
    with pytest.raises(InputError, match=r"Batch\.score must be \[B\], got shape \[1, 1\]"):
        check_shapes_of(good, score=torch.zeros(1, 1))
    with pytest.raises(InputError, match=r"Batch\.score is \[B\] with B = 3, but tokens has B = 1"):
        check_shapes_of(good, score=torch.zeros(3))
    with pytest.raises(InputError, match=r"pairs name row 1, but there are 1 rows"):
        replace(good, pairs=torch.tensor([[0, 1]]))


def check_shapes_of(b: Batch, *, score: torch.Tensor) -> None:
    """The hand-made check that runs in production, without the shape types that tests enforce."""
    broken = object.__new__(Batch)
    broken.__dict__.update({**b.__dict__, "score": score})
    check_shapes(broken)


def test_take_renumbers_pairs_and_drops_the_broken_ones() -> None:
    b = batch([[1, 1]] * 4, pairs=torch.tensor([[0, 1], [3, 2]]), pair_weight=tensor([1.0, 5.0]))
    part = take(b, torch.tensor([2, 3]), width=1)
    assert part.pairs is not None and part.pairs.tolist() == [[1, 0]]
    assert part.pair_weight is not None and part.pair_weight.tolist() == [5.0]
    assert part.tokens.shape == (2, 1)


def test_recipe_is_a_value() -> None:
    assert build("dpo", beta=0.2) == build("dpo", beta=0.2) != build("dpo")
    assert build("dpo").streams == (Stream("pairs"),)
    assert isinstance(build("dpo"), Recipe)
