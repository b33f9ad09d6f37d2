"""The order of a file is a pure function of seed and pass; a saved cursor goes on where it stood, on the same data."""

from __future__ import annotations

import json

import pytest
import torch

from tokenward.data.dataset import load, survey
from tokenward.data.sources import Cursor, OfflineSource, shuffled
from tokenward.data.view import check, printable, show
from tokenward.errors import InputError
from tokenward.types import PROBE, present


def dataset(folder, tokenizer, rows, *, kind, name="a.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(str(path), tokenizer=tokenizer, kind=kind)


def pairs(count):
    return [{"prompt": f"p{i}", "chosen": "a" * (i % 5 + 1), "rejected": "b" * (i % 3 + 1)} for i in range(count)]


def labels(count):
    return [{"prompt": f"p{i}", "completion": "a" * (i + 1), "label": i % 2 == 0} for i in range(count)]


def same(one, two):
    one, two = present(one), present(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_order_is_fixed_by_seed_and_pass():
    assert shuffled(6, seed=0, number=0) == (0, 1, 5, 3, 4, 2)  # on every machine and version
    orders = {shuffled(20, seed=seed, number=number) for seed in range(3) for number in range(3)}
    assert len(orders) == 9 and all(sorted(order) == list(range(20)) for order in orders)
    assert shuffled.__wrapped__(20, seed=1, number=2) == shuffled(20, seed=1, number=2)


@pytest.mark.parametrize("order", ["shuffle", "file"])
def test_every_row_once_per_pass_and_a_short_last_update(order):
    cursor = Cursor(7, per_update=3, order=order, seed=1)
    assert cursor.updates_per_pass == 3
    for number in range(3):
        given = [cursor.next() for _ in range(3)]
        assert [len(rows) for rows in given] == [3, 3, 1]
        flat = [row for rows in given for row in rows]
        assert flat == (list(range(7)) if order == "file" else list(shuffled(7, seed=1, number=number)))


@pytest.mark.parametrize(("count", "sizes"), [(7, [3, 4]), (8, [3, 3, 2]), (6, [3, 3]), (2, [2])])
def test_too_short_a_rest_joins_the_update_before(count, sizes):
    cursor = Cursor(count, per_update=3, order="file", seed=0, least=2)
    assert [len(cursor.next()) for _ in sizes] == sizes
    assert cursor.updates_per_pass == len(sizes)
    assert cursor.next()[0] == 0  # the next pass


def test_cursors_that_cannot_be():
    with pytest.raises(InputError, match="the data have 1 usable rows, an update needs at least 2"):
        Cursor(1, per_update=2, order="file", seed=0, least=2)
    with pytest.raises(InputError, match="rows_per_update must be ≥ 2 here, got 1"):
        Cursor(9, per_update=1, order="file", seed=0, least=2)
    with pytest.raises(InputError, match="the saved position is row 9 of pass 0, but the data have 5 rows"):
        Cursor(5, per_update=1, order="file", seed=0).load_state({"pass": 0, "place": 9})


def test_batches_of_pairs_and_where_they_come_from(tmp_path, spaced):
    data = dataset(tmp_path, spaced, pairs(5), kind="pairs")
    source = OfflineSource(data, rows_per_update=2, order="file")
    batch = source.next()
    assert (batch.rows, batch.pairs.tolist(), batch.group.tolist()) == (4, [[0, 1], [2, 3]], [0, 0, 1, 1])
    assert source.where(1) == f"{tmp_path}/a.jsonl:2"
    assert source.updates_per_pass == 3
    assert source.metrics() == {"epoch": 0.4}
    assert [b.rows for b in source.every_row()] == [4, 4, 2]
    assert batch.tokens[0, 0] == 1 and batch.tokens[0, batch.length[0] - 1] == 1 and batch.tokens[0, -1] == 2


@pytest.mark.parametrize("stop", range(8))
def test_a_saved_cursor_goes_on_bit_for_bit(tmp_path, spaced, stop):
    data = dataset(tmp_path, spaced, pairs(7), kind="pairs")
    straight = OfflineSource(data, rows_per_update=3, seed=5)
    expected = [straight.next() for _ in range(9)]
    first = OfflineSource(data, rows_per_update=3, seed=5)
    for _ in range(stop):
        first.next()
    state = json.loads(json.dumps(first.state()))
    again = OfflineSource(data, rows_per_update=3, seed=5)
    again.load_state(state)
    assert all(same(again.next(), batch) for batch in expected[stop:])


def test_the_split_of_a_run_is_that_of_its_names_and_files_are_whole(tmp_path, spaced):
    data = dataset(tmp_path, spaced, pairs(3), kind="pairs")
    assert load(data.source, tokenizer=spaced, kind="pairs", split="test").data_hash == data.data_hash


def test_other_data_or_settings_are_refused_on_resume(tmp_path, spaced):
    data = dataset(tmp_path, spaced, pairs(7), kind="pairs")
    state = OfflineSource(data, rows_per_update=3).state()
    changed = dataset(tmp_path, spaced, [*pairs(6), pairs(9)[8]], kind="pairs", name="b.jsonl")
    with pytest.raises(InputError, match=r"b\.jsonl: the saved position is of data_hash [0-9a-f]{64}, now it is "):
        OfflineSource(changed, rows_per_update=3).load_state(state)
    with pytest.raises(InputError, match=r"the saved position is of seed 0, now it is 1: a run goes on with the same"):
        OfflineSource(data, rows_per_update=3, seed=1).load_state(state)
    with pytest.raises(InputError, match=r"of rows_per_update 3, now it is 4"):
        OfflineSource(data, rows_per_update=4).load_state(state)


def test_probes_come_with_labeled_rows(tmp_path, spaced):
    data = dataset(tmp_path, spaced, labels(5), kind="labels")
    source = OfflineSource(data, rows_per_update=2, probes="mismatched", max_tokens=6)
    given = [source.next() for _ in range(2)]
    assert [batch.rows for batch in given] == [4, 6]  # the fifth row does not stand alone
    assert all((batch.origin == PROBE).sum() * 2 == batch.rows for batch in given)
    assert all(int(batch.length[batch.origin == PROBE].max()) <= 6 for batch in given)
    assert all(batch.origin is None for batch in source.every_row())


def test_prompts_are_no_offline_data(tmp_path, spaced):
    data = dataset(tmp_path, spaced, pairs(3), kind="prompts")
    with pytest.raises(InputError, match="holds prompts without answers"):
        OfflineSource(data, rows_per_update=1)


# --- what `data check` and `data show` print ----------------------------------------------------------------------


def test_check_counts_and_names(tmp_path, spaced):
    path = tmp_path / "a.jsonl"
    rows = [
        *pairs(3),
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        {"prompt": "<s>", "chosen": "a", "rejected": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = check(survey(str(path), tokenizer=spaced), max_dropped=0.05)
    assert (found.kind, found.rows, found.usable) == ("pairs", 5, 4)
    assert found.dropped == {"identical chosen and rejected": 1}
    assert found.changed == {"special-token text read as text": 1}
    assert found.lengths["response"] == {"p0": 2, "p50": 2, "p90": 4, "p99": 4, "p100": 4}
    assert json.loads(json.dumps(found.as_json()))["data_hash"] == found.data_hash
    printed = "\n".join(found.lines())
    assert f"{path}: preference (pairs), 5 rows, 4 usable" in printed
    assert f"dropped       1  identical chosen and rejected\n                  {path}:4: the two answers are" in printed
    assert f"changed       1  special-token text read as text\n                  {path}:5" in printed
    assert printed.endswith("more than --max-dropped 0.05 allows")
    assert check(survey(str(path), tokenizer=spaced), max_dropped=0.2).lines()[-1] == "usable"


def test_show_prints_ids_mask_and_text_with_the_boundary(tmp_path, spaced):
    data = dataset(
        tmp_path, spaced, [{"prompt": "a <s>", "chosen": " b\n", "rejected": "c", "target": 0.75}], kind="pairs"
    )
    chosen, rejected = show(data, 0)
    batch = OfflineSource(data, rows_per_update=1).next()
    shown = chosen.as_json()
    assert shown["ids"] == batch.tokens[0].tolist()
    assert shown["mask"] == batch.mask[0].int().tolist()
    assert shown["text"] == ["<s>", "", "a", " ", "<", "s", ">", " ", "b", "\n", "<s>"]
    assert (chosen.role, rejected.role, chosen.note) == ("chosen", "rejected", "target=0.75")
    lines = chosen.lines()
    assert lines[2] == '     0       1     0  "<s>"'
    assert [line.strip("─ ") for line in lines].index("response") == 2 + 7
    assert lines[-2].endswith('1  "\\n"') and lines[-1].endswith('       1     1  "<s>"')


def test_shown_text_cannot_reach_the_terminal():
    assert printable('a\x1b[2J"\\é\n\u202e') == r'"a\x1b[2J"\\é\n\u202e"'


def test_show_of_a_prompt_and_a_cut_row(tmp_path, spaced):
    data = dataset(tmp_path, spaced, pairs(2), kind="prompts")
    (row,) = show(data, 1)
    assert (row.role, [t.trained for t in row.tokens]) == ("prompt", [False] * len(row.tokens))
    assert not any("response" in line for line in row.lines())


def test_text_of_a_character_of_several_tokens(shared, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared / "models" / "stories260K"))
    data = dataset(tmp_path, tokenizer, [{"prompt": "hi", "completion": " 🙂!"}], kind="demos")
    (row,) = show(data, 0)
    assert [t.text for t in row.tokens] == ["<s>", "h", "i", " ", "", "", "", "🙂", "!", "<s>"]


def test_a_real_file_through_the_source(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared / "models" / "stories260K"))
    source = str(shared / "data" / "gsm8k" / "test.jsonl")
    with pytest.raises(
        InputError, match=r"dpo needs pairs: columns prompt, chosen, rejected; .*test.jsonl has question, answer"
    ):
        load(source, tokenizer=tokenizer, kind="pairs", asked_by="dpo")
