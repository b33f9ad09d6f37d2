"""The study of credit in the lab: advantages, rankings and correlations again in numpy, by enumeration of texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab.plain import gibbs, sequences, tree_world
from tokenward.lab.worlds.world import Labels
from tokenward.studies import credit as study
from tokenward.studies.credit import HORIZON, LOSS, PLACE, VOCAB, WRONG, deciding, found, learned, optimum, together
from tokenward.studies.worlds import bandit


def advantages(words, ref, reward, tau):
    """A* of each token of each text: differences of τ log E_ref[e^{r/τ} | prefix], summed over texts that go on so."""

    def value(prefix):
        own = [i for i, w in enumerate(words) if w[: len(prefix)] == prefix]
        return tau * np.log(ref[own] @ np.exp(reward[own] / tau) / ref[own].sum())

    return [[value(w[: t + 1]) - value(w[:t]) for t in range(len(w))] for w in words]


def table_rows(world, table):
    """A table's numbers along each text."""
    rows = world.tree.rows(table).tolist()
    return [row[:n] for row, n in zip(rows, world.tree.length.tolist(), strict=True)]


@pytest.mark.parametrize("pull", [0.0, 1.5])
def test_the_optimal_advantage_again(pull):
    world = deciding(pull=pull)
    words = sequences(VOCAB, HORIZON, None)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    assert reward.tolist() == [-LOSS * (w[PLACE] == WRONG) for w in words]
    wanted = advantages(words, ref, reward, world.tau)
    assert np.allclose(table_rows(world, optimum(world).advantage), wanted, atol=1e-12)
    before = max(abs(x) for row in wanted for x in row[:PLACE])
    assert max(abs(x) for row in wanted for x in row[PLACE + 1 :]) < 1e-12
    assert before < 1e-12 if pull == 0 else before > 0.1


def test_the_first_token_sets_the_odds_of_the_deciding_one():
    words = sequences(VOCAB, HORIZON, None)
    odds = {}
    for pull in (0.0, 1.5):
        ref = deciding(pull=pull).ref[0].numpy()
        assert ref.sum() == pytest.approx(1.0)
        for first in range(VOCAB):
            own = [i for i, w in enumerate(words) if w[0] == first]
            share = sum(ref[i] for i in own if words[i][PLACE] == WRONG) / ref[own].sum()
            odds[pull, first] = np.log(share / (1 - share))
    assert np.allclose([odds[0.0, first] for first in range(VOCAB)], odds[0.0, 0])
    assert np.allclose([odds[1.5, y] - odds[0.0, y] for y in range(VOCAB)], [1.5, 0.0, -1.5])


def test_ranking_and_correlation_again():
    world = deciding(pull=3.0)
    words, ref = sequences(VOCAB, HORIZON, None), world.ref[0].numpy()
    random = torch.Generator().manual_seed(0)
    one, two = (torch.randn(optimum(world).advantage.shape, generator=random, dtype=torch.float64) for _ in range(2))
    one = one.round(decimals=1)  # so that there are ties
    events = [
        (-row[t], ref[i], t == PLACE and w[PLACE] == WRONG)
        for i, (w, row) in enumerate(zip(words, table_rows(world, one), strict=True))
        for t in range(HORIZON)
    ]
    wins = weight = 0.0
    for score, p, _ in (e for e in events if e[2]):
        for other, q, _ in (e for e in events if not e[2]):
            wins, weight = wins + p * q * ((score > other) + 0.5 * (score == other)), weight + p * q
    assert found(world, one) == pytest.approx(wins / weight, abs=1e-12)
    mass = np.repeat(ref, HORIZON) / HORIZON
    columns = [np.concatenate(table_rows(world, table)) for table in (one, two)]
    cov = np.cov(columns, aweights=mass)
    assert together(world, one, two) == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), abs=1e-9)


def test_the_baselines_are_what_the_reference_says_of_each_token():
    world = deciding(pull=1.5)
    words, ref = sequences(VOCAB, HORIZON, None), world.ref[0].numpy()

    def law(prefix):
        own = [
            ref[[i for i, w in enumerate(words) if w[: len(prefix) + 1] == (*prefix, a)]].sum() for a in range(VOCAB)
        ]
        return np.array(own) / sum(own)

    tables = study.baselines(world)
    assert list(tables) == ["−log π_ref", "entropy of π_ref"]
    logp, entropy = (table_rows(world, table) for table in tables.values())
    for w, one, other in zip(words, logp, entropy, strict=True):
        laws = [law(tuple(w[:t])) for t in range(len(w))]
        assert one == pytest.approx([np.log(p[a]) for p, a in zip(laws, w, strict=True)])
        assert other == pytest.approx([p @ np.log(p) for p in laws])


def test_the_table_has_every_control_and_no_end_beyond_what_a_number_can_be():
    runs = [study.Run(n, seed, 0.01 * (seed == 0), -1 + 0.01 * (seed == 0)) for n in study.NUMBERS for seed in range(8)]
    rows = study._table({"true labels": runs}, deciding(pull=0.0)).rows
    assert rows[0] == ("credit, true labels", 16.0, "0.001 (0.000 to 0.004)", "-0.999 (-1.000 to -0.996)")
    assert [row[:3] for row in rows[-2:]] == [("−log π_ref", None, "0.000"), ("entropy of π_ref", None, "0.099")]


def test_on_ragged_texts_too_the_correlation_counts_tokens_of_texts():
    world = tree_world(vocab=3, horizon=2, eos=2, prompts=2, seed=3)
    advantage = optimum(world).advantage
    other = advantage + torch.linspace(0, 1, advantage.numel(), dtype=torch.float64).reshape(advantage.shape)
    mass, columns = [], [[], []]
    for x in range(2):
        for leaf, n in enumerate(world.tree.length.tolist()):
            mass += [float(world.ref[x, leaf])] * n
            for column, table in zip(columns, (advantage, other), strict=True):
                column += world.tree.rows(table).reshape(2, -1, world.tree.horizon)[x, leaf, :n].tolist()
    cov = np.cov(columns, aweights=np.array(mass))
    assert together(world, advantage, other) == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), abs=1e-9)


def test_swapped_labels_have_the_optimum_of_the_negated_reward_and_find_nothing():
    world = deciding(pull=0.0)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    turned = torch.tensor(gibbs(ref, -reward, world.tau))[None]
    assert found(world, study.credit(world, turned)) == pytest.approx(0.0, abs=1e-9)
    assert found(world, study.credit(world, world.target)) == pytest.approx(1.0, abs=1e-9)
    alike = together(world, study.credit(world, turned), optimum(world).advantage)
    assert -0.99 < alike < -0.5  # each sign is turned, but not by one factor


def test_what_is_learned_comes_from_the_labels():
    world = deciding(pull=0.0)
    exact = optimum(world).advantage
    kinds = {"true": Labels(), "coin": Labels(noise=0.5), "swapped": Labels(noise=1.0)}
    tables = {name: study.credit(world, learned(world, kind, number=400, seed=1)) for name, kind in kinds.items()}
    alike = {name: together(world, table, exact) for name, table in tables.items()}
    assert alike["true"] > 0.85 and alike["swapped"] < -0.5 and abs(alike["coin"]) < 0.5
    assert found(world, tables["true"]) > 0.95 > 0.05 > found(world, tables["swapped"])


def test_the_population_claims_hold_on_any_world():
    for world in (tree_world(vocab=3, horizon=2, eos=2, prompts=2, seed=1), bandit()):
        assert all(claim.holds for claim in study._population_claims(world))
    pulled = [(pull, *study._exact(deciding(pull=pull))) for pull in (0.0, 8.0)]
    assert all(claim.holds for claim in study._deciding_claims(pulled))
    assert [claim.holds for claim in study._deciding_claims(pulled[::-1])] == [False, True, False]
