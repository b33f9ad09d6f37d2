"""A row's reward is its score and its token rewards: whatever compares rows sees both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import batch_of, stats_of
from tokenward.errors import InputError
from tokenward.objective.fields import whole_score
from tokenward.objective.metrics import batch_metrics
from tokenward.objective.robust import ChiSquareBound
from tokenward.recipes import build
from tokenward.rollout.patience import Patience
from tokenward.types import Signal, TokenStats


def test_a_row_worked_by_hand() -> None:
    """Row 0: score 1, rewards 2 on the prompt, 3 and 4, then padding. Row 1: score 0, one reward of 5."""
    nan = float("nan")
    batch = replace(batch_of(groups=1, per_group=2, width=5), pairs=None, pair_weight=None, pair_target=None)
    batch = replace(
        batch,
        length=torch.tensor([3, 5]),
        score=torch.tensor([1.0, 0.0]),
        reward=torch.tensor([[2.0, 3.0, 4.0, nan, nan], [0.0, 5.0, 0.0, 0.0, 0.0]]),
    )
    assert whole_score(batch, by=batch).tolist() == [10.0, 5.0]
    assert batch_metrics(batch, TokenStats(), Signal())["score"] == 7.5


@pytest.mark.parametrize("name", ["online_dpo", "rda", "remax"])
def test_token_rewards_count_as_the_same_total_given_as_a_score(name: str) -> None:
    batch, stats = replace(batch_of(), pair_target=None), stats_of(batch_of())
    recipe = build(name)
    if name == "remax":  # row 0 of each group is the greedy answer
        batch = replace(batch, origin=(torch.arange(batch.rows) % 4 == 0).long())
    assert batch.reward is not None
    batch = replace(batch, reward=torch.where(batch.mask, batch.reward, 0.0))
    whole = replace(batch, score=whole_score(batch, by=batch), reward=None)
    alone = recipe.token_weight(replace(batch, reward=None), stats)
    with_tokens, as_score = recipe.token_weight(batch, stats), recipe.token_weight(whole, stats)
    if name == "remax":  # the return to go of a token leaves out what was rewarded before it: the first token has all
        start = batch.mask.to(torch.int8).argmax(-1, keepdim=True)
        with_tokens, as_score, alone = (x.gather(-1, start) for x in (with_tokens, as_score, alone))
    torch.testing.assert_close(with_tokens, as_score)
    assert not torch.allclose(with_tokens, alone)


def test_equal_losses_leave_the_weights_of_the_bound_alone() -> None:
    nominal = torch.tensor([8, 9, 12, 6, 16, 14, 14, 17], dtype=torch.float64) / 96
    loss = torch.full((8,), -0.41390976309776306, dtype=torch.float64)
    found = ChiSquareBound(0.1).worst(loss, nominal)
    torch.testing.assert_close(found.weight, nominal)
    assert float(found.value) == pytest.approx(float(loss[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("rloo", "kl", "Reward", "kl must be .*Did you mean 'reward'"),
        ("grpo", "aggregation", "mean", "aggregation must be 'token_mean' or"),
        ("mirror_descent", "ratio", "x", "ratio must be 'sequence' or 'token', got 'x'"),
        ("drto", "rho", float("inf"), "rho must be"),
    ],
)
def test_a_misspelt_choice_is_no_other_method(name: str, key: str, value: float | str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(name, **{key: value})


def test_after_a_call_that_hung_nothing_is_asked() -> None:
    patience, hold = Patience(0.05), __import__("threading").Event()
    with pytest.raises(InputError, match="took more than"):
        patience.call(hold.wait, what="world w")
    hold.set()
    with pytest.raises(InputError, match="a call before it never returned"):
        patience.call(lambda: 1, what="world w")
