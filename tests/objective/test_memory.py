"""Steps that remember: three batches worked by hand, what enters their memory, and the numbers that tell of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import batch_of, start_of, stats_of
from tokenward.errors import InputError
from tokenward.objective.metrics import step_metrics
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import ReturnToGo
from tokenward.objective.signal.memory import own, walk
from tokenward.objective.signal.remembered import AdaptiveKL, AdvantageClip, ClipReward, RunningScale
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.signal.stage_metrics import stage_metrics
from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats, take


def scored(*scores: float, weight: tuple[float, ...] | None = None, origin: tuple[int, ...] | None = None) -> Batch:
    """Rows of a prompt token and two trainable ones."""
    rows = len(scores)
    return Batch(
        tokens=torch.zeros(rows, 3, dtype=torch.long),
        length=torch.full((rows,), 3),
        mask=torch.tensor([[False, True, True]]).repeat(rows, 1),
        group=torch.arange(rows),
        weight=torch.ones(rows, dtype=torch.float64) if weight is None else torch.tensor(weight, dtype=torch.float64),
        score=torch.tensor(scores, dtype=torch.float64),
        origin=None if origin is None else torch.tensor(origin),
    )


def drifted(*ratios: float) -> TokenStats:
    """log π_old/π_ref of each row, all on its last token."""
    ref = torch.zeros(len(ratios), 3, dtype=torch.float64)
    old = ref.clone()
    old[:, 2] = torch.tensor(ratios, dtype=torch.float64)
    return TokenStats(old_logp=old, ref_logp=ref, logp=old)


def of_steps(*steps: object) -> Recipe:
    ppo = build("reinforce")
    return replace(ppo, steps=(Outcome(), *steps, ReturnToGo()))  # type: ignore[arg-type]


BATCHES = ((1.0, 3.0), (5.0,), (2.0, 2.0))
MEANS = (2.0, 3.0, 2.6)
STDS = (1.0, (8 / 3) ** 0.5, 1.84**0.5)  # {1,3}: ½(1+1); {1,3,5}: (4+0+4)/3; {1,3,5,2,2}: (2.56+.16+5.76+.36+.36)/5


@pytest.mark.parametrize("center", ["none", "mean"])
def test_rewards_are_divided_by_the_std_of_all_rewards_so_far(center: str) -> None:
    recipe = of_steps(RunningScale(center=center))  # type: ignore[arg-type]
    memory = recipe.memory
    assert all(value.dtype == torch.float64 and value.shape == () for value in memory.values())
    for scores, mean, std in zip(BATCHES, MEANS, STDS, strict=True):
        signal, memory = recipe.signal_after(scored(*scores), TokenStats(), memory)
        for row, score in enumerate(scores):
            expected = (score - (mean if center == "mean" else 0.0)) / std
            assert signal.reward is not None
            assert signal.reward[row].tolist() == pytest.approx([0.0, 0.0, expected])
        told = stage_metrics(recipe, scored(*scores), TokenStats(), memory)
        assert told == pytest.approx({"reward/running_mean": mean, "reward/running_std": std})


def test_without_a_history_a_batch_knows_itself() -> None:
    recipe = of_steps(RunningScale(center="mean"))
    signal = recipe.signal(scored(1.0, 3.0, 5.0), TokenStats())
    assert signal.reward is not None
    assert signal.reward[:, 2].tolist() == pytest.approx([-2 / STDS[1], 0.0, 2 / STDS[1]])


def test_rewards_without_spread_stay_as_they_are() -> None:
    for score in (0.7, 1e6 + 0.1):
        signal = of_steps(RunningScale()).signal(scored(score, score, score), TokenStats())
        assert signal.reward is not None and signal.reward[:, 2].tolist() == [score] * 3


def test_weights_count_and_rows_of_other_streams_do_not() -> None:
    recipe = of_steps(RunningScale(center="mean"))
    heavy = recipe.signal_after(scored(1.0, 4.0, weight=(2.0, 1.0)), TokenStats(), recipe.memory)[1]
    twice = recipe.signal_after(scored(1.0, 1.0, 4.0), TokenStats(), recipe.memory)[1]
    mixed = recipe.signal_after(scored(1.0, 1.0, 4.0, 99.0, origin=(0, 0, 0, 1)), TokenStats(), recipe.memory)[1]
    assert {k: float(v) for k, v in heavy.items()} == pytest.approx({k: float(v) for k, v in twice.items()})
    assert {k: float(v) for k, v in mixed.items()} == {k: float(v) for k, v in twice.items()}


def test_statistics_of_two_ranks_add_up() -> None:
    """Each rank walks its own half; what they know afterwards is what one process knows."""
    recipe = build("ppo", reward_scale="mean_std", kl_target=0.2)
    batch = batch_of()
    stats = stats_of(batch)
    whole = recipe.signal_after(batch, stats, recipe.memory)[1]
    halves = [torch.arange(0, 6), torch.arange(6, 12)]
    width = batch.tokens.shape[1]
    parts = [(take(batch, rows, width=width), take(stats, rows, width=width)) for rows in halves]
    shares = []
    for part, own_stats in parts:
        seen: list[dict[str, torch.Tensor]] = []
        recipe.signal_after(part, own_stats, recipe.memory, total=lambda s, seen=seen: seen.append(dict(s)) or dict(s))
        shares.append(seen)
    queue = [{name: a[name] + b[name] for name in a} for a, b in zip(*shares, strict=True)]
    again = recipe.signal_after(*parts[0], recipe.memory, total=lambda _: queue.pop(0))[1]
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=1e-14, atol=0)


def test_the_adaptive_pull_moves_after_each_batch_and_charges_with_the_one_from_before() -> None:
    """target 2, horizon 10, two rows a batch. KL 3: error +.2 (cut from .5); 1.9: −.05; 0: −.2 (cut from −1)."""
    recipe = of_steps(AdaptiveKL(0.1, target=2.0, horizon=10.0))
    memory, coef = recipe.memory, 0.1
    for ratios, error in (((2.0, 4.0), 0.2), ((1.8, 2.0), -0.05), ((0.0, 0.0), -0.2)):
        frozen = drifted(*ratios)
        signal, memory = recipe.signal_after(scored(1.0, 0.0), frozen, memory)
        assert signal.reward is not None
        assert signal.reward[:, 2].tolist() == pytest.approx([1.0 - coef * ratios[0], -coef * ratios[1]])
        assert stage_metrics(recipe, scored(1.0, 0.0), frozen, memory) == pytest.approx({"kl/coef": coef})
        coef *= 1 + error * 2 / 10
        assert float(own(memory, 1)["next"]) == pytest.approx(coef)


def test_clips_cut_on_both_sides_and_say_how_often() -> None:
    recipe = of_steps(ClipReward(1.5))
    batch = scored(2.0, -3.0, 1.5, 0.2)
    signal, memory = recipe.signal_after(batch, TokenStats(), recipe.memory)
    assert memory == {} and signal.reward is not None
    assert signal.reward[:, 2].tolist() == [1.5, -1.5, 1.5, 0.2]
    assert stage_metrics(recipe, batch, TokenStats(), memory) == {"reward/clipped_share": 0.5}
    steps = (Outcome(), ReturnToGo(), AdvantageClip(0.3))
    after, _ = walk(steps, batch, TokenStats(), Signal(), memory={})
    assert after.advantage is not None
    assert after.advantage[:, 1].tolist() == [0.3, -0.3, 0.3, 0.2]
    cut = replace(recipe, steps=steps)
    assert stage_metrics(cut, batch, TokenStats(), {}) == {"advantage/clipped_share": 0.75}


def test_the_scale_stands_before_the_pull() -> None:
    """r = 1 and 3, σ = 1; with r = 2 and 6, σ = 2, rewards are the same and the KL is charged in full."""
    recipe = build("ppo", reward_scale="std", beta_kl=0.5)
    frozen = replace(drifted(1.0, -2.0), old_value=torch.zeros(2, 3, dtype=torch.float64))
    small, large = (recipe.signal(scored(*scores), frozen).reward for scores in ((1.0, 3.0), (2.0, 6.0)))
    assert small is not None and large is not None
    assert small[:, 2].tolist() == large[:, 2].tolist() == pytest.approx([1.0 - 0.5, 3.0 + 1.0])


def test_with_one_update_a_batch_the_clip_is_inert() -> None:
    """At π = π_old every ratio is 1: PPO and PPO-NoClip have the same gradient; at another policy they have not."""
    batch = batch_of()
    stats = stats_of(batch)
    assert stats.old_logp is not None
    fresh = replace(stats, logp=stats.old_logp)
    clip, free = build("ppo"), build("ppo", clip=None)
    assert torch.equal(clip.token_weight(batch, fresh), free.token_weight(batch, fresh))
    assert not torch.equal(clip.token_weight(batch, stats), free.token_weight(batch, stats))


def test_values_held_by_their_clip_are_counted() -> None:
    """V − V_old = .5, −.5, .1, R − V_old = .2, −1, −1, clip .2: the clipped branch is larger for the second alone."""
    recipe = build("ppo")
    zero = torch.zeros(3, 2, dtype=torch.float64)
    batch = Batch(
        tokens=torch.zeros(3, 2, dtype=torch.long),
        length=torch.full((3,), 2),
        mask=torch.tensor([[False, True]]).repeat(3, 1),
        group=torch.arange(3),
        weight=torch.ones(3, dtype=torch.float64),
    )

    def column(*values: float) -> torch.Tensor:
        return torch.stack([zero[:, 0], torch.tensor(values, dtype=torch.float64)], -1)

    stats = TokenStats(logp=zero, old_logp=zero, value=column(0.5, -0.5, 0.1), old_value=zero)
    signal = Signal(advantage=zero, returns=column(0.2, -1.0, -1.0))
    share, tokens = step_metrics(recipe, batch, stats, signal)["critic/value_clip_share"]
    assert (float(share), float(tokens)) == (1.0, 3.0)


def test_ptx_reads_the_demonstrations_alone_and_the_policy_term_does_not() -> None:
    """Six rollouts and six demonstrations; both terms as if the other rows were not there."""
    batch = batch_of()
    stats = stats_of(batch)
    demos = torch.arange(12) >= 6
    mixed = replace(batch, origin=demos.long())
    recipe = build("ppo_max", ptx_coef=0.7)
    signal = recipe.signal(mixed, stats, start_of(batch))
    sums, weights = recipe.sums(mixed, stats, signal), recipe.weights(mixed)
    width = batch.tokens.shape[1]
    first, second = (take(batch, rows.nonzero().squeeze(-1), width=width) for rows in (~demos, demos))
    own_stats = take(stats, torch.arange(6), width=width)
    plain = build("ppo_max")
    alone = plain.sums(first, own_stats, plain.signal(first, own_stats))
    for name in ("policy", "value"):
        torch.testing.assert_close(sums[name], alone[name], rtol=1e-12, atol=0)
        torch.testing.assert_close(weights[name], plain.weights(first)[name])
    assert stats.logp is not None
    nll = -(stats.logp[6:] * second.mask * second.weight[:, None]).sum()
    torch.testing.assert_close(sums["ptx"], nll)
    torch.testing.assert_close(weights["ptx"], (second.mask.sum(-1) * second.weight).sum())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"reward_clip": 0.0}, "reward_clip must be > 0, got 0.0"),
        ({"kl_target": -1.0}, "kl_target must be > 0, got -1.0"),
        ({"kl_target": 1.0, "kl": "exact"}, "kl_target steers the coefficient of a KL in the reward"),
        ({"clip": None, "dual_clip": 3.0}, "dual_clip = 3 is a part of the clip, which is off"),
    ],
)
def test_settings_that_say_nothing_are_refused(keywords: dict[str, float | str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("ppo", **keywords)


def test_parts_built_by_hand_refuse_a_bound_of_nothing() -> None:
    with pytest.raises(InputError, match="ClipReward: limit must be above 0, got 0"):
        ClipReward(0.0)
    with pytest.raises(InputError, match="AdaptiveKL: target must be above 0, got -1"):
        AdaptiveKL(0.05, target=-1.0)
