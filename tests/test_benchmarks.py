"""The scripts of benchmarks/ that print tables: what they do with few seeds, and what they say is missing."""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.places import ROOT
from tests.studies.test_frontier import record


def script(place):
    spec = importlib.util.spec_from_file_location("script", ROOT / "benchmarks" / place)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("values", "cell", "seeds"),
    [
        ([0.5, 0.7], "0.60 (-0.67 to 1.87)", "0.50, 0.70"),  # 12.706 · .1
        ([0.5, None, 0.7], "0.60 (-0.67 to 1.87)", "0.50, –, 0.70"),
        ([0.5], "0.50", "0.50"),
        ([None], "–", "–"),
        ([0.5] * 9, "0.50", ", ".join(["0.50"] * 9)),  # more seeds than the table of quantiles knows
    ],
)
def test_seeds_side_by_side(values, cell, seeds):
    table = script("two_models/table.py")
    assert (table.over_seeds(values), table.each(values)) == (cell, seeds)


def test_a_table_without_its_ceiling_says_what_is_missing(tmp_path, capsys, monkeypatch):
    lines = [
        record("start", None, [0.0] * 3, 0.0),
        record("dpo", 1.0, [1.0] * 3, 1.0),
        record("dpo", 0.1, [2.0] * 3, 4),
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bands = script("frontier/bands.py")
    monkeypatch.setattr(bands, "svg", lambda figure: "")
    bands.main([str(path)])
    out, err = capsys.readouterr()
    assert "| dpo | 0.50 " in out and "ceiling" not in out
    assert err == f"no ceiling: no file {tmp_path}/rewards.json; benchmarks/frontier/best_of_n.py writes it\n"
    (tmp_path / "rewards.json").write_text(json.dumps([[0.0, 1.0] * 100] * 3))
    bands.main([str(path)])
    out, err = capsys.readouterr()
    assert "| ceiling: any policy |" in out and not err
