"""Laws that every recipe obeys. One list of members, every law on every member."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import VARIANTS, batch_of, start_of, stats_of
from tokenward.errors import InputError
from tokenward.objective.fields import TRAINED
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale
from tokenward.recipes import RECIPES, build
from tokenward.types import Batch, Signal, TokenStats, present, take

MEMBERS = [(name, {}) for name in RECIPES] + VARIANTS
IDS = [name + "".join(f"-{v}" for v in settings.values()) for name, settings in MEMBERS]
assert len(set(IDS)) == len(IDS)
BUILT = dict(zip(IDS, [build(n, **s) for n, s in MEMBERS], strict=True))
every_recipe = pytest.mark.parametrize("recipe", BUILT.values(), ids=BUILT)


# Leave-one-out and the unbiased std are statements about the number of samples, whitening's and the group's statistics
# are weighted alike;
# REBEL compares the rows of pairs, so doubling a row's weight is not doubling its pairs.
def is_additive(recipe: Recipe) -> bool:
    paired = any("pairs" in step.needs for step in recipe.steps)  # what a row wins against stands in its pairs
    return (
        not {GroupBaseline("leave_one_out"), GroupScale(std="unbiased")} & set(recipe.steps)
        and recipe.name != "rebel"
        and not paired
    )


additive = {k: r for k, r in BUILT.items() if is_additive(r)}
policies = {k: r for k, r in BUILT.items() if "logp" in r.trained}


def gradients(recipe: Recipe, batch: Batch, stats: TokenStats) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    leaves = {name: getattr(stats, name).clone().requires_grad_() for name in sorted(recipe.trained)}
    value = recipe.value(batch, replace(stats, **leaves), start_of(batch))
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return value.detach(), {
        n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)
    }


def cast(record: Batch | TokenStats, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in present(record).items()}


def only(record: Batch | TokenStats, names: frozenset[str], kept: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    return {n: v for n, v in present(record).items() if n in names or n in kept}


@every_recipe
def test_value_and_gradient_are_finite_and_not_zero(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    value, grads = gradients(recipe, batch, stats_of(batch))
    assert torch.isfinite(value)
    for name, grad in grads.items():
        assert torch.isfinite(grad).all(), name
        assert grad.abs().max() > 0, f"{name} is said to be trained but gets no gradient"


@every_recipe
def test_runs_on_exactly_what_it_needs(recipe: Recipe) -> None:
    batch, structure = batch_of(recipe), ("tokens", "length", "mask", "group", "weight", "origin")
    stats = stats_of(batch)
    lean = Batch(**only(batch, recipe.needs, structure))
    lean_stats = TokenStats(**only(stats, recipe.needs))
    assert torch.isfinite(recipe.value(lean, lean_stats, start_of(batch)))
    for name in recipe.needs:
        poor = replace(lean, **{name: None}) if hasattr(lean, name) else lean
        poor_stats = replace(lean_stats, **{name: None}) if hasattr(lean_stats, name) else lean_stats
        with pytest.raises(InputError, match=rf"\w+ needs {name} in (Batch|TokenStats), which is absent: .+"):
            recipe.value(poor, poor_stats, start_of(batch))


@every_recipe
def test_what_lies_outside_the_mask_changes_nothing(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    value, grads = gradients(recipe, batch, stats)
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    spoiled = TokenStats(
        **{n: torch.where(batch.mask, v, nan) if v.ndim == 2 else v for n, v in present(stats).items()}
    )
    column = torch.arange(batch.tokens.shape[1])
    assert batch.reward is not None
    padded = replace(
        batch,
        reward=torch.where(column < batch.length[:, None], batch.reward, nan),
        sampler_logp=None if batch.sampler_logp is None else torch.where(batch.mask, batch.sampler_logp, nan),
    )
    again, again_grads = gradients(recipe, padded, spoiled)
    assert torch.equal(value, again)
    for name, grad in grads.items():
        assert torch.equal(grad, again_grads[name])
        if grad.ndim == 2:
            assert (grad[~batch.mask] == 0).all()


@pytest.mark.parametrize("recipe", policies.values(), ids=policies)
def test_token_weight_is_minus_the_gradient_and_zero_off_the_mask(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    weight = recipe.token_weight(batch, stats, start_of(batch))
    assert (weight[~batch.mask] == 0).all()
    torch.testing.assert_close(weight, -gradients(recipe, batch, stats)[1]["logp"])


@every_recipe
def test_extra_padding_columns_change_nothing(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)

    def wider(record: Batch | TokenStats) -> dict[str, torch.Tensor]:
        return {
            n: torch.cat([v, torch.zeros(len(v), 3, dtype=v.dtype)], 1) if v.ndim == 2 and n != "pairs" else v
            for n, v in present(record).items()
        }

    value = recipe.value(batch, stats, start_of(batch))
    torch.testing.assert_close(
        recipe.value(Batch(**wider(batch)), TokenStats(**wider(stats)), start_of(batch)), value, rtol=1e-12, atol=1e-12
    )


@every_recipe
@pytest.mark.parametrize("parts", [2, 3])
def test_every_split_into_micro_batches_gives_the_same_gradient(recipe: Recipe, parts: int) -> None:
    """Stage one on the whole batch; sums on parts (pairs kept together); one global divisor."""
    if recipe.scope == "batch":
        pytest.skip("its loss is no sum over parts: tests/train/test_coupled.py")
    batch = batch_of(recipe, groups=6, per_group=2)
    stats = stats_of(batch)
    value, grads = gradients(recipe, batch, stats)
    signal = recipe.signal(batch, stats, start_of(batch))
    weights = recipe.weights(batch)
    leaves = {n: getattr(stats, n).clone().requires_grad_() for n in recipe.trained}
    total = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(batch.rows).reshape(-1, 2).chunk(parts):
        rows = rows.flatten()
        width = int(batch.length[rows].max())
        micro = take(replace(stats, **leaves), rows, width=width)
        sums = recipe.sums(take(batch, rows, width=width), micro, take(signal, rows, width=width))
        total = total + recipe.loss(sums, weights)
    torch.testing.assert_close(total.detach(), value, rtol=1e-12, atol=1e-12)
    for name, grad in zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True):
        assert grad is not None
        torch.testing.assert_close(grad, grads[name], rtol=1e-11, atol=1e-13)


@every_recipe
def test_order_of_rows_in_a_group_does_not_matter(recipe: Recipe) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    order = torch.tensor([3, 1, 0, 2, 5, 4, 7, 6, 11, 10, 8, 9])
    width = batch.tokens.shape[1]
    shuffled = take(batch, order, width=width)
    torch.testing.assert_close(
        recipe.value(shuffled, take(stats, order, width=width), start_of(batch)),
        recipe.value(batch, stats, start_of(batch)),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("recipe", additive.values(), ids=additive)
def test_weight_two_is_the_unit_twice(recipe: Recipe) -> None:
    """Row weights for rows, pair weights for pairs (corrections E11 names the exceptions)."""
    batch = batch_of(recipe)
    stats = stats_of(batch)
    assert batch.pair_weight is not None and batch.pairs is not None and batch.pair_target is not None
    if recipe.scope == "pair":
        heavy = replace(batch, pair_weight=batch.pair_weight * torch.tensor([2.0, 1, 1, 1, 1, 1]))
        doubled = replace(
            batch,
            pairs=torch.cat([batch.pairs, batch.pairs[:1]]),
            pair_weight=torch.cat([batch.pair_weight, batch.pair_weight[:1]]),
            pair_target=torch.cat([batch.pair_target, batch.pair_target[:1]]),
        )
        twice = stats
    else:
        heavy = replace(batch, weight=batch.weight * torch.tensor([2.0] + [1.0] * 11))
        order = torch.tensor([0, *range(12)])
        doubled = take(batch, order, width=batch.tokens.shape[1])
        twice = take(stats, order, width=batch.tokens.shape[1])
    torch.testing.assert_close(
        recipe.value(doubled, twice, start_of(doubled)), recipe.value(heavy, stats, start_of(heavy)), rtol=1e-11, atol=0
    )


@every_recipe
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_log_ratios_of_fifty_nats_stay_finite(recipe: Recipe, size: float) -> None:
    batch = batch_of(recipe)
    stats = stats_of(batch)
    sign = torch.where(torch.arange(batch.rows) % 2 == 0, size, -size).to(torch.float64)[:, None]
    assert stats.ref_logp is not None
    wild = replace(stats, logp=stats.ref_logp + sign, old_logp=stats.ref_logp + sign * 0.5)
    for dtype in (torch.float64, torch.float32):
        value, grads = gradients(recipe, Batch(**cast(batch, dtype)), TokenStats(**cast(wild, dtype)))
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in grads.values())


@every_recipe
def test_says_what_it_is(recipe: Recipe) -> None:
    text = str(recipe)
    assert recipe.name in text and all(repr(term) in text for term in recipe.terms)
    assert recipe.cite().count("@misc{") == len(recipe.sources) > 0
    assert recipe.trained <= TRAINED & recipe.needs


def test_a_term_that_reads_what_no_step_makes_is_refused() -> None:
    ppo = build("ppo")
    with pytest.raises(InputError, match=r"recipe broken: TokenTerm reads advantage, but no step before it makes it"):
        Recipe("broken", (), ppo.streams, ppo.terms, steps=ppo.steps[:1])


def test_unknown_names_get_the_nearest_match() -> None:
    with pytest.raises(InputError, match=r"unknown recipe 'ppoo'\. Did you mean 'ppo'\?"):
        build("ppoo")
    with pytest.raises(InputError, match=r"recipe dpo has no setting 'betta'\. Did you mean 'beta'\?"):
        build("dpo", betta=0.1)


def test_probe_rows_make_ktos_point_and_get_no_gradient() -> None:
    recipe, batch = build("kto", beta=0.5), batch_of(groups=2, per_group=2)
    origin = torch.tensor([0, 0, -1, -1])
    batch = replace(batch, origin=origin, weight=torch.where(origin < 0, 0.0, batch.weight))
    stats = stats_of(batch)
    signal = recipe.signal(batch, stats)
    assert stats.old_logp is not None and stats.ref_logp is not None
    ratio = (torch.where(batch.mask, stats.old_logp - stats.ref_logp, 0.0)).sum(-1)
    expected = max(0.0, float((ratio[2] + ratio[3]) / 2))
    torch.testing.assert_close(signal.point, torch.full((4,), expected, dtype=torch.float64))
    weight = recipe.token_weight(batch, stats)
    assert (weight[2:] == 0).all() and (weight[:2].abs().sum(-1) > 0).all()
    with pytest.raises(InputError, match="ProbePoint needs point in Signal"):
        recipe.value(replace(batch, origin=None), stats, Signal())


@every_recipe
def test_rows_of_another_stream_change_nothing(recipe: Recipe) -> None:
    """What stands in rows that a recipe has no term for enters no mean, no divisor and no sum."""
    if "pairs" in recipe.needs:
        pytest.skip("pairs name their rows")
    batch, other = batch_of(recipe, groups=4), torch.arange(16) >= 12
    stats = stats_of(batch)
    origin = torch.where(other, 9, torch.zeros(16, dtype=torch.long) if batch.origin is None else batch.origin)
    value = recipe.value(replace(batch, origin=origin), stats, start_of(batch))
    noise = {n: torch.where(other[:, None], x + 1, x) for n, x in present(stats).items() if x.ndim == 2}
    score = None if batch.score is None else torch.where(other, batch.score - 3, batch.score)
    changed = replace(batch, origin=origin, score=score, weight=torch.where(other, 7.0, batch.weight))
    torch.testing.assert_close(recipe.value(changed, replace(stats, **noise), start_of(batch)), value)
