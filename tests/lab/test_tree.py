from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab.plain import random_law, sequences, through, token_logs
from tokenward.errors import InputError
from tokenward.lab.worlds.tree import grow

SHAPES = [(2, 1, None), (5, 1, None), (3, 3, None), (3, 3, 2), (3, 3, 0), (2, 6, 1), (4, 2, 1)]


def law_on(tree, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.stack([random_law(rng, tree.leaves) for _ in range(2)]))


@pytest.mark.parametrize(("vocab", "horizon", "eos"), SHAPES)
def test_leaves_are_all_complete_sequences_in_lexicographic_order(vocab, horizon, eos):
    tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    words = [tuple(row[:n]) for row, n in zip(tree.tokens.tolist(), tree.length.tolist(), strict=True)]
    assert words == sequences(vocab, horizon, eos)
    assert tree.ragged == (len(set(map(len, words))) > 1)
    prefixes = {w[:t] for w in words for t in range(len(w))}
    assert tree.states == len(prefixes)
    assert torch.equal(tree.mask.sum(-1), tree.length)


def test_lengths_count_the_end_token():
    tree = grow(vocab=2, horizon=3, eos=1)
    assert tree.length.tolist() == [3, 3, 2, 1]
    assert tree.tokens.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(("vocab", "horizon", "eos"), SHAPES)
def test_child_leaf_and_state_agree(vocab, horizon, eos):
    tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    for leaf in range(tree.leaves):
        state = 0
        for t in range(int(tree.length[leaf])):
            assert int(tree.state[leaf, t]) == state
            token = int(tree.tokens[leaf, t])
            ends = t + 1 == int(tree.length[leaf])
            assert int(tree.leaf[state, token]) == (leaf if ends else -1)
            assert (int(tree.child[state, token]) >= 0) != ends
            state = int(tree.child[state, token])
    at = torch.cat([torch.full_like(level, d) for d, level in enumerate(tree.levels)])
    assert sorted(torch.cat(tree.levels).tolist()) == list(range(tree.states))
    assert len(at) == tree.states


@pytest.mark.parametrize(("vocab", "horizon", "eos"), SHAPES)
def test_token_form_of_a_law_multiplies_back_to_it(vocab, horizon, eos):
    tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    law = law_on(tree)
    table = tree.conditional(law)
    assert torch.allclose(table.exp().sum(-1), torch.ones(2, tree.states, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(tree.leaf_sum(table).exp(), law, rtol=1e-12, atol=0)
    words = sequences(vocab, horizon, eos)
    rows = tree.rows(table).reshape(2, tree.leaves, horizon)
    for x in range(2):
        for leaf, logs in enumerate(token_logs(words, law[x].numpy())):
            assert np.allclose(rows[x, leaf, : len(logs)], logs, atol=1e-12)
            assert bool((rows[x, leaf, len(logs) :] == 0).all())


def test_visitation_is_the_mass_of_a_prefix():
    tree = grow(vocab=3, horizon=3, eos=2)
    law = law_on(tree)
    mass = through(sequences(3, 3, 2), law[1].numpy())
    visits = tree.visitation(law)[1]
    for leaf in range(tree.leaves):
        word = tree.tokens[leaf].tolist()
        for t in range(int(tree.length[leaf])):
            assert float(visits[tree.state[leaf, t]]) == pytest.approx(mass[tuple(word[:t])], abs=1e-15)


def test_an_outcome_stands_at_the_last_token():
    tree = grow(vocab=2, horizon=2, eos=1)
    reward = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    rows = tree.rows(tree.outcome(reward))
    assert rows.tolist() == [[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]


def test_deep_chains_do_not_run_out_of_stack():
    assert grow(vocab=2, horizon=3000, eos=1).leaves == 3001


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"vocab": 1, "horizon": 2, "eos": None}, "give vocab ≥ 2"),
        ({"vocab": 2, "horizon": 0, "eos": None}, "horizon ≥ 1"),
        ({"vocab": 2, "horizon": 2, "eos": 2}, "eos null or below vocab"),
        ({"vocab": 2, "horizon": 13, "eos": None}, "more than 4,096 leaves"),
        ({"vocab": 10**9, "horizon": 10**9, "eos": None}, "more than 4,096 leaves"),
    ],
)
def test_shapes_that_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        grow(**shape)


def test_the_largest_tree_is_let_through():
    assert grow(vocab=2, horizon=12, eos=None).leaves == 4096
