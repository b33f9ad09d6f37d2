"""Files of every format become rows; what is broken is named by file and line."""

from __future__ import annotations

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tokenward.data.files import Raw, data_hash, raw_rows
from tokenward.data.formats import SCHEMAS, parse_rows, schema_table
from tokenward.data.rows import Message
from tokenward.data.tally import Tally
from tokenward.errors import InputError

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}
OTHER = {"role": "assistant", "content": "no"}
GOOD = {
    "preference": {"prompt": "p", "chosen": "a", "rejected": "b"},
    "implicit preference": {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    "unpaired": {"prompt": "p", "completion": "a", "label": False},
    "scored": {"prompt": "p", "completion": "a", "score": 0},
    "demonstration": {"prompt": "p", "completion": "a"},
    "conversation": {"messages": [USER, ASSISTANT]},
    "trajectory preference": {"prompt": "p", "chosen_turns": [ASSISTANT], "rejected_turns": [OTHER]},
    "dialogue preference": {"chosen_messages": [USER, ASSISTANT, USER, ASSISTANT], "rejected_messages": [USER, OTHER]},
    "pipeline preference": {
        "chosen_steps": [{"actor": "model", "prompt": "p", "completion": "a"}],
        "rejected_steps": [{"actor": "model", "prompt": "p", "completion": "b"}],
    },
    "labeled trajectory": {"prompt": "p", "turns": [ASSISTANT], "label": True},
    "scored trajectory": {"prompt": "p", "turns": [ASSISTANT, USER, OTHER], "score": 1},
    "trajectory": {"prompt": "p", "turns": [ASSISTANT]},
    "prompts": {"prompt": "p", "topic": "x"},
}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(source, **asked):
    tally = Tally(source)
    schema, rows = parse_rows(raw_rows(source), tally=tally, **asked)
    return schema, list(rows), tally


def parse(row):
    """What one row gives, read as the only one of its file."""
    tally = Tally("f")
    _, rows = parse_rows([Raw("f:1", row)], tally=tally)
    return list(rows), tally


@pytest.mark.parametrize("name", GOOD)
def test_columns_settle_the_format(tmp_path, name):
    schema, rows, tally = read(write(tmp_path / "a.jsonl", [GOOD[name]]))
    assert schema.name == name
    assert (len(rows), tally.rows, tally.kept) == (1, 1, 1)
    assert rows[0].where == f"{tmp_path}/a.jsonl:1"


def test_every_format_has_a_row_here_and_in_the_table():
    assert {schema.name for schema in SCHEMAS} == set(GOOD)
    assert all(f"| {name} |" in schema_table() for name in GOOD)
    assert "`score_chosen`, `score_rejected`, `target`, `weight`" in schema_table()


def test_values_of_a_row():
    (row,), _ = parse(
        {
            "prompt": "p",
            "chosen": "a",
            "rejected": "b",
            "score_chosen": 2,
            "score_rejected": -1.5,
            "target": 0.9,
            "weight": 3,
        }
    )
    assert (row.responses, row.scores, row.target, row.weight) == (("a", "b"), (2.0, -1.5), 0.9, 3.0)
    (row,), _ = parse(GOOD["unpaired"])
    assert row.label is False
    (row,), _ = parse(GOOD["scored"])
    assert row.scores == (0.0,)  # a score of 0 is a score
    (row,), _ = parse(GOOD["prompts"])
    assert row.columns == {"prompt": "p", "topic": "x"}


def test_messages_are_cut_before_the_last_answer():
    (row,), _ = parse(GOOD["conversation"])
    assert row.prompt == (Message("user", "hi"),)
    assert row.responses == ((Message("assistant", "yes"),),)
    (row,), _ = parse({"prompt": "hi", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]})  # as in UltraFeedback
    assert row.prompt == (Message("user", "hi"),)
    assert row.responses == ((Message("assistant", "yes"),), (Message("assistant", "no"),))
    (row,), _ = parse({"prompt": [USER], "chosen": "yes", "rejected": "no"})
    assert row.responses == ((Message("assistant", "yes"),), (Message("assistant", "no"),))


def test_a_transcript_is_cut_after_the_last_assistant():
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    (row,), _ = parse({"chosen": start + " d", "rejected": start + " e"})
    assert (row.prompt, row.responses) == (start, (" d", " e"))


TURN = "\n\nHuman: a\n\nAssistant: b"


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"prompt": 3, "completion": "a"}, "wrong type", "prompt must be text or a list of messages, got int 3"),
        ({"prompt": "p", "completion": "  \n"}, "empty response", "completion is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "empty response", "rejected is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "identical chosen and rejected", "the same"),
        ({"chosen": TURN, "rejected": TURN}, "identical chosen and rejected", "the same"),
        ({"chosen": TURN, "rejected": TURN.replace(": a", ": x")}, "prompt differs", "part before the last answer"),
        ({"chosen": TURN, "rejected": TURN + "x\n\nHuman: z"}, "prompt differs", "goes on with"),
        ({"chosen": "a", "rejected": "b"}, "prompt differs", "share no '\\n\\nAssistant:'"),
        ({"chosen": [USER, ASSISTANT], "rejected": [ASSISTANT, OTHER]}, "prompt differs", "before their last"),
        ({"chosen": [USER, ASSISTANT], "rejected": "no"}, "wrong type", "both be text or both be messages"),
        ({"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, "prompt differs", "of prompt"),
        ({"messages": [USER]}, "wrong type", "must end with a message of the assistant"),
        ({"messages": [USER, {"role": "assistant"}]}, "wrong type", "messages[1].content must be text"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [1]}]}, "wrong type", "messages[1] has tool_calls"),
        ({"messages": []}, "wrong type", "messages is a list without messages"),
        ({"prompt": "p", "completion": "a", "label": 1}, "wrong type", "label must be true or false, got int 1"),
        ({"prompt": "p", "completion": "a", "score": "9"}, "wrong type", "score must be a finite number, got str"),
        ({"prompt": "p", "completion": "a", "score": float("nan")}, "wrong type", "finite number, got float nan"),
        (
            {"prompt": "p", "completion": "a", "score": 10**400},
            "wrong type",
            "score must be a finite number, got int 1",
        ),
        (GOOD["preference"] | {"target": 1.5}, "wrong type", "target must be in [0, 1], got 1.5"),
        (GOOD["preference"] | {"weight": -1}, "wrong type", "weight must be in [0, inf], got -1"),
        (GOOD["preference"] | {"score_chosen": 1}, "missing column", "give both or neither"),
        ({"prompt": "half \ud800", "completion": "a"}, "not UTF-8", "half of a surrogate pair at character 6"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(row, reason, detail):
    rows, tally = parse(row)
    assert rows == []
    assert dict(tally.dropped) == {reason: 1}
    assert detail in tally.first[reason][0] and tally.first[reason][0].startswith("f:1: ")


def test_broken_lines_are_counted_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(GOOD["preference"]).encode()
    path.write_bytes(
        b"\xef\xbb\xbf" + good + b"\r\n\n" + good + b"\n{broken\n" + b'{"prompt": "\xff"}\n[1]\n'
        + b'{"prompt": "p", "chosen": "a"}\n{"prompt": null, "chosen": "a", "rejected": "b"}\n'
    )  # fmt: skip
    schema, rows, tally = read(str(path))
    assert schema.name == "preference"
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    assert dict(tally.dropped) == {"broken JSON": 2, "not UTF-8": 1, "missing column": 2}
    assert tally.first["not UTF-8"] == [f"{path}:5: byte 13 of the line is 0xff"]
    assert tally.first["broken JSON"][1] == f"{path}:6: a row must be an object {{…}}, got list"
    assert tally.first["missing column"] == [
        f"{path}:7: rejected is absent or null (needed: prompt, chosen, rejected)",
        f"{path}:8: prompt is absent or null (needed: prompt, chosen, rejected)",
    ]


def test_too_many_dropped_rows_refuse_the_file(tmp_path):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    source = write(tmp_path / "a.jsonl", [GOOD["preference"]] * 18 + [same, "{"])
    _, _, tally = read(source)
    tally.refuse(max_dropped=0.1)
    with pytest.raises(InputError) as caught:
        tally.refuse(max_dropped=0.05)
    assert str(caught.value) == (
        f"{source}: 2 of 20 rows dropped (10 %): 1 identical chosen and rejected, 1 broken JSON; first: {source}:19: "
        "the two answers are the same; more than --max-dropped 0.05 allows"
    )


def test_a_file_without_rows_is_refused(tmp_path):
    _, rows, tally = read(write(tmp_path / "a.jsonl", ["", ""]))
    assert rows == []
    with pytest.raises(InputError, match=r"a\.jsonl has no rows: give a file with at least one"):
        tally.refuse(max_dropped=1.0)


def test_a_file_of_broken_rows_only_is_refused_at_any_share(tmp_path):
    _, rows, tally = read(write(tmp_path / "a.jsonl", ["{", "nothing"]))
    assert rows == []
    with pytest.raises(InputError, match=r"2 of 2 rows dropped \(100 %\)"):
        tally.refuse(max_dropped=1.0)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            GOOD["demonstration"],
            r"a.jsonl:3 has the columns prompt, completion \(demonstration\), but most of the file",
        ),
        (GOOD["conversation"], r"a.jsonl:3 has the columns messages \(conversation\), but most of the file"),
    ],
)
def test_two_formats_in_one_file_are_refused_by_line(tmp_path, other, said):
    with pytest.raises(InputError, match=said):
        read(write(tmp_path / "a.jsonl", [GOOD["preference"]] * 2 + [other]))


def test_a_broken_first_row_does_not_settle_the_format(tmp_path):
    schema, rows, tally = read(write(tmp_path / "a.jsonl", [{"prompt": "p"}] + [GOOD["preference"]] * 2))
    assert (schema.name, len(rows), dict(tally.dropped)) == ("preference", 2, {"missing column": 1})


def test_scores_stand_in_every_row_or_in_none(tmp_path):
    scored = GOOD["preference"] | {"score_chosen": 1, "score_rejected": 0}
    _, rows, tally = read(write(tmp_path / "a.jsonl", [scored, scored, GOOD["preference"]]))
    assert (len(rows), dict(tally.dropped)) == (2, {"missing column": 1})


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("prompts", "pairs", r"dpo needs pairs: columns prompt, chosen, rejected; or chosen, rejected; .*a.jsonl has "
         r"prompt, topic \(prompts\)$"),
        ("demonstration", "labels", r"dpo needs labels: columns prompt, completion, label; or .* prompt, completion"),
        ("unpaired", "demos", r"dpo needs demos: columns prompt, completion; or messages; or .* \(labels\)$"),
        ("implicit preference", "prompts", r"dpo needs prompts: columns prompt; .* has chosen, rejected \(pairs\)$"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path, name, kind, said):
    with pytest.raises(InputError, match=said):
        read(write(tmp_path / "a.jsonl", [GOOD[name]]), kind=kind, asked_by="dpo")


def test_unknown_columns_name_every_format(tmp_path):
    with pytest.raises(
        InputError, match=r"needs rows of a known format: columns prompt, chosen, rejected; or .*has question"
    ):
        read(write(tmp_path / "a.jsonl", [{"question": "q"}]))


def test_prompts_are_taken_from_any_file_that_has_them(tmp_path):
    source = write(tmp_path / "a.jsonl", [GOOD["preference"], GOOD["scored"]])
    schema, rows, _ = read(source, kind="prompts")
    assert (schema.kind, [row.responses for row in rows]) == ("prompts", [(), ()])


def test_labels_and_scores_side_by_side_are_read_as_asked(tmp_path):
    source = write(tmp_path / "a.jsonl", [GOOD["unpaired"] | {"score": 2.0}])
    assert read(source, kind="labels")[1][0].label is False
    assert read(source, kind="scores")[1][0].scores == (2.0,)


def test_gzip_and_parquet_give_the_same_rows(tmp_path):
    rows = [GOOD["preference"], GOOD["preference"] | {"chosen": "c", "target": 0.5}]
    plain = write(tmp_path / "a.jsonl", rows)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write((tmp_path / "a.jsonl").read_text())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(
        [(name, pyarrow.string()) for name in ("prompt", "chosen", "rejected")] + [("target", pyarrow.float64())]
    )), tmp_path / "a.parquet")  # fmt: skip
    found = [read(str(tmp_path / name))[1] for name in ("a.jsonl", "a.jsonl.gz", "a.parquet")]
    assert [[(r.prompt, r.responses, r.target) for r in rows] for rows in found] == [
        [("p", ("a", "b"), None), ("p", ("c", "b"), 0.5)]
    ] * 3
    assert found[2][1].where.endswith("a.parquet:2")
    assert data_hash(plain) != data_hash(str(tmp_path / "a.parquet"))


def test_messages_in_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([GOOD["conversation"]]), tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet"))[1][0].prompt == (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1 no", "a.parquet cannot be read as Parquet"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"prompt": "p"}\n' * 99, mtime=0)[:-9],
            "a.jsonl.gz cannot be read: Compressed file ended",
        ),
        ("a.csv", b"prompt\n", "a.csv: the ending says neither JSON lines nor Parquet; known: .jsonl"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: there is no such file"):
        read(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match=r"is a folder: give a file"):
        read(str(tmp_path))


def test_a_datasets_name(monkeypatch):
    asked = []

    def load_dataset(name, config, *, split):
        asked.append((name, config, split))
        if name == "no/such":
            raise FileNotFoundError("not on\nthe hub")
        return datasets.Dataset.from_list([GOOD["preference"]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (raw,) = raw_rows("org/name:main", split="test")
    assert asked == [("org/name", "main", "test")]
    assert (raw.where, raw.columns) == ("org/name:main[test]:1", GOOD["preference"])
    assert data_hash("org/name") == data_hash("org/name:x")
    with pytest.raises(
        InputError, match=r"data no/such: no such file, and datasets gives no split 'train' .*: not on the hub"
    ):
        list(raw_rows("no/such"))


def test_a_file_has_no_split(tmp_path):
    source = write(tmp_path / "a.jsonl", [GOOD["preference"]])
    with pytest.raises(InputError, match=r"a\.jsonl is a file, and a file has no split 'test': leave out --split"):
        list(raw_rows(source, split="test"))


def test_the_hash_follows_the_content(tmp_path):
    source = write(tmp_path / "a.jsonl", [GOOD["preference"]])
    before = data_hash(source)
    assert before == data_hash(source) and len(before) == 64
    write(tmp_path / "a.jsonl", [GOOD["preference"], GOOD["preference"]])
    assert data_hash(source) != before


def test_hh_rlhf_as_published(shared):
    source = str(shared / "data" / "hh_rlhf" / "helpful-base-test.jsonl.gz")
    schema, rows, tally = read(source, kind="pairs")
    assert schema.name == "implicit preference"
    assert (tally.rows, len(rows)) == (2354, 2339)
    assert dict(tally.dropped) == {"identical chosen and rejected": 2, "prompt differs": 9, "empty response": 4}
    assert all(row.prompt.endswith("\n\nAssistant:") and len(row.responses) == 2 for row in rows)
    by_line = {int(raw.where.rsplit(":", 1)[1]): raw.columns for raw in raw_rows(source)}
    for row in rows:
        columns = by_line[int(row.where.rsplit(":", 1)[1])]
        assert (row.prompt + row.responses[0], row.prompt + row.responses[1]) == (
            columns["chosen"],
            columns["rejected"],
        )
