"""The parts of clipped and group-relative methods on rows worked by hand, and what is logged of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.objective.test_hand_rows import batch, run, tensor
from tokenward.errors import InputError
from tokenward.objective.capped import Capped
from tokenward.objective.links import Clipped, Ratio
from tokenward.objective.metrics import batch_metrics, step_metrics
from tokenward.objective.sequence_ratio import SequenceRatio
from tokenward.objective.signal import advantages
from tokenward.objective.signal.overlong import Overlong
from tokenward.recipes import build
from tokenward.types import Signal, TokenStats

F = torch.float64
close = torch.testing.assert_close


@pytest.mark.parametrize(
    ("link", "ratio", "advantage", "loss", "slope"),
    [
        # slope by z: −A ϱ
        (Ratio(), 1.5, 2.0, -3.0, -3.0),
        (Clipped(dual=3.0), 1.1, -2.0, 2.2, 2.2),
        # between clip and dual clip a bad token is pushed down; beyond ϱ = 3 the loss is 3·2 and flat
        (Clipped(dual=3.0), 2.5, -2.0, 5.0, 5.0),
        (Clipped(dual=3.0), 4.0, -2.0, 6.0, 0.0),
        (Clipped(dual=3.0), 0.5, -2.0, 1.6, 0.0),
        (Clipped(dual=3.0), 4.0, 2.0, -2.4, 0.0),
        # −min(ϱ, cap) A log ϱ, slope −min(ϱ, cap) A: below and above the cap, whatever the sign
        (Capped(cap=2.0), 1.5, 1.0, -1.5 * math.log(1.5), -1.5),
        (Capped(cap=2.0), 8.0, 1.0, -2 * math.log(8), -2.0),
        (Capped(cap=2.0), 8.0, -0.5, math.log(8), 1.0),
        (Capped(cap=2.0), 0.01, 1.0, -0.01 * math.log(0.01), -0.01),
    ],
)
def test_ratio_links(link: object, ratio: float, advantage: float, loss: float, slope: float) -> None:
    z = tensor(math.log(ratio)).reshape(1).requires_grad_()
    value = link(z, tensor(advantage).reshape(1))  # type: ignore[operator]
    close(value.detach(), tensor(loss).reshape(1), rtol=1e-12, atol=1e-12)
    close(torch.autograd.grad(value.sum(), z)[0], tensor(slope).reshape(1), rtol=1e-12, atol=1e-12)


def test_bounds_that_bound_nothing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^Clipped: dual is a bound on the ratio above 1, got 0\.9; the usual one is 3$"
    ):
        Clipped(dual=0.9)
    with pytest.raises(
        InputError, match=r"^Capped: cap is the largest weight of a token, got 0; give a number above 0$"
    ):
        Capped(cap=0.0)
    for wide in (0.0, 12.0):
        with pytest.raises(
            InputError, match=rf"^Overlong: .*, got buffer {wide:g} of 10; give 0 < buffer ≤ max_tokens$"
        ):
            Overlong(max_tokens=10.0, buffer=wide)


def test_overlong_pays_at_the_last_trainable_token_for_trainable_tokens_alone() -> None:
    """max 4, buffer 2, coef 3: 2 tokens pay nothing, 3 half of 3, 4 or more 3. Row 1 has a token of the environment."""
    rows = batch([[1, 1, 0, 0, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    paid = run(Overlong(max_tokens=4.0, buffer=2.0, coef=3.0), rows, Signal()).reward
    close(paid, tensor([[0.0, 0, 0, 0, 0], [0, 0, 0, -1.5, 0], [0, 0, 0, -3, 0], [0, 0, 0, 0, -3]]))
    added = run(Overlong(max_tokens=4.0, buffer=2.0), rows, Signal(reward=torch.ones(4, 5, dtype=F))).reward
    assert added is not None
    close(added.sum(-1), tensor(5.0, 4.5, 4.0, 4.0))


def test_last_token_gives_the_whole_return_to_the_last_trainable_token() -> None:
    rows = batch([[1, 1, 0], [1, 1, 1]])
    start = Signal(reward=tensor([[1.0, 2, 0], [3, 0, -1]]))
    close(run(advantages.LastToken(), rows, start).advantage, tensor([[0.0, 3, 0], [0, 0, 2]]))


def test_group_scale_unbiased_and_single_answers() -> None:
    """Scores 0, 0, 3: squares 1, 1, 4 about 1, over G − 1 = 2: variance 3. A prompt of one answer has no spread: 0."""
    rows = batch([[1], [1], [1], [1]], group=torch.tensor([0, 0, 0, 1]))
    start = Signal(advantage=tensor([[0.0], [0.0], [3.0], [7.0]]))
    centered = run(advantages.GroupBaseline("mean"), rows, start)
    found = run(advantages.GroupScale(eps=0.5, std="unbiased"), rows, centered).advantage
    close(found, tensor([[-1.0], [-1.0], [2.0], [0.0]]) / (math.sqrt(3) + 0.5))
    many = replace(rows, group_size=torch.full((4,), math.inf, dtype=F))
    infinite = run(advantages.GroupScale(std="unbiased"), many, centered).advantage
    close(infinite, run(advantages.GroupScale(), many, centered).advantage)


def test_sequence_ratio_is_the_mean_at_every_token_with_the_tokens_own_gradient() -> None:
    rows = batch([[1, 0, 1]])
    logp = tensor([[0.3, 9.0, -0.1]]).requires_grad_()
    found = SequenceRatio().tokens(rows, TokenStats(logp=logp, old_logp=tensor([[0.0, 0, 0]])))
    close(found[rows.mask].detach(), tensor(0.1, 0.1))
    (slope,) = torch.autograd.grad(found[rows.mask] @ tensor(2.0, 5.0), logp)
    close(slope, tensor([[2.0, 0, 5]]))


# ------------------------------------------------------------------------------------------------------- metrics


def shares(name: str, logp: torch.Tensor, advantage: torch.Tensor, **settings: float) -> dict[str, float]:
    rows = batch([[1, 1], [1, 1], [1, 0]])
    stats = TokenStats(logp=logp, old_logp=torch.zeros_like(logp))
    found = step_metrics(build(name, **settings), rows, stats, Signal(advantage=advantage))
    return {key: float(total / weight) for key, (total, weight) in found.items()}


def test_what_a_clip_cuts_is_logged_by_side_and_unit() -> None:
    """Ratios 1.5, .5 | 1.5, .5 | 8; the first row is good, the others bad. Row means of log ϱ: −.14, −.14, 2.1."""
    logp = torch.log(tensor([[1.5, 0.5], [1.5, 0.5], [8.0, 1.0]]))
    good = tensor([[1.0, 1], [-1, -1], [-1, 0]])
    clipped = shares("grpo", logp, good, beta_kl=0.0)
    assert clipped["clip_ratio/high"] == pytest.approx(1 / 5) and clipped["clip_ratio/low"] == pytest.approx(1 / 5)
    assert "clip_ratio/dual" not in clipped
    capped = shares("cispo", logp, good, cap=1.4)
    assert capped["clip_ratio/high"] == pytest.approx(3 / 5) and "clip_ratio/low" not in capped
    rows = shares("gspo", logp, good)
    assert rows["clip_ratio/low"] == pytest.approx(1 / 3) and rows["clip_ratio/high"] == 0.0
    dual = Clipped(dual=3.0).cut(logp, good)["dual"]
    assert dual.tolist() == [[False, False], [False, False], [True, False]]


def test_groups_without_spread_are_counted_among_groups_of_two_or_more() -> None:
    rows = batch([[1]] * 7, group=torch.tensor([0, 0, 1, 1, 2, 2, 3]), score=tensor(1.0, 1, 0, 1, 0, 0, 5))
    assert batch_metrics(rows, TokenStats(), Signal())["groups/zero_spread"] == pytest.approx(2 / 3)
    other = replace(rows, origin=torch.tensor([0, 0, 0, 1, 0, 0, 0]))
    assert batch_metrics(other, TokenStats(), Signal())["groups/zero_spread"] == pytest.approx(1.0)
    alone = replace(rows, group=torch.arange(7))
    assert "groups/zero_spread" not in batch_metrics(alone, TokenStats(), Signal())
