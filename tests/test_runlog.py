"""The event log: valid JSON whatever is logged, kills lose at most a torn line, resuming rewinds it exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenward.errors import InputError
from tokenward.runlog import RunLog, read, write_json, write_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_what_is_appended_is_read_back_in_order(tmp_path):
    log = RunLog(tmp_path / "events.jsonl")
    for update in range(3):
        log.append({"update": update, "loss": 0.1 * update, "text": "a\nb\u2028c ‘σ’"})
    assert read(log.path) == [{"update": u, "loss": 0.1 * u, "text": "a\nb\u2028c ‘σ’"} for u in range(3)]
    assert log.path.read_bytes().count(b"\n") == 3


def test_an_event_is_on_disk_when_append_returns(tmp_path):
    code = "import os,sys,pathlib; from tokenward.runlog import RunLog; log = RunLog(pathlib.Path(sys.argv[1]));"
    code += "[log.append({'update': u}) for u in range(20)]; os.kill(os.getpid(), 9)"
    path = tmp_path / "events.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment).returncode == -9
    assert [event["update"] for event in read(path)] == list(range(20))


@settings(max_examples=60, deadline=None)
@given(event=st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_every_line_is_standard_json(event, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    RunLog(path).append(event)
    (line,) = path.read_text(encoding="utf-8").split("\n")[:-1]

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    json.loads(line, parse_constant=refuse)


def test_numbers_json_cannot_hold_come_back_through_float(tmp_path):
    log = RunLog(tmp_path / "events.jsonl")
    log.append({"a": float("nan"), "b": float("inf"), "c": [-float("inf"), 1.0]})
    (event,) = read(log.path)
    assert event == {"a": "NaN", "b": "Infinity", "c": ["-Infinity", 1.0]}
    assert float(event["b"]) == float("inf") and float(event["c"][0]) == -float("inf")
    assert float(event["a"]) != float(event["a"])


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_torn_last_line_is_left_out_and_cut_off_before_going_on(tmp_path, cut):
    path = tmp_path / "events.jsonl"
    log = RunLog(path)
    log.append({"update": 1})
    log.append({"update": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == [{"update": 1}]
    RunLog(path).append({"update": 2})
    assert read(path) == [{"update": 1}, {"update": 2}]


def test_rewind_gives_the_bytes_of_the_straight_run(tmp_path):
    straight, resumed = RunLog(tmp_path / "straight.jsonl"), RunLog(tmp_path / "resumed.jsonl")
    events = [{"event": "start"}, {"update": 1}, {"update": 2}, {"event": "saved", "update": 2}, {"update": 3}]
    for event in events:
        straight.append(event)
    for event in [*events[:4], {"event": "warned"}, {"update": 3, "x": 1}, {"event": "late"}]:
        resumed.append(event)
    resumed.rewind(2)
    assert read(resumed.path) == [*events[:4], {"event": "warned"}]
    resumed.rewind(1)
    for event in events[2:]:
        resumed.append(event)
    assert resumed.path.read_bytes() == straight.path.read_bytes()


def test_rewind_past_the_end_and_of_no_file_changes_nothing(tmp_path):
    log = RunLog(tmp_path / "events.jsonl")
    log.rewind(0)
    assert not log.path.exists()
    log.append({"update": 1})
    log.rewind(7)
    assert read(log.path) == [{"update": 1}]


@pytest.mark.parametrize("line", [b"{\n", b"[1]\n", b"\n", b"\xff\n"])
def test_a_broken_line_that_is_not_the_last_names_the_file(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'{"update": 1}\n')
    with pytest.raises(InputError, match=r"events\.jsonl: not an event log: each line must be one JSON object"):
        read(path)


def test_write_replaces_whole_files_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "summary.json"
    write_text(path, "old")
    write_json(path, {"σ": (1, float("nan"))})
    assert json.loads(path.read_text(encoding="utf-8")) == {"σ": [1, "NaN"]}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
