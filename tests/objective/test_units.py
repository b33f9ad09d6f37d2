"""Rows of a unit are judged as one: a row cut in two changes no loss on pairs, whatever the recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import batch_of, stats_of
from tests.objective.test_laws import BUILT, gradients
from tokenward.data.collate import split
from tokenward.errors import InputError
from tokenward.objective.divergences import DivergenceRatio
from tokenward.objective.metrics import step_metrics
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import LogRatio, PairTerm
from tokenward.types import Batch, Signal, TokenStats, present, take


def pools(recipe: Recipe) -> bool:
    """Losses on pairs of log-ratios alone."""
    return not recipe.steps and all(
        isinstance(term, PairTerm) and isinstance(term.score, LogRatio | DivergenceRatio) for term in recipe.terms
    )


POOLED = {name: recipe for name, recipe in BUILT.items() if pools(recipe)}
pooled = pytest.mark.parametrize("recipe", POOLED.values(), ids=POOLED)


def cut(batch: Batch, stats: TokenStats) -> tuple[Batch, TokenStats]:
    """Each row as two rows of a unit: its trainable tokens up to column 4, and those from there on.

    Row i becomes rows 2i and 2i + 1; a pair names the first row of its winner and the second of its loser.
    """
    rows = torch.arange(batch.rows).repeat_interleave(2)
    width = batch.tokens.shape[1]
    late, second = torch.arange(width) >= 4, torch.arange(len(rows)) % 2 == 1
    twice, pairs = take(batch, rows, width=width), batch.pairs
    assert pairs is not None
    return replace(
        twice,
        mask=twice.mask & (late == second[:, None]),
        unit=rows,
        actor=second.long()[:, None].expand(twice.tokens.shape).contiguous(),
        pairs=2 * pairs + torch.tensor([0, 1]),
        pair_weight=batch.pair_weight,
        pair_target=batch.pair_target,
    ), take(stats, rows, width=width)


def test_there_are_recipes_of_pooled_pairs() -> None:
    assert {"dpo", "ipo", "cdpo", "simpo", "slic", "dpo_averaged", "f_dpo"} <= set(POOLED)


@pooled
def test_a_row_cut_in_two_is_the_row(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    value, whole = gradients(recipe, batch, stats)
    halves, again = cut(batch, stats)
    cut_value, parts = gradients(recipe, halves, again)
    torch.testing.assert_close(cut_value, value, rtol=1e-12, atol=1e-12)
    both = parts["logp"].unflatten(0, (batch.rows, 2)).sum(1)
    torch.testing.assert_close(both, whole["logp"], rtol=1e-12, atol=1e-13)
    assert (parts["logp"][~halves.mask] == 0).all()
    alone = recipe.value(replace(halves, unit=None), again)
    assert not torch.isclose(alone, value, rtol=1e-6), "the units say nothing"


@pooled
def test_the_numbers_of_a_unit_do_not_matter_nor_the_order_of_rows(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    halves, stats = cut(batch, stats_of(batch))
    order = torch.randperm(halves.rows, generator=torch.Generator().manual_seed(3))
    width = halves.tokens.shape[1]
    assert halves.unit is not None
    mixed = take(replace(halves, unit=100 - 7 * halves.unit), order, width=width)
    torch.testing.assert_close(
        recipe.value(mixed, take(stats, order, width=width)), recipe.value(halves, stats), rtol=1e-12, atol=1e-12
    )


@pooled
def test_micro_batches_keep_units_whole_and_give_the_same_gradient(recipe: Recipe) -> None:
    batch = batch_of(recipe, groups=6, per_group=2)
    halves, stats = cut(batch, stats_of(batch))
    value, grads = gradients(recipe, halves, stats)
    parts = split(halves, max_tokens=80, scope="pair")
    assert len(parts) > 2
    assert halves.unit is not None
    leaves = {n: getattr(stats, n).clone().requires_grad_() for n in recipe.trained}
    total, weights = torch.zeros((), dtype=torch.float64), recipe.weights(halves)
    for rows in parts:
        assert all(int((halves.unit[rows] == name).sum()) == 2 for name in halves.unit[rows])
        width = int(halves.length[rows].max())
        micro = take(replace(stats, **leaves), rows, width=width)
        total = total + recipe.loss(recipe.sums(take(halves, rows, width=width), micro, Signal()), weights)
    torch.testing.assert_close(total.detach(), value, rtol=1e-12, atol=1e-12)
    for name, grad in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(grad, grads[name], rtol=1e-11, atol=1e-13)


@pooled
def test_metrics_are_those_of_the_whole_rows(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    halves, again = cut(batch, stats)
    names = ("rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen", "drift/chosen")
    whole, parts = (step_metrics(recipe, b, s, Signal()) for b, s in ((batch, stats), (halves, again)))
    assert any(name in whole for name in names)
    for name in names:
        if name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=1e-12)


def test_rows_of_a_unit_stay_together_at_every_scope() -> None:
    batch = batch_of()
    halves, _ = cut(batch, stats_of(batch))
    assert halves.unit is not None
    for rows in split(halves, max_tokens=1, scope="row"):
        assert len(rows) == 2 and len(halves.unit[rows].unique()) == 1


def test_a_row_has_one_actor() -> None:
    batch = batch_of()
    actor = torch.zeros_like(batch.tokens)
    assert replace(batch, actor=torch.where(batch.mask, actor, 5)).actor is not None  # who wrote a prompt is not read
    actor[2, 4:] = 1
    with pytest.raises(InputError, match=r"^Batch: row 2 has actors 0, 1: models have a row each, .*joined by unit$"):
        replace(batch, actor=actor)
    with pytest.raises(InputError, match=r"row 0 has actors -1"):
        replace(batch, actor=torch.full_like(batch.tokens, -1))


def test_take_keeps_units_and_actors() -> None:
    batch = batch_of()
    halves, _ = cut(batch, stats_of(batch))
    part = take(halves, torch.tensor([4, 5, 9]), width=6)
    assert part.unit is not None and part.unit.tolist() == [2, 2, 4]
    assert part.actor is not None and part.actor.tolist() == [[0] * 6, [1] * 6, [1] * 6]
    assert set(present(part)) == set(present(halves))
