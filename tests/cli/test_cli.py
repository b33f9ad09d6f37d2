"""The command line: what each command prints, what bad input gets, what the exit codes say."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tokenward
from tests import runs
from tokenward.cli import COMMANDS, USAGE, main
from tokenward.errors import RunError
from tokenward.recipes import build, maker
from tokenward.recipes.catalog import CATALOG
from tokenward.runlog import read
from tokenward.train import loop
from tokenward.train.config import OPTIONS, flag
from tokenward.train.runtime import Interrupted
from tokenward.train.settings import arguments

Captured = pytest.CaptureFixture[str]


def command(folder: Path, recipe: str, **more: object) -> list[str]:
    """The words of `train RECIPE` with the files it needs."""
    settings = {**runs.files(folder, recipe), "threads": 1, "learning_rate": 1e-2, **more}
    words = [word for name, value in settings.items() for word in (f"--{flag(name)}", str(value))]
    return ["train", recipe, *words]


def fails(words: list[str], *, code: int, capsys: Captured) -> list[str]:
    """The lines on stderr of a command that must end with the code, none of them a traceback."""
    capsys.readouterr()
    assert main(words) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("tokenward: ") for line in lines)
    return [line.removeprefix("tokenward: ") for line in lines]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train"], "train needs a RECIPE: `tokenward recipes` lists them"),
        (["train", "dop"], "unknown recipe 'dop'. Did you mean 'dpo'?"),
        (["train", "./absent.py:f"], "recipe './absent.py:f': no file absent.py; give file.py:function"),
        (["train", "dpo", "--model"], "--model needs a value"),
        (["train", "dpo", "--seed", "1", "--seed", "2"], "--seed stands twice: keep one"),
        (["train", "dpo", "ppo"], "train takes one RECIPE, got dpo ppo"),
        (["train", "--resume", "./absent"], "absent holds no run: there is no config.yaml in it"),
        (
            ["train", "dpo", "--resume", "x"],
            "--resume RUN_DIR goes on with the run as it was: give no recipe and no other flag",
        ),
        (["recipes", "dpoo"], "unknown recipe 'dpoo'. Did you mean 'dpo'?"),
        (["recipes", "--jsn"], "--jsn needs a value"),
        (["lab"], "lab needs a RECIPE, or --all"),
        (["lab", "dpo", "--bet", "1"], "neither lab nor dpo has a flag --bet. Did you mean 'beta'?"),
        (["lab", "dpo", "rda", "--wrld", "w"], "neither lab nor a recipe has a flag --wrld. Did you mean 'world'?"),
        (["lab", "dpo", "--world", "./absent.json"], None),
        (["study", "serch"], "unknown study 'serch'. Did you mean 'search'?"),
        (["study", "two-model", "targets"], "unknown study 'two-model'. Did you mean 'two-models'?"),
        (["eval", "--model", "m"], "eval needs data: give --data"),
        (["sample", "--promts", "p", "--model", "m"], "sample has no flag --promts. Did you mean 'prompts'?"),
        (["report", "./absent"], "report needs out: give --out PAGE.html"),
        (["data", "chek", "f"], "data has no command 'chek'. Did you mean 'check'?"),
        (["data", "check", "f"], "data check needs tokenizer: give --tokenizer"),
    ],
)
def test_bad_words_are_named(words: list[str], line: str | None, capsys: Captured) -> None:
    lines = fails(words, code=2, capsys=capsys)
    assert line is None or line in lines


def test_all_problems_of_a_run_are_told_at_once(tmp_path: Path, capsys: Captured) -> None:
    words = command(tmp_path, "dpo", learning_rate="fast", bta=0.2)
    words[words.index("--model") + 1] = ""
    assert sorted(fails(words, code=2, capsys=capsys)) == [
        "learning_rate must be a number, got 'fast'",
        "model is missing: give --model",
        "unknown flag --bta. Did you mean 'beta'?",
    ]


def test_a_failed_run_ends_with_1(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RunError("the loss is NaN")

    monkeypatch.setattr(loop, "train", fail)
    assert fails(command(tmp_path, "dpo"), code=1, capsys=capsys) == ["the loss is NaN"]
    monkeypatch.setenv("TOKENWARD_DEBUG", "1")
    with pytest.raises(RunError):
        main(command(tmp_path, "dpo", out=tmp_path / "other"))


def test_train_then_everything_that_reads_a_run(tmp_path: Path, capsys: Captured) -> None:
    assert main([*command(tmp_path, "dpo", updates=20, log_every=5), "--beta", "0.3"]) == 0
    out, model = tmp_path / "run", str(tmp_path / "run" / "model")
    printed = capsys.readouterr().out
    assert "dpo: 24 pairs from" in printed and "20 updates, 2 a pass; 16 rows an update" in printed
    assert printed.count("\nupdate ") == 5 and f"{model}\n" in printed
    assert yaml.safe_load((out / "config.yaml").read_text())["beta"] == 0.3

    pairs, prompts = (
        str(tmp_path / "pairs.jsonl"),
        runs.jsonl(tmp_path / "prompts.jsonl", runs.rows("rollouts", count=3)),
    )
    assert main(["eval", "--model", model, "--ref", str(tmp_path / "base"), "--data", pairs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1
    for more in ([], ["--strategy", "beam", "--n", "2"], ["--strategy", "best-of-n", "--n", "2", "--by", "likelihood"]):
        assert main(["sample", "--model", model, "--prompts", prompts, "--max-new-tokens", "4", *more]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(found) == 3 and all(1 <= one["tokens"] <= 4 and one["logp"] < 0 for one in found)
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "rewards/margins" in (tmp_path / "page.html").read_text()
    assert main(["data", "check", pairs, "--tokenizer", model]) == 0
    assert "24 rows, 24 usable" in capsys.readouterr().out
    assert main(["data", "show", pairs, "--tokenizer", model, "--first", "1", "--count", "2"]) == 0
    assert capsys.readouterr().out.count(" response ") == 4


def test_from_repeats_a_run_to_the_bit(tmp_path: Path) -> None:
    assert main([*command(tmp_path, "simpo", updates=3), "--gamma", "0.7"]) == 0
    again = tmp_path / "again"
    assert main(["train", "--from", str(tmp_path / "run"), "--out", str(again)]) == 0
    for one, two in zip(runs.weights(tmp_path / "run" / "model"), runs.weights(again / "model"), strict=True):
        assert one.equal(two)
    first, second = (yaml.safe_load((path / "config.yaml").read_text()) for path in (tmp_path / "run", again))
    assert {key for key in first if first[key] != second[key]} == {"out"}


def test_from_without_out_would_be_the_same_directory(tmp_path: Path, capsys: Captured) -> None:
    assert main(command(tmp_path, "dpo", updates=1)) == 0
    capsys.readouterr()
    assert fails(["train", "--from", str(tmp_path / "run")], code=2, capsys=capsys) == ["out is missing: give --out"]


def test_a_file_gives_recipe_keywords_and_settings_and_flags_win(tmp_path: Path) -> None:
    settings = {**runs.files(tmp_path, "dpo"), "recipe": "dpo", "updates": 2, "beta": 0.3, "learning_rate": "1e-3"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--beta", "0.4"]) == 0
    found = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (found["beta"], found["learning_rate"], found["updates"]) == (0.4, 1e-3, 2)


def test_a_recipe_of_ones_own_file_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tokenward.recipes.preference import dpo\n\n\ndef mine(*, pull: float = 0.1):\n"
        '    """DPO by another name."""\n    return dpo(beta=pull)\n'
    )
    words = command(tmp_path, "dpo", updates=1)
    words[1] = f"{tmp_path / 'mine.py'}:mine"
    assert main([*words, "--pull", "0.5"]) == 0
    assert "beta=0.5" in (tmp_path / "run" / "recipe.txt").read_text()


def test_data_that_a_run_refuses_ends_with_2(tmp_path: Path, capsys: Captured) -> None:
    words = command(tmp_path, "dpo")
    rows = runs.rows("pairs", count=10)
    rows[3] = {**rows[3], "rejected": rows[3]["chosen"]}
    data = runs.jsonl(tmp_path / "pairs.jsonl", rows)
    (line,) = fails(words, code=2, capsys=capsys)
    assert "1 of 10 rows dropped (10 %): 1 identical chosen and rejected; first:" in line and "pairs.jsonl:4" in line
    assert main(["data", "check", data, "--tokenizer", str(tmp_path / "base")]) == 2
    assert main([*words, "--max-dropped", "0.1", "--updates", "1"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_what_a_signal_ends_with(
    number: int, code: int, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise Interrupted("saved", signal=number)

    monkeypatch.setattr(loop, "train", stopped)
    assert fails(command(tmp_path, "dpo"), code=code, capsys=capsys) == ["saved"]


@pytest.mark.slow
def test_ctrl_c_saves_and_tells_how_to_go_on(tmp_path: Path) -> None:
    words = command(tmp_path, "dpo", updates=100_000, log_every=1, save_every=0)
    source = str(Path(tokenward.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tokenward.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert any(line.startswith("update 3/") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    error = process.stderr.read()
    assert process.wait(timeout=60) == 130
    out = tmp_path / "run"
    (step,) = (out / "checkpoints").iterdir()
    reached = int(step.name.removeprefix("step-"))
    assert f"saved at update {reached} of 100000; go on with: tokenward train --resume {out}" in error
    assert read(out / "events.jsonl")[-1]["update"] == reached >= 3


def test_lab_prints_its_answers_as_json(capsys: Captured) -> None:
    assert main(["lab", "dpo", "rloo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["recipe"] for one in found] == ["dpo", "rloo"] and all(one["tv"] < 1e-4 for one in found)
    assert main(["lab", "rloo", "--kl", "loss_k2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["target"] == "myopic"


def test_recipes_lists_every_method(capsys: Captured) -> None:
    assert main(["recipes", "--json"]) == 0
    found = {one["recipe"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["rto"]["streams"] == ["rollouts"] and "guide_logp" in found["rto"]["needs"] and len(found) >= 22
    assert main(["recipes", "simpo"]) == 0
    printed = capsys.readouterr().out
    assert "--gamma" in printed and "@misc{" in printed
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert rows["tier"].split() == ["tier", "B"] and rows["optimum"].split(maxsplit=1)[1] == "no closed form"
    assert "Mistral" in rows["defaults"]
    assert main(["recipes", "dpo"]) == 0
    assert "\noptimum   boltzmann, shares π^τ\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", CATALOG)
def test_the_source_of_every_default_is_said(name: str) -> None:
    said = CATALOG[name].defaults
    words = set(re.findall(r"\w+", said))
    assert "the rest:" in said or set(inspect.signature(CATALOG[name].make).parameters) <= words


MINE = """
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tokenward.objective.recipe import Recipe
from tokenward.recipes import build

if TYPE_CHECKING:
    from collections.abc import Mapping


def my(*, beta: float = 0.1) -> Recipe:
    dpo = build("dpo", beta=beta)
    return Recipe("my", ("Mine et al. 2026",), dpo.streams, dpo.terms)


def three():
    return 3


def zero():
    return 1 / 0


def annotated(*, beta: float = 0.1, more: Mapping | None = None) -> Mapping:
    return my(beta=beta)


part = partial(my, beta=0.3)
"""


def test_a_recipe_of_ones_own_may_name_a_source_of_its_own(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    assert main(["recipes", f"{tmp_path}/mine.py:my"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("\nMine et al. 2026\n") and "\ntier      C\n" in printed


@pytest.mark.parametrize("name", ["my", "annotated", "part"])
def test_types_that_only_checkers_see_cost_no_number_its_type(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    spec = f"{tmp_path}/mine.py:{name}"
    assert arguments(maker(spec), {"beta": "0.2"}, of="mine") == {"beta": 0.2}
    assert build(spec, beta=0.2) == build(f"{tmp_path}/mine.py:my", beta=0.2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:three", "mine.py:three' must return a Recipe, got int"),
        ("mine.py:zero", "mine.py:zero' failed: ZeroDivisionError: division by zero, mine.py line 24"),
        ("mine.py", "names no function: give file.py:function; the file has: my, three, zero, annotated"),
        ("gone.py", "gone.py' names no function: give file.py:function; there is no file "),
        ("bad.py:x", "importing it raised ModuleNotFoundError: No module named 'nothing_here', bad.py line 1"),
    ],
)
@pytest.mark.parametrize("words", [["recipes"], ["lab"], ["train", "--model", "x", "--data", "y", "--out", "z"]])
def test_a_recipe_of_ones_own_that_is_none_gets_one_line(
    words: list[str], name: str, said: str, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "bad.py").write_text("import nothing_here\n", encoding="utf-8")
    (line,) = fails([words[0], f"{tmp_path}/{name}", *words[1:]], code=2, capsys=capsys)
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "ppo", "--beta-kl", "0.1"], "recipes has no flag --beta-kl."),
        (["lab", "ppo", "--beta-kll", "1"], "neither lab nor ppo has a flag --beta-kll. Did you mean 'beta-kl'?"),
        (["train", "dpo", "--config", "gone.yaml"], "--config: no file gone.yaml"),
        (["lab", "dpo", "--world", "gone.json"], "world: no file gone.json"),
    ],
)
def test_what_was_typed_is_what_is_named(words: list[str], said: str, capsys: Captured) -> None:
    (line,) = fails(words, code=2, capsys=capsys)
    assert line.startswith(said)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: Captured) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == USAGE
    assert all(f"  tokenward {name}" in USAGE for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Captured) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.strip()


def test_the_help_of_train_lists_every_key(capsys: Captured) -> None:
    assert main(["train", "rto", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in (*OPTIONS, "beta_guide", "guide_clip"):
        assert f"  --{flag(name)} " in printed, name


def test_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tokenward {tokenward.__version__}\n"
