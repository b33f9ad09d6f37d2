"""`tokenward credit` end to end: run directories, recipes by flags, what is refused and how."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests import runs, tiny
from tokenward.cli import main
from tokenward.data.tokenize import Limits
from tokenward.diagnose.lens.record import BLOCK, credit
from tokenward.diagnose.lens.request import Request
from tokenward.diagnose.lens.rows import TokenRow, read_rows, write_rows
from tokenward.diagnose.lens.run_directory import trained
from tokenward.diagnose.lens.texts import read, scored
from tokenward.errors import InputError, RunError
from tokenward.models import load
from tokenward.models.save import save_reward_model
from tokenward.models.value_head import load_value_head
from tokenward.recipes import RECIPES
from tokenward.report import reference_page
from tokenward.train import loop

PAIRS = [
    {"prompt": "w3 w4", "chosen": "w5 w6 w7", "rejected": "w8"},
    {"prompt": "w9", "chosen": "w5", "rejected": "w6"},
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A policy, a reference, one of another vocabulary, and pairs."""
    folder = tmp_path_factory.mktemp("lens")
    for name, seed in (("m", 0), ("r", 1)):
        tiny.saved(folder / name, seed=seed)
    tiny.llama(vocabulary=30).save_pretrained(folder / "small")
    tiny.word_tokenizer(size=30).save_pretrained(folder / "small")
    runs.jsonl(folder / "pairs.jsonl", PAIRS)
    return folder


def words(here, out, **more):
    flags = {"model": here / "m", "ref": here / "r", "beta": 0.3, "data": here / "pairs.jsonl", "out": out, **more}
    return ["credit", *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None)]


def about(folder):
    return json.loads((Path(folder) / "credit.json").read_text())


def test_a_page_its_rows_and_what_they_are(here, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(words(here, out)) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out / "credit.html") and "2 of 2 rows" in told.err
    assert sorted(path.name for path in out.iterdir()) == ["credit.html", "credit.json", "credit.jsonl"]
    assert len(read_rows(out / "credit.jsonl")) == 4
    found = about(out)
    assert found["format"] == "tokenward credit 1" and found["models"]["ref"]["path"] == str(here / "r")
    assert all(set(value) == {"label", "unit", "formula"} for value in found["values"].values())
    assert found["data"]["sha256"] and found["versions"]["torch"] == torch.__version__
    assert main(words(here, out, limit=1)) == 0  # its own earlier output is replaced
    assert len(read_rows(out / "credit.jsonl")) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ref": None}, "credit of .*m compares with a reference: give --ref, or a run directory"),
        ({"beta": None}, "credit = β·log π/π_ref needs β: give --beta"),
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"ref": "small"}, "ref = .*small has another tokenizer than the policy .* compares the same token ids"),
        ({"data": "none.jsonl"}, "data .*none.jsonl: there is no such file"),
        ({"data": "empty.jsonl"}, "empty.jsonl has no rows: give a file with at least one"),
        ({"data": "prompts.jsonl"}, "holds prompts, and credit looks at texts: write some first with tokenward sample"),
        ({"recipe": "dop"}, "dop.*Did you mean 'dpo'"),
        ({"recipe": "reinforce"}, "recipe reinforce learns from texts of the policy .* holds pairs"),
        ({"recipe": "reward_model"}, "trains a reward model, which has no law of tokens"),
        ({"recipe": "dpo", "bta": 1}, r"credit has no flag --bta.*Did you mean 'beta'"),
        ({"guide": "m"}, "guide and guide_ref are read by recipes with a guide"),
        ({"limit": 0}, "limit must be 1 or more, got 0"),
        ({"device": "cuda"}, "device = cuda, but torch sees no GPU here: leave it out or give --device cpu"),
        (
            {"recipe": "ppo", "xyzzy": 1},
            r"credit has no flag --xyzzy\. Known: .*beta-kl.*guide.*lam,.*recipe",
        ),
        (
            {"data": "turns.jsonl"},
            r"turns.jsonl:1: spans: spans are characters of one answer .* several turns or steps",
        ),
        ({"data": "sides_of_turns.jsonl"}, r"sides_of_turns.jsonl:1: chosen_spans: spans are characters of one answer"),
        ({"sentence_ends": "."}, "sentence_ends is read by recipes that count sentences, such as drto"),
        ({"out": "folders"}, "holds credit.jsonl, which is no output of credit"),
        ({"out": "taken"}, "holds letter.txt, which is no output of credit: give another --out"),
        ({"data": "texts.jsonl", "recipe": "rto"}, "recipe rto needs guide_logp: give a guide"),
        ({"data": "texts.jsonl", "recipe": "ppo"}, "recipe ppo needs old_value: give a critic with --critic"),
        ({"data": "texts.jsonl", "recipe": "rloo"}, "compares 2 or more texts of a prompt: 1 of 1 prompts have fewer"),
        ({"data": "texts.jsonl", "recipe": "xpo"}, "compares with rollouts, .*which a file of texts does not have"),
        ({"data": "spans.jsonl"}, r"spans.jsonl:1: wrong_spans: a span is \[start, end, name\]"),
        ({"data": "far.jsonl"}, r"far.jsonl:1: wrong_spans: a span ends in the text, of 2 characters"),
        ({"data": "sides.jsonl"}, r"sides.jsonl:1: rejected_spans: a span ends in the text, of 2 characters"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(here, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runs.jsonl(here / "empty.jsonl", [])
    runs.jsonl(here / "prompts.jsonl", [{"prompt": "w3"}])
    runs.jsonl(here / "texts.jsonl", [{"prompt": "w3", "completion": "w4", "score": 1.0}])
    runs.jsonl(here / "spans.jsonl", [{"prompt": "w3", "completion": "w4", "wrong_spans": [[0, 1]]}])
    runs.jsonl(here / "far.jsonl", [{"prompt": "w3", "completion": "w4", "wrong_spans": [[0, 900, "x"]]}])
    sides = {"prompt": "w3", "chosen": "w4", "rejected": "w5", "rejected_spans": [[1, 3, "x"]]}
    runs.jsonl(here / "sides.jsonl", [sides])
    turns = [{"role": "assistant", "content": "w4"}]
    runs.jsonl(here / "turns.jsonl", [{"prompt": "w3", "turns": turns, "spans": [[0, 2, "x"]]}])
    sides = {"prompt": "w3", "chosen_turns": turns, "rejected_turns": [{**turns[0], "content": "w5"}]}
    runs.jsonl(here / "sides_of_turns.jsonl", [{**sides, "chosen_spans": [[0, 2, "x"]]}])
    (here / "taken").mkdir(exist_ok=True)
    (here / "folders" / "credit.jsonl").mkdir(parents=True, exist_ok=True)
    (here / "taken" / "letter.txt").write_text("dear")
    paths = {
        key: here / value if key in ("ref", "data", "guide", "out") and value else value for key, value in more.items()
    }
    assert main(words(here, **{"out": tmp_path / "out", **paths})) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tokenward: ")
    assert re.search(message, lines[0]), lines[0]
    assert not (paths.get("out", tmp_path / "out") / "credit.jsonl").is_file()


def test_the_help_of_a_recipe_lists_its_flags_too(capsys):
    assert main(["credit", "--recipe", "ppo", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.index("--model") < told.index("flags of ppo:") < told.index("--lam")


def test_a_recipe_takes_its_keywords_from_the_flags(here, tmp_path):
    data = runs.jsonl(tmp_path / "t.jsonl", [{"prompt": "w3", "completion": "w4 w5", "score": s} for s in (1.0, 0.0)])
    assert main(words(here, tmp_path / "out", data=data, recipe="rloo", beta_kl=0.25)) == 0
    one, two = read_rows(tmp_path / "out" / "credit.jsonl")
    ratio = one.totals["ratio"]
    assert one.totals["reward"] == pytest.approx(1.0 - 0.25 * ratio, abs=1e-5)
    assert one.values["advantage"][0] == pytest.approx(1.0, abs=1e-5) and two.totals["score"] == 0.0


def test_a_run_directory_tells_the_reference_beta_and_temperature(tmp_path, capsys):
    config = runs.config(tmp_path, "dpo", updates=2, temperature=2.0)
    loop.run(config, "dpo", keywords={"beta": 0.7}, show="nothing")
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["credit", "--model", str(run), "--data", config.data, "--out", str(out), "--limit", "3"]) == 0
    assert f"from {run / 'config.yaml'} (dpo): beta = 0.7" in capsys.readouterr().err
    found = about(out)
    assert (found["beta"], found["temperature"]) == (0.7, 2.0)
    assert found["models"]["model"]["path"] == str(run / "model")
    assert found["models"]["ref"]["path"] == str(tmp_path / "base")
    moved = [x for row in read_rows(out / "credit.jsonl") for x in row.values["credit"]]
    assert any(abs(x) > 1e-3 for x in moved)
    assert main(["credit", "--model", str(run), "--data", config.data, "--out", str(out), "--beta", "2"]) == 0
    assert about(out)["beta"] == 2.0
    assert main(["credit", "--model", str(run), "--data", config.data, "--out", str(out), "--recipe", "dpo"]) == 0
    chosen, rejected, *_ = read_rows(out / "credit.jsonl")  # the run's own keywords: β = 0.7
    z = chosen.totals["credit"] - rejected.totals["credit"]
    push = 1 / (1 + math.exp(z)) - 0.1  # the target of these pairs is 0.9
    assert chosen.values["weight"][0] == pytest.approx(0.7 * push, rel=1e-4)


def a_run(folder, **settings):
    """A directory as a run leaves it, with these settings."""
    tiny.saved(folder / "model")
    lines = {"model": str(tiny.saved(folder.parent / "base", seed=1)), **settings}
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return str(folder)


def test_the_recipe_of_a_run_that_is_a_file_runs_only_where_it_was_asked_for(here, tmp_path, capsys):
    own, ran = tmp_path / "own.py", tmp_path / "ran"
    own.write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom tokenward.recipes.preference import dpo\n\n"
        "def make(*, beta: float = 0.1):\n    return dpo(beta=beta)\n"
    )
    run = a_run(tmp_path / "run", recipe=f"{own}:make", beta=0.3)
    flags = {"model": run, "ref": None, "beta": None}
    assert main(words(here, tmp_path / "out", **flags)) == 0 and not ran.exists()
    told = capsys.readouterr().err
    assert (
        f"a file, which is not run unasked: --recipe {own}:make adds its" in told
        and about(tmp_path / "out")["beta"] == 0.3
    )
    assert main(words(here, tmp_path / "out", **flags, recipe=f"{own}:make")) == 0 and ran.exists()
    assert "unasked" not in capsys.readouterr().err
    chosen, rejected, *_ = read_rows(tmp_path / "out" / "credit.jsonl")
    push = 0.3 / (1 + math.exp(chosen.totals["credit"] - rejected.totals["credit"]))
    assert chosen.values["weight"][0] == pytest.approx(push, rel=1e-4)  # the run's own β
    a_run(tmp_path / "run", recipe=f"{own}:make")
    assert main(words(here, tmp_path / "out", **flags)) == 2
    assert "is a file, which is not run unasked, and the config has no number): give --beta" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "dpo", "beta": "abc"}, "config.yaml: beta must be a number, got 'abc'"),
        ({"recipe": "own.py:make", "beta": "[1]"}, "config.yaml: beta must be a number, got \\[1\\]"),
        ({"recipe": "rebel", "eta": "abc"}, "config.yaml: eta must be a number, got 'abc'"),
        ({"recipe": "dpo", "beta": -1}, "config.yaml: beta must be > 0, got -1.0"),
        ({"recipe": "dpo", "temperature": "hot"}, "config.yaml: temperature must be a number, got 'hot'"),
        ({"recipe": "dpo", "temperature": -1}, "config.yaml: temperature must be > 0, got -1.0"),
        ({"recipe": "dpo", "temperature": 0}, "config.yaml: temperature must be > 0, got 0.0"),
        ({"recipe": "dpo", "beta": 10**400}, "config.yaml: beta must be a number, got 1000"),
    ],
)
def test_settings_of_a_run_that_are_no_numbers_are_refused_by_their_file(tmp_path, settings, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in {"model": "m", **settings}.items()))
    with pytest.raises(InputError, match=message):
        trained(str(tmp_path))


def test_sentences_end_where_those_of_the_run_did(here, tmp_path, capsys):
    data = runs.jsonl(tmp_path / "t.jsonl", [{"prompt": "w3", "completion": "w5 w6 w7 w8", "score": 1.0}])
    run = a_run(tmp_path / "run", recipe="rto", sentence_ends="'6'")
    critic = save_reward_model(tiny.tiny(value_head=True), load.tokenizer(str(here / "m")), tmp_path / "critic")
    more = {"model": run, "recipe": "rto", "placement": "sentence", "guide": here / "r", "critic": critic, "data": data}
    assert main(words(here, tmp_path / "out", **more)) == 0
    assert "config.yaml (rto): sentence_ends = '6'" in capsys.readouterr().err
    assert read_rows(tmp_path / "out" / "credit.jsonl")[0].segment == (0, 0, 1, 1, 1)
    assert main(words(here, tmp_path / "out", **more, sentence_ends="")) == 0
    assert "sentence_ends" not in capsys.readouterr().err
    assert read_rows(tmp_path / "out" / "credit.jsonl")[0].segment == (0, 0, 0, 0, 0)  # one a turn


def test_a_file_whose_name_is_no_utf8_is_read_and_named(here, tmp_path, monkeypatch):
    data = runs.jsonl(tmp_path / os.fsdecode(b"p\xff.jsonl"), PAIRS)
    assert main(words(here, tmp_path / "out", data=data)) == 0
    assert read_rows(tmp_path / "out" / "credit.jsonl")[0].where == f"{data}:1"
    assert about(tmp_path / "out")["data"]["source"] == data
    monkeypatch.setattr(reference_page, "reference_page", lambda found: f"of {data}")
    found = object.__new__(reference_page.ReferenceReport)
    assert reference_page.write_reference_page(found, tmp_path).read_text() == f"of {tmp_path}/p?.jsonl"


def test_rows_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "credit.jsonl").mkdir()
    with pytest.raises(InputError, match=r"credit.jsonl cannot be written: Is a directory"):
        write_rows(tmp_path / "credit.jsonl", [])


def test_texts_that_are_cut_are_marked_counted_and_told(here, tmp_path, capsys):
    rows = [{"prompt": "w3", "completion": "w4 w5 w6"}, {"prompt": "w3 w4 w5", "completion": "w6"}]
    data = runs.jsonl(tmp_path / "t.jsonl", rows)
    assert main(words(here, tmp_path / "out", data=data, max_tokens=4, temperature=2.0)) == 0
    told = capsys.readouterr().err
    assert "2 of 2 texts were cut: longer with prompt than 4 tokens (--max-tokens)" in told
    assert "temperature 2 divides the logits" in told
    assert [row.totals.get("cut") for row in read_rows(tmp_path / "out" / "credit.jsonl")] == [1.0, 1.0]
    assert about(tmp_path / "out")["counts"]["cut"] == 2 and any(
        "were cut" in n for n in about(tmp_path / "out")["notes"]
    )
    assert main(words(here, tmp_path / "out", data=data, max_tokens=5, max_prompt_tokens=2)) == 0
    told = capsys.readouterr().err
    assert "were cut" not in told and "1 of 2 rows read have a prompt cut to its last 2 tokens" in told
    assert all("cut" not in row.totals for row in read_rows(tmp_path / "out" / "credit.jsonl"))
    assert about(tmp_path / "out")["counts"]["cut"] == 0


@pytest.mark.parametrize(("pull", "told"), [(0.25, True), (0.3, False)])
def test_a_recipe_of_another_beta_is_told(here, tmp_path, capsys, pull, told):
    data = runs.jsonl(tmp_path / "t.jsonl", [{"prompt": "w3", "completion": "w4 w5", "score": s} for s in (1.0, 0.0)])
    assert main(words(here, tmp_path / "out", data=data, recipe="rloo", beta_kl=pull)) == 0
    assert (f"credit has β = 0.3, recipe rloo has {pull:g}: reward" in capsys.readouterr().err) == told


@dataclass(frozen=True)
class Sometimes:
    """A reward that gives a number to the first text alone."""

    name: str = "sometimes"

    def score(self, rollouts, prompts):
        return [replace(r, score=0.0 if i == 0 else None) for i, r in enumerate(rollouts)]


def test_a_reward_that_gives_no_number_is_refused(here, tmp_path):
    data = runs.jsonl(
        tmp_path / "t.jsonl", [{"prompt": "w3", "completion": "w4"}, {"prompt": "w3", "completion": "w5"}]
    )
    given = read(data, tokenizer=load.tokenizer(str(here / "m")), limits=Limits())
    with pytest.raises(InputError, match=r"t.jsonl:2: the reward gave no number to 1 of 2 texts"):
        scored(given, Sometimes())


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_the_critic_of_a_run_is_read_from_its_directory(tmp_path, critic):
    config = runs.config(tmp_path, "ppo", updates=2, critic=critic, critic_learning_rate=0.1)
    loop.run(config, "ppo", show="nothing")
    run = tmp_path / "run"
    found = trained(str(run))
    assert (found.critic is None, found.value_head is None) == ((True, False) if critic == "shared" else (False, True))
    data = runs.jsonl(tmp_path / "t.jsonl", [{"prompt": "w3 w4", "completion": "w5 w6"}])
    written = credit(Request(model=str(run), data=data, out=str(tmp_path / "out")), show="none")
    (row,) = read_rows(written.folder / "credit.jsonl")
    if critic == "shared":
        model = load_value_head(load.policy(found.model, value_head=True), Path(found.value_head))
    else:
        model = load.critic(found.critic)
    with torch.no_grad():
        states = model.backbone(input_ids=torch.tensor([[3, 4, 5, 6, tiny.EOS]])).last_hidden_state[0]
        wanted = (states @ model.value_head.weight[0])[1:4].tolist()
    assert row.values["value"] == pytest.approx(wanted, abs=1e-5) and any(abs(x) > 1e-3 for x in wanted)
    own = about(tmp_path / "out")["models"]["critic"]
    request = Request(model=str(tmp_path / "base"), critic=str(run), data=data, out=str(tmp_path / "given"))
    (given,) = read_rows(credit(request, show="none").folder / "credit.jsonl")
    assert given.values["value"] == pytest.approx(wanted, abs=1e-5)
    told = about(tmp_path / "given")["models"]["critic"]
    trunk = run / ("model" if critic == "shared" else "critic")
    assert (told["path"], told["sha256"]) == (str(run), load.fingerprint(str(trunk)))
    head = hashlib.sha256(Path(found.value_head).read_bytes()).hexdigest() if critic == "shared" else None
    assert told.get("head_sha256") == head
    assert own == (told if critic == "shared" else {**told, "path": str(run / "critic")})


def test_a_run_without_its_model_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: dpo\nmodel: m\n")
    with pytest.raises(InputError, match="has not written its model: go on with tokenward train --resume"):
        trained(str(tmp_path))


def test_blocks_are_joined_in_the_order_of_the_file(here, tmp_path):
    rows = [{"prompt": "w3", "completion": f"w{3 + i % 30}"} for i in range(BLOCK + 3)]
    data = runs.jsonl(tmp_path / "t.jsonl", rows)
    given = {"model": str(here / "m"), "ref": str(here / "r"), "beta": 1.0, "data": data, "alternatives": 2}
    written = credit(Request(out=str(tmp_path / "out"), **given), show="none")
    found = read_rows(written.folder / "credit.jsonl")
    assert [row.where for row in found] == [f"{data}:{i + 1}" for i in range(BLOCK + 3)]
    assert [row.alternatives is not None for row in found] == [True] * 2 + [False] * (BLOCK + 1)
    for name, values in found[BLOCK].values.items():  # the same text in another block
        assert values == pytest.approx(found[BLOCK - 30 * 8].values[name], abs=1e-6)


def test_a_number_that_is_none_stops_and_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "credit.jsonl"
    write_rows(path, [TokenRow("p", ("a",), {"credit": (1.0,)})])
    with pytest.raises(RunError, match="f:2: kl is NaN or infinite"):
        write_rows(path, iter([TokenRow("p", ("a",), {"kl": (float("nan"),)}, where="f:2")]))
    assert [row.values for row in read_rows(path)] == [{"credit": (1.0,)}] and len(list(tmp_path.iterdir())) == 1


def test_recipe_keywords_and_flags_of_credit_have_different_names():
    own = set(inspect.signature(Request).parameters) - {"beta"}
    assert {name: own & set(inspect.signature(make).parameters) for name, make in RECIPES.items()} == {
        name: set() for name in RECIPES
    }
