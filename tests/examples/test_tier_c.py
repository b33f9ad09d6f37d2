"""Methods in files of their own, examples/recipes: the laws, the lab, the trainer, and their formulas by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import runs
from tests.objective import test_laws as laws
from tests.objective.cases import batch_of, stats_of
from tests.places import ROOT
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world import default_world
from tokenward.objective.recipe import Recipe
from tokenward.recipes import load
from tokenward.train import loop
from tokenward.types import Batch, Signal, TokenStats

FOLDER = ROOT / "examples" / "recipes"
NAMES = ("astar_po", "trpa", "bond")
LAWS = (
    laws.test_value_and_gradient_are_finite_and_not_zero,
    laws.test_runs_on_exactly_what_it_needs,
    laws.test_what_lies_outside_the_mask_changes_nothing,
    laws.test_token_weight_is_minus_the_gradient_and_zero_off_the_mask,
    laws.test_extra_padding_columns_change_nothing,
    laws.test_order_of_rows_in_a_group_does_not_matter,
)


def made(name: str, **keywords: float) -> Recipe:
    return load(f"{FOLDER / name}.py:{name}")(**keywords)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__[5:40])
def test_laws(name: str, law) -> None:
    law(made(name, **({"beta": 0.5} if name == "astar_po" else {})))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parts", [2, 3])
def test_splits_and_large_ratios(name: str, parts: int) -> None:
    recipe = made(name)
    laws.test_every_split_into_micro_batches_gives_the_same_gradient(recipe, parts)
    laws.test_log_ratios_of_fifty_nats_stay_finite(recipe, 50.0 if parts == 2 else -50.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_short(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_trains_from_its_file(name: str, tmp_path: Path) -> None:
    config = runs.config(tmp_path, "rloo", group=2, updates=2, epochs=1, learning_rate=1e-3)
    result = loop.run(config, f"{FOLDER / name}.py:{name}", keywords={"beta": 0.1} if name == "astar_po" else {})
    assert result.updates == 2 and (result.model / "config.json").is_file()
    begun = runs.weights(tmp_path / "base")
    assert any(not torch.equal(one, two) for one, two in zip(begun, runs.weights(result.model), strict=True))


# ------------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("beta_value", [0.05, 0.5, 5.0])
def test_astar_po_rests_at_boltzmann_for_any_value(beta_value: float) -> None:
    world = default_world()
    found = solve(made("astar_po", beta=world.tau, beta_value=beta_value), world)
    tilted = world.ref.numpy() * np.exp(world.reward.numpy() / world.tau)
    expected = tilted / tilted.sum(-1, keepdims=True)
    assert found.converged
    np.testing.assert_allclose(found.law.numpy(), expected, atol=1e-7)


def by_hand() -> tuple[Batch, TokenStats]:
    """One prompt: two answers of the policy (rows 0, 1), two of the reference (rows 2, 3); one trainable token each."""
    batch = Batch(
        tokens=torch.zeros(4, 2, dtype=torch.long),
        length=torch.full((4,), 2),
        mask=torch.tensor([[False, True]]).expand(4, 2),
        group=torch.zeros(4, dtype=torch.long),
        weight=torch.ones(4, dtype=torch.float64),
        score=torch.tensor([1.0, -1.0, 0.0, 2.0], dtype=torch.float64),
        origin=torch.tensor([0, 0, 1, 1]),
    )
    zero = torch.zeros(4, 2, dtype=torch.float64)
    logp = zero.clone()
    logp[:, 1] = torch.tensor([0.2, 0.1, -0.3, 0.4])
    return batch, TokenStats(logp=logp, old_logp=logp, ref_logp=zero)


def test_astar_po_by_hand() -> None:
    batch, stats = by_hand()
    value = 0.5 * math.log((math.exp(0.0 / 0.5) + math.exp(2.0 / 0.5)) / 2)
    expected = ((0.3 * 0.2 - (1.0 - value)) ** 2 + (0.3 * 0.1 - (-1.0 - value)) ** 2) / 2
    assert float(made("astar_po", beta=0.3, beta_value=0.5).value(batch, stats)) == pytest.approx(expected)


def test_bond_by_hand() -> None:
    """Row 1 is worse than both anchors; the better anchor carries weight 2, the worse one 0."""
    batch, stats = by_hand()
    totals = np.array([-0.2, -math.log(16) - 0.1])  # reward less log π/π_ref
    advantage = totals - totals.mean()
    forward, backward = -(2 * 0.4) / 2, -(advantage * np.array([0.2, 0.1])).mean()
    assert float(made("bond", jeffreys=0.3).value(batch, stats)) == pytest.approx(0.7 * forward + 0.3 * backward)


def test_the_best_of_two_has_weights_of_mean_one_also_with_ties() -> None:
    batch, stats = by_hand()
    forward = next(term for term in made("bond").terms if term.name == "forward")
    for score, expected in ([1.0, 1.0], [1.0, 1.0]), ([0.0, 2.0], [0.0, 2.0]), ([3.0, 2.0], [2.0, 0.0]):
        own = replace(batch, score=torch.tensor([0.0, 0.0, *score], dtype=torch.float64))
        assert forward.target.rows(own, stats, Signal())[2:].tolist() == pytest.approx(expected)


def test_in_the_lab_bond_is_the_exact_jeffreys_of_best_of_two_in_its_forward_part() -> None:
    """At j = 0 the loss is KL(π_best‖π) up to a constant, so it rests at the law of the better of two answers."""
    world = default_world()
    found = solve(made("bond", jeffreys=1e-9), world)
    reward, ref = world.reward.numpy(), world.ref.numpy()
    for law, prior, r in zip(found.law.numpy(), ref, reward, strict=True):
        below = np.array([prior[r < x].sum() for x in r])
        up_to = np.array([prior[r <= x].sum() for x in r])
        best = prior * (up_to**2 - below**2) / np.array([prior[r == x].sum() for x in r])
        np.testing.assert_allclose(law, best, atol=1e-6)


def test_trpa_compares_levels_alone() -> None:
    batch, stats = by_hand()
    rows = torch.tensor([[0, 1], [0, 2], [3, 0]])
    batch = replace(batch, origin=None, pairs=rows)
    sigmoid = 1 / (1 + np.exp(-2.0 * np.array([0.1, 0.5, 0.2])))
    every = made("trpa", beta=2.0, kl_coef=0.0).value(batch, stats)
    assert float(every) == pytest.approx(-np.log(sigmoid).mean())
    wide = made("trpa", beta=2.0, width=2.0, kl_coef=0.0).value(batch, stats)  # levels 0, −1, 0, 1
    assert float(wide) == pytest.approx(-np.log(sigmoid[[0, 2]]).sum() / 3)


def test_batches_of_the_laws_have_the_streams() -> None:
    batch = batch_of(made("bond"))
    assert batch.origin is not None and set(batch.origin.tolist()) == {0, 1}
    assert stats_of(batch).logp is not None
