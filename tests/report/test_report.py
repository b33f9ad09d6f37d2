"""The page: built from run directories alone, self-contained, escaped, true to the numbers it is given."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tokenward.diagnose.lens.rows import TokenRow, write_rows
from tokenward.errors import InputError
from tokenward.report import figures, study_figures
from tokenward.report.page import _text, write_page
from tokenward.report.records import RunRecord, gather
from tokenward.runlog import RunLog
from tokenward.studies.study import Figure, Series

NASTY = "<script>alert(\"x\")</script> & ü 'q'"


def run_folder(folder: Path, *, recipe="dpo", updates=40, **metrics):
    folder.mkdir(parents=True)
    log = RunLog(folder / "events.jsonl")
    for update in range(1, updates + 1):
        event = {"event": "update", "update": update, "loss": 1 / update, "timing_s/update": 0.5}
        log.append({**event, **{name: value * update for name, value in metrics.items()}})
    (folder / "config.yaml").write_text(
        f"recipe: {recipe}\nbeta: 0.1\nmodel: '{NASTY.replace(chr(39), chr(39) * 2)}'\n"
    )
    (folder / "recipe.txt").write_text(f"recipe {recipe} {NASTY}\n")
    return folder


SUMMARY = {
    "methods": {
        "sft": {
            "reward": -1.5, "reward_se": 0.25, "kl": 0.0, "kl_se": 0.0,
            "error_rate": 1.25, "length": 12.5, "seconds": 61.0,
        },
        "dpo": {
            "reward": 0.75, "reward_se": 0.125, "kl": 6.5, "kl_se": 0.5,
            "error_rate": 0.5, "length": 9.0, "seconds": 30.0,
        },
    },
    "search": {"beam": {"reward": 1.0, "reward_se": 0.1, "kl": 9.0, "kl_se": 0.1, "tokens": 1234.0}},
    "ceiling": [{"kl": 0.0, "reward": -1.5, "reward_se": 0.1}, {"kl": 2.0, "reward": 0.5, "reward_se": 0.2}],
    "credit_auc": 0.912, "credit_auc_interval": [0.9, 0.93], "credit_auc_random_labels": 0.48,
    "notes": [f"a note {NASTY}"],
}  # fmt: skip


def result_folder(folder: Path):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    write_rows(
        folder / "credit_dpo.jsonl",
        [TokenRow(NASTY, (" fine", NASTY, "<eos>"), {"credit": (0.5, -1.0, 0.0)}, wrong=("", "repeat", ""))],
    )
    return folder


class Page(html.parser.HTMLParser):
    """Tags with attributes, checked to be closed, and the text of cells."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    folders = [
        result_folder(tmp_path / "demo"),
        run_folder(tmp_path / "demo" / "dpo", **{"rewards/margins": 0.1}),
        run_folder(tmp_path / "demo" / "ppo", recipe="ppo", score=0.2, kl=0.3),
    ]
    return Page(write_page(folders, tmp_path / "out" / "page.html", title=NASTY))


def test_nothing_comes_from_outside_and_nothing_runs(page):
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/svg+xml;base64,") and image["alt"] for image in page.all("img"))
    assert not re.search(r"https?://|url\(|@import", page.source.replace("http://www.w3.org", ""))
    policy = next(a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_every_text_is_escaped(page):
    assert "<script" not in page.source.lower()
    assert page.text.count(NASTY) >= 6  # title, heading, note, prompt, token, recipe


def test_the_tables_hold_the_numbers_of_the_summary(page):
    assert re.search(r"sft\s*-1\.50 ± 0\.25\s*0\.00 ± 0\.00\s*1\.25\s*12\.5\s*61", page.text)
    assert re.search(r"dpo\s*0\.75 ± 0\.12\s*6\.50 ± 0\.50\s*0\.50\s*9\.0\s*30", page.text)
    assert re.search(r"beam\s*1\.00 ± 0\.10\s*9\.00 ± 0\.10\s*1,234", page.text)
    assert "true labels 0.912 [0.90, 0.93] · random labels 0.480" in page.text


def test_tokens_carry_their_exact_credit_and_their_error(page):
    spans = [span for span in page.all("span") if "title" in span]
    assert [span["title"] for span in spans] == ["+0.5000", "-1.0000 · repeat", "+0.0000"]
    assert [span.get("class") for span in spans] == [None, "wrong", None]
    blue, orange = (re.search(r"rgb\((.*?) / (.*?)\)", span["style"]).groups() for span in spans[:2])
    assert blue[0] != orange[0] and float(blue[1]) == pytest.approx(float(orange[1]))  # both at the top of the scale
    assert "/ 0.000" in spans[2]["style"]


def drawings(page):
    return {a["alt"]: base64.b64decode(a["src"].partition(",")[2]).decode() for a in page.all("img")}


def test_one_figure_for_each_metric_and_one_for_the_frontier(page):
    drawn = drawings(page)
    assert sorted(drawn) == sorted(
        [
            "true reward of each method against its KL",
            "reward margin of pairs over updates",
            "score of samples (reward units) over updates",
            "KL to the reference on samples (nats) over updates",
            "loss of dpo over updates",
            "loss of ppo over updates",
        ]
    )
    assert all(svg.startswith("<?xml") and "</svg>" in svg for svg in drawn.values())


def test_a_run_table_tells_the_last_values(page):
    """Margins 0.1·update: the mean of updates 31 … 40 is 3.55; 40 updates of half a second are 20 s."""
    assert re.search(r"dpo\s*dpo\s*40\s*20", page.text)
    assert "3.550" in page.text


def test_scores_and_lengths_of_a_file_are_not_called_those_of_samples(tmp_path):
    told = {"score": 0.2, "completions/length": 3.0, "rewards/margins": 0.1}
    folders = [run_folder(tmp_path / "dpo", epoch=0.1, **told), run_folder(tmp_path / "ppo", recipe="ppo", **told)]
    runs, _ = gather(folders)
    drawn = {metric: [run.name for run in have] for metric, have in figures.panels(runs).values()}
    assert drawn["score"] == drawn["completions/length"] == ["ppo"] and drawn["rewards/margins"] == ["dpo", "ppo"]
    text = Page(write_page(folders, tmp_path / "page.html")).text
    assert re.search(r"dpo\s*dpo\s*40\s*20\s*0\.028\s*–\s*3\.550\s*–", text)
    assert "score" not in Page(write_page(folders[:1], tmp_path / "one.html")).text


def test_the_same_runs_give_the_same_page(tmp_path):
    folder = run_folder(tmp_path / "a", **{"rewards/margins": 0.1})
    pages = [write_page([folder], tmp_path / name).read_text() for name in ("1.html", "2.html")]
    assert pages[0] == pages[1]


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [run_folder(tmp_path / parent / "dpo") for parent in ("one", "two")]
    runs, _ = gather(folders)
    assert [run.name for run in runs] == ["one/dpo", "two/dpo"]


def test_numbers_that_are_none_leave_a_gap(tmp_path):
    folder = run_folder(tmp_path / "a", updates=1)
    RunLog(folder / "events.jsonl").append({"event": "update", "update": 2, "loss": float("nan"), "score": True})
    ((run,), _) = gather([folder])
    assert run.series("loss") == ([1], [1.0]) and run.series("score") == ([], [])


def sheet(run, order, monkeypatch):
    """The axes that `curves` draws."""
    kept = []
    plain = figures._svg
    monkeypatch.setattr(figures, "_svg", lambda figure: kept.append(figure) or plain(figure))
    assert "</svg>" in figures.curves([run], metric="loss", title="loss of $x^{$", order=order)
    return kept[0].axes[0]


@pytest.mark.parametrize("name", ["a $\\frac{$ b", "$\\no$", "_hidden", "$x$"])
def test_names_are_drawn_letter_by_letter(tmp_path, name, monkeypatch):
    run = RunRecord(name, "dpo", {}, "", tuple({"update": i, "loss": 1.0} for i in range(1, 6)))
    axes = sheet(run, [name, "other"], monkeypatch)
    (drawn,) = axes.get_legend().get_texts()
    text, math = drawn._preprocess_math(drawn.get_text())
    assert text.strip() == name and not math
    shown = Figure(name, name, name, name, (Series(name, [1.0], [1.0]), Series(name, [2.0], [1.0])), "")
    assert study_figures.svg(shown) and study_figures.png(shown)
    bars = Figure("f", "t", "x", "y", tuple(Series(name, [name], [1.0], style="bars") for _ in range(2)), "")
    assert study_figures.svg(bars)
    methods = {name: {"kl": 1.0, "reward": 1.0}}
    assert "</svg>" in figures.frontier(methods)


def test_a_line_is_named_where_the_page_has_other_runs_and_updates_are_whole(tmp_path, monkeypatch):
    ((run, _), _) = gather([run_folder(tmp_path / "a", updates=3), run_folder(tmp_path / "b", recipe="kto")])
    axes = sheet(run, ["a", "b"], monkeypatch)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a"]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    monkeypatch.undo()
    assert sheet(run, ["a"], monkeypatch).get_legend() is None
    whole = study_figures.drawn(Figure("f", "t", "update", "y", (Series("a", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),), ""))
    assert all(float(tick).is_integer() for tick in whole.axes[0].get_xticks())


def test_a_run_without_updates_is_listed(tmp_path):
    folder = run_folder(tmp_path / "a", updates=0)
    (folder / "events.jsonl").write_text("")
    assert re.search(r"a\s*dpo\s*0\s*0", Page(write_page([folder], tmp_path / "p.html")).text)


def test_a_ceiling_is_drawn_only_where_there_is_one():
    methods = SUMMARY["methods"]
    assert len(figures.frontier(methods, ceiling=SUMMARY["ceiling"])) > len(figures.frontier(methods))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: [], "report needs at least one RUN_DIR"),
        (lambda p: [p / "gone"], "report: no directory .*gone"),
        (lambda p: [p], "holds neither a run .events.jsonl. nor results"),
    ],
)
def test_what_is_no_run_is_said(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        write_page(make(tmp_path), tmp_path / "p.html")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("summary.json", "{", r"summary.json: not JSON"),
        ("summary.json", "[]", r"summary.json: must be a JSON object, got list"),
        ("credit.jsonl", "{}\n", r"credit.jsonl:1: not a text token by token"),
        ("events.jsonl", "7\n", r"events.jsonl: not an event log"),
    ],
)
def test_a_broken_file_is_named(tmp_path, file, text, message):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        write_page([tmp_path / "r"], tmp_path / "p.html")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_page([run_folder(tmp_path / "a")], tmp_path / "file" / "page.html")


def test_a_report_never_loads_a_model():
    code = "import tokenward.report.page, sys; print('transformers' in sys.modules, 'tokenward.models' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_token_without_credit_keeps_its_error_mark():
    text = _text(TokenRow("p", ("a", "b"), {"credit": (0.5, None)}, wrong=("", "fact")), 1.0)
    assert '<span class="wrong" title="fact">b</span>' in text and text.count("wrong") == 1


def test_all_texts_stand_on_a_page_beside_the_report(tmp_path):
    folders = [result_folder(tmp_path / "one" / "demo"), result_folder(tmp_path / "two" / "demo")]
    rows = [TokenRow("p", ("a",), {"value": (1.0,)}), *[TokenRow("p", ("a",), {"credit": (1.0,)})] * 12]
    write_rows(folders[1] / "credit <b>.jsonl", rows)
    page = Page(write_page(folders, tmp_path / "out" / "my page.html"))
    links = [unquote(a["href"]) for a in page.all("a")]
    assert links == [f"my page_{name}.html" for name in ("1_credit_dpo", "2_credit <b>", "2_credit_dpo")]
    assert all("<title>demo: credit" in (tmp_path / "out" / link).read_text(encoding="utf-8") for link in links)
    assert page.text.count("All 13 texts with every number") == 1 and page.text.count("The texts with every") == 2
