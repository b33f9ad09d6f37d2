"""Batches: padding on the right, masks by position, pairs by index; micro-batches that cut nothing apart."""

from __future__ import annotations

import pytest
import torch

from tokenward.data.collate import pairs_batch, rollouts_batch, rows_batch, split
from tokenward.data.tokenize import Demonstration, Labeled, Pair, Prompt, Response, Scored
from tokenward.errors import InputError
from tokenward.types import PROBE, Batch, Rollout, take

PAD = 9


def prompt(number, tokens=(1, 5)):
    return Prompt(number, tokens, "")


def stop(*tokens):
    return Response(tokens, "stop")


def pair(number=0, chosen=(6, 1), rejected=(7, 8, 1), **more):
    return Pair(prompt(number), stop(*chosen), stop(*rejected), **more)


def rollout(number, response=(6, 1), **more):
    made = {
        "trainable": (True,) * len(response),
        "logp": tuple(-0.5 - i for i in range(len(response))),
        "finish": "stop",
    }
    return Rollout(number, (1, 5), response, **(made | more))


def test_a_pair_is_two_rows_and_an_index():
    batch = pairs_batch([pair(4), pair(2, chosen=(3, 3, 3, 1))], pad_id=PAD)
    assert batch.tokens.tolist() == [
        [1, 5, 6, 1, 9, 9], [1, 5, 7, 8, 1, 9], [1, 5, 3, 3, 3, 1], [1, 5, 7, 8, 1, 9],
    ]  # fmt: skip
    assert batch.length.tolist() == [4, 5, 6, 5]
    assert batch.pairs.tolist() == [[0, 1], [2, 3]]
    assert batch.group.tolist() == [4, 4, 2, 2]
    assert batch.weight.tolist() == [1, 1, 1, 1]
    assert batch.finish.tolist() == [1, 1, 1, 1]
    absent = (batch.pair_target, batch.pair_weight, batch.score, batch.label, batch.origin, batch.sampler_logp)
    assert absent == (None,) * 6


@pytest.mark.parametrize("pad", [1, 5, 9])
def test_the_mask_is_by_position_whatever_the_ids_mean(pad):
    """The end token is the BOS (1); with pad 1 it is the padding too."""
    row = Demonstration(prompt(0), Response((5, 1, 6, 1), "stop"))
    batch = rows_batch([row, Demonstration(prompt(1), stop(1))], pad_id=pad)
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]]
    assert batch.tokens[1].tolist() == [1, 5, 1, pad, pad, pad]


def test_numbers_of_pairs():
    pairs = [pair(0, target=0.25, weight=2.0, score_chosen=0.0, score_rejected=-1.0)]
    batch = pairs_batch([*pairs, pair(1, score_chosen=3.0, score_rejected=4.0)], pad_id=PAD)
    assert batch.pair_target.tolist() == [0.25, 1.0]  # absent means 1
    assert batch.pair_weight.tolist() == [2.0, 1.0]
    assert batch.score.tolist() == [0.0, -1.0, 3.0, 4.0]
    with pytest.raises(InputError, match="2 of 4 answers of the pairs have no score: score all of them, or none"):
        pairs_batch([*pairs, pair(1)], pad_id=PAD)


def test_numbers_of_rows():
    labels = [
        Labeled(prompt(i), stop(6, 1), good, weight) for i, (good, weight) in enumerate([(True, None), (False, 3.0)])
    ]
    batch = rows_batch(labels, pad_id=PAD)
    assert (batch.label.tolist(), batch.weight.tolist(), batch.score) == ([1.0, 0.0], [1.0, 3.0], None)
    batch = rows_batch([Scored(prompt(0), Response((6,), "length"), -2.0)], pad_id=PAD)
    assert (batch.score.tolist(), batch.label, batch.finish.tolist()) == ([-2.0], None, [0])


def test_probes_are_mismatched_rows_without_weight():
    rows = [Labeled(prompt(i, (1, 10 + i)), stop(*[20 + i] * (i + 1), 1), True) for i in range(3)]
    batch = rows_batch(rows, pad_id=PAD, probes="mismatched", max_tokens=4)
    assert batch.origin.tolist() == [0, 0, 0, PROBE, PROBE, PROBE]
    assert batch.weight.tolist() == [1, 1, 1, 0, 0, 0]
    assert batch.tokens[3:].tolist() == [[1, 10, 21, 21, 9, 9], [1, 11, 22, 22, 9, 9], [1, 12, 20, 1, 9, 9]]
    assert batch.finish[3:].tolist() == [0, 0, 1]
    assert batch.group.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.mask[3:].sum(-1).tolist() == [2, 2, 2]
    assert batch.label.isfinite().all()


def test_a_probe_takes_the_answer_to_another_prompt_where_there_is_one():
    same = [Labeled(prompt(i), stop(20 + i, 1), True) for i in range(2)]
    other = Labeled(prompt(2, (1, 6)), stop(30, 1), True)
    batch = rows_batch([*same, other], pad_id=PAD, probes="mismatched")
    assert batch.tokens[3:, 2].tolist() == [30, 30, 20]
    alone = rows_batch(same, pad_id=PAD, probes="mismatched")
    assert alone.tokens[2:, 2].tolist() == [21, 20]
    with pytest.raises(InputError, match="a mismatched answer needs a second row: the batch has one"):
        rows_batch(same[:1], pad_id=PAD, probes="mismatched")


def test_rollouts_keep_what_the_sampler_said():
    tool = rollout(7, (6, 4, 1), trainable=(True, False, True), score=0.0, version=3, finish="length")
    batch = rollouts_batch([[tool, rollout(7, score=1.0, version=3)]], pad_id=PAD)
    assert batch.mask.int().tolist() == [[0, 0, 1, 0, 1], [0, 0, 1, 1, 0]]
    assert batch.sampler_logp.tolist() == [[0, 0, -0.5, -1.5, -2.5], [0, 0, -0.5, -1.5, 0]]
    assert (batch.score.tolist(), batch.version.tolist(), batch.finish.tolist()) == ([0.0, 1.0], [3, 3], [0, 1])
    assert (batch.group.tolist(), batch.pairs) == ([7, 7], None)


def test_an_absent_score_is_not_zero():
    assert rollouts_batch([[rollout(0)]], pad_id=PAD).score is None
    with pytest.raises(InputError, match="1 of 2 rollouts have no score"):
        rollouts_batch([[rollout(0), rollout(0, score=0.0)]], pad_id=PAD)


def test_a_prompt_that_comes_twice_makes_two_groups():
    batch = rollouts_batch([[rollout(5)] * 2, [rollout(3)] * 2, [rollout(5)] * 2], pad_id=PAD)
    assert batch.group.tolist() == [5, 5, 3, 3, 6, 6]


def test_all_pairs_of_a_group_the_better_one_first():
    groups = [[rollout(0, score=s) for s in (1.0, 2.0, 1.0)], [rollout(1, score=0.0)]]
    assert rollouts_batch(groups, pad_id=PAD, compared={(0, 0)}).pairs.tolist() == [[1, 0], [0, 2], [1, 2]]
    assert rollouts_batch([[rollout(0)] * 2], pad_id=PAD, compared={(0, 0)}).pairs.tolist() == [[0, 1]]
    assert rollouts_batch([[rollout(0)]], pad_id=PAD, compared={(0, 0)}).pairs.shape == (0, 2)


def test_an_empty_batch_is_refused():
    for made in (lambda: pairs_batch([], pad_id=PAD), lambda: rollouts_batch([[]], pad_id=PAD)):
        with pytest.raises(InputError, match="a batch needs at least one row"):
            made()


# --- micro-batches ------------------------------------------------------------------------------------------------


def rows_of(lengths, *, groups=None, pairs=None, origin=None):
    count, width = len(lengths), max(lengths)
    return Batch(
        tokens=torch.zeros(count, width, dtype=torch.long),
        length=torch.tensor(lengths),
        mask=torch.zeros(count, width, dtype=torch.bool),
        group=torch.arange(count) if groups is None else torch.tensor(groups),
        weight=torch.ones(count),
        pairs=None if pairs is None else torch.tensor(pairs),
        origin=None if origin is None else torch.tensor(origin),
    )


def lists(batch, **how):
    return [index.tolist() for index in split(batch, **how)]


def test_micro_batches_hold_the_padded_tokens():
    batch = rows_of([2, 8, 3, 8, 2])
    assert lists(batch, max_tokens=16, scope="row") == [[1, 3], [0, 2, 4]]
    assert lists(batch, max_tokens=100, scope="row") == [[0, 1, 2, 3, 4]]
    assert lists(batch, max_tokens=5, scope="row") == [[1], [3], [2], [0, 4]]  # longer than the limit: alone


def test_pairs_and_groups_are_not_cut():
    batch = rows_of([2, 8, 3, 8, 2, 3], groups=[0, 0, 1, 1, 1, 1], pairs=[[0, 1], [3, 2], [4, 5]])
    assert lists(batch, max_tokens=16, scope="pair") == [[0, 1], [2, 3], [4, 5]]
    assert lists(batch, max_tokens=32, scope="pair") == [[0, 1, 2, 3], [4, 5]]
    assert lists(batch, max_tokens=16, scope="group") == [[0, 1], [2, 3, 4, 5]]
    assert lists(batch, max_tokens=1, scope="batch") == [[0, 1, 2, 3, 4, 5]]
    apart = rows_of([2, 2, 2], pairs=[[2, 0]])
    assert lists(apart, max_tokens=2, scope="pair") == [[0, 2], [1]]
    assert lists(apart, max_tokens=2, scope="group") == [[0, 2], [1]]
    assert lists(apart, max_tokens=2, scope="row") == [[0], [1], [2]]


@pytest.mark.parametrize("scope", ["row", "pair", "group", "batch"])
@pytest.mark.parametrize("limit", [1, 7, 20, 64, 10_000])
def test_every_row_is_in_exactly_one_micro_batch(scope, limit):
    random = torch.Generator().manual_seed(limit)
    lengths = torch.randint(1, 30, (24,), generator=random).tolist()
    groups = [i // 4 for i in range(24)]
    batch = rows_of(lengths, groups=groups, pairs=[[2 * i, 2 * i + 1] for i in range(12)])
    found = lists(batch, max_tokens=limit, scope=scope)
    assert sorted(row for rows in found for row in rows) == list(range(24))
    home = {row: place for place, rows in enumerate(found) for row in rows}
    if scope in ("pair", "group", "batch"):
        assert all(home[2 * i] == home[2 * i + 1] for i in range(12))
        assert sum(len(take(batch, torch.tensor(rows), width=30).pairs) for rows in found) == 12
    if scope in ("group", "batch"):
        assert all(home[row] == home[4 * (row // 4)] for row in range(24))
    unit = {"row": 1, "pair": 2, "group": 4, "batch": 24}[scope]
    for rows in found:
        assert len(rows) * max(lengths[row] for row in rows) <= limit or len(rows) == unit
        assert rows == sorted(rows)


@pytest.mark.parametrize("scope", ["row", "pair", "group", "batch"])
def test_probes_get_no_gradient_and_no_place(scope):
    batch = rows_of([3, 4, 3, 4], groups=[0, 1, 2, 3], origin=[0, 0, PROBE, PROBE])
    assert lists(batch, max_tokens=100, scope=scope) == [[0, 1]]
