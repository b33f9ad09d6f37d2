"""Studies: their records, their pages, their command; and their numbers computed a second time in numpy."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.lab.plain import gibbs, kl, tv
from tests.places import ROOT
from tokenward.cli import main
from tokenward.cli.trained import TRAINED
from tokenward.errors import InputError
from tokenward.lab import verify
from tokenward.lab.worlds.world import default_world
from tokenward.lab.worlds.world_file import parse_world
from tokenward.report.study_page import shown, write_study
from tokenward.studies import STUDIES
from tokenward.studies import credit as credit_study
from tokenward.studies.study import Claim, Figure, Series, Study, Table, read, write
from tokenward.studies.worlds import bandit, with_prompts

LITTLE = Study(
    name="little",
    title="A <b>title</b> & more",
    question="Is <script>alert(1)</script> text?",
    world="one",
    claims=(
        Claim("true", "s", "c", 1.0, at_most=2.0),
        Claim("<i>false</i>", "s", "c", float("nan"), at_least=0.0, at_most=1.0),
    ),
    figures=(
        Figure(
            "lines",
            "t",
            "x",
            "y",
            (Series("a", [1.0, 2.0], [3.0, float("inf")], low=[1.0, 2.0], high=[4.0, 5.0]),),
            "c",
        ),
        Figure("bars", "t", "x", "y", (Series("a", ["p", "q"], [3.0, 4.0], style="bars"),), "c", y_scale="log"),
    ),
    tables=(Table("numbers", ("a", "b"), (("x", 1.5), ("y", None))),),
    notes=("a note",),
)


def test_a_study_survives_its_file(tmp_path):
    write(LITTLE, tmp_path / "data.jsonl")
    back = read(tmp_path / "data.jsonl")
    assert [c.holds for c in back.claims] == [True, False]
    assert math.isnan(back.claims[1].measured) and math.isinf(back.figures[0].series[0].y[1])
    plain = [replace(s, claims=(), figures=(), notes=()) for s in (LITTLE, back)]
    assert plain[0] == plain[1] and back.notes == ("a note",)
    for line in (tmp_path / "data.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_manual_names_every_field_of_every_record(tmp_path):
    write(LITTLE, tmp_path / "data.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8").splitlines()
    told = {line["kind"]: next(row for row in rows if row.startswith(f"| `{line['kind']}`")) for line in lines}
    assert set(told) == {"study", "claim", "table", "row", "figure", "series"}
    missing = [(line["kind"], name) for line in lines for name in line if f"`{name}`" not in told[line["kind"]]]
    assert {name for _, name in missing} == {"kind"}


def test_a_page_escapes_every_text_and_loads_nothing(tmp_path):
    write(LITTLE, tmp_path / "data.jsonl")
    text = write_study(tmp_path).read_text()
    assert "<script" not in text and "<b>" not in text and "&lt;b&gt;title" in text and "&lt;i&gt;false" in text
    assert "1 of 2 hold" in text and "does not hold" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert {p.name for p in tmp_path.iterdir()} >= {"lines.svg", "lines.png", "bars.svg", "bars.png", "index.html"}


@pytest.mark.parametrize(
    ("make", "say"),
    [
        (lambda: Claim("x", "s", "c", 1.0), "could not fail"),
        (lambda: Series("x", [1.0], [1.0, 2.0]), "differ in length"),
        (lambda: Table("x", ("a",), (("b", "c"),)), "1 cells"),
    ],
)
def test_records_refuse_what_they_cannot_mean(make, say):
    with pytest.raises(InputError, match=say):
        make()


def test_numbers_are_shown_with_the_digits_that_count():
    assert [shown(x) for x in (0.0, -3.0, 1e9, float("nan"), 1.23456e-7)] == ["0", "-3", "1e+09", "nan", "1.235e-07"]


def test_a_file_that_is_no_study_is_one_line(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"kind": "claim"}\n')
    with pytest.raises(InputError, match="run the study again"):
        read(tmp_path / "data.jsonl")


def test_the_command_names_what_it_knows(capsys):
    assert main(["study", "shfit", "--out", "nowhere"]) == 2
    assert "Did you mean 'shift'?" in capsys.readouterr().err
    assert main(["study"]) == 2 and "study takes --all or names" in capsys.readouterr().err
    assert main(["study", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in STUDIES)


def test_the_command_says_which_studies_train_and_takes_them_alone(capsys):
    assert main(["study", "--help"]) == 0
    told = capsys.readouterr().out
    assert " | ".join(TRAINED) in told and "`beam-width`\ntakes its tree and τ alone" in told
    assert main(["study", "targets", "credit"]) == 2
    assert capsys.readouterr().err == "tokenward: study credit trains models: name it alone\n"


def test_the_command_writes_a_study_and_its_page(tmp_path, capsys):
    world = {
        "tau": 0.5, "vocab": 3, "horizon": 1,
        "prompts": [{"ref": [0.5, 0.3, 0.2], "reward": [0.0, 1.0, -1.0]}],
    }  # fmt: skip
    (tmp_path / "world.json").write_text(json.dumps(world))
    assert main(["study", "connection", "--world", str(tmp_path / "world.json"), "--out", str(tmp_path)]) == 0
    assert "6 of 6 claims hold" in capsys.readouterr().out
    assert "3 sequences of 1 token, τ = 0.5" in read(tmp_path / "connection" / "data.jsonl").world
    assert (tmp_path / "connection" / "index.html").exists()


NOISY = {
    "ref": [0.5, 0.3, 0.2], "reward": [0.0, 1.0, 1.5],
    "labels": {"kind": "bradley-terry", "noise": 0.2}, "pairs": [[0, 1, 0.5], [1, 2, 0.5]],
}  # fmt: skip
EQUAL = {"ref": [0.1, 0.2, 0.7], "reward": [1.1, 1.1, 1.1]}
FEW = {
    "frontier": {"GRID": (1.0,), "DRAWS": (1, 4)},
    "reference": {
        "OTHERS": 5,
        "BETAS": (0.1, 10.0),
        "verify": SimpleNamespace(
            with_guides=lambda world: with_prompts(world, guide=world.ref[0]), answer=verify.answer
        ),  # DPO reads no guide
    },
    "credit-lab": {
        "PULLS": (0.0,),
        "_finite_claims": lambda runs: (),
        "_deciding_claims": lambda pulled: (),
        "_table": lambda runs, world: LITTLE.tables[0],
    },
}  # of the first two less of the grid; of the last what is about its own world is left out


@pytest.mark.parametrize("name", FEW)
def test_of_a_world_of_ones_own_theorems_alone_are_claimed_and_its_data_are_the_studys(name, monkeypatch):
    for key, value in FEW[name].items():
        monkeypatch.setattr(sys.modules[STUDIES[name].__module__], key, value)
    monkeypatch.setattr(credit_study, "_runs", lambda world, labels: RUNS)
    for prompt in (NOISY, EQUAL):
        found = STUDIES[name](parse_world({"tau": 0.7, "vocab": 3, "horizon": 1, "prompts": [prompt]}, name="w"))
        assert found.claims and not found.failed, [(claim.text, claim.measured) for claim in found.failed]
        assert not [claim.text for claim in found.claims if "rests below" in claim.text or "can rise" in claim.text]


RUNS = [
    credit_study.Run(n, seed, 0.5 + 0.01 * seed, 0.0)
    for n in credit_study.NUMBERS for seed in range(credit_study.SEEDS)
]  # fmt: skip


def test_an_interval_over_every_number_of_pairs_is_as_wide_as_seeds_differ():
    assert credit_study._mean(RUNS, None, "area") == pytest.approx(credit_study._mean(RUNS, 64, "area"))


# ------------------------------------------------------------ all studies, as a user runs them; their numbers in numpy


@pytest.fixture(scope="session")
def studied(tmp_path_factory) -> Path:
    """The folder of `tokenward study --all`, run once, in a process of its own without type checks."""
    folder = tmp_path_factory.mktemp("studies")
    words = [sys.executable, "-m", "tokenward.cli", "study", "--all", "--out", str(folder)]
    ran = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_claim_holds_on_the_studys_own_world(name, studied):
    study = read(studied / name / "data.jsonl")
    assert study.name == name and not study.failed, [claim.text for claim in study.failed]
    assert study.figures and len({figure.name for figure in study.figures}) == len(study.figures)
    assert f'href="{name}/index.html"' in (studied / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["targets", "connection", "kl-estimators", "temperature"])
def test_claims_hold_on_a_tree_and_on_a_bandit(name):
    assert not STUDIES[name](default_world()).failed
    assert not STUDIES[name](bandit()).failed


def bandit_numbers() -> tuple[np.ndarray, np.ndarray, float]:
    world = bandit()
    return world.prompts[0].ref.numpy(), world.prompts[0].reward.numpy(), world.tau


@pytest.mark.slow
def test_temperature_numbers_again(studied):
    ref, reward, _ = bandit_numbers()
    study = read(studied / "temperature" / "data.jsonl")
    series = {one.name: one for figure in study.figures for one in figure.series}
    taus = series["E[r] under π^τ"].x
    laws = [gibbs(ref, reward, tau) for tau in taus]
    np.testing.assert_allclose(series["E[r] under π^τ"].y, [law @ reward for law in laws], rtol=1e-9)
    np.testing.assert_allclose(series["KL(π^τ‖π_ref)"].y, [kl(law, ref) for law in laws], rtol=1e-9)
    np.testing.assert_allclose(series["its ceiling, log 1/π_ref(best)"].y, -np.log(ref[reward.argmax()]))


@pytest.mark.slow
def test_shift_numbers_again(studied):
    """The closed forms of three causes, written out; and the mass that answers never seen end up with."""
    ref, reward, tau = bandit_numbers()
    study = read(studied / "shift" / "data.jsonl")
    apart = dict(zip(study.figures[0].series[0].x, study.figures[0].series[0].y, strict=True))
    target = gibbs(ref, reward, tau)
    centered = np.where(np.arange(5) < 3, reward - reward[:3].mean(), 0.0)
    wave = ref * np.exp(np.cos(np.arange(5.0)))
    expected = {
        "all pairs": 0.0,
        "not all linked": tv(gibbs(ref, centered, tau), target),
        "chosen, rejected\nindependent": tv(gibbs(ref, np.log(wave / wave.sum() / ref), tau), target),
        "labels at\nT = 2": tv(gibbs(ref, reward, 2 * tau), target),
    }
    for name, value in expected.items():
        assert apart[name] == pytest.approx(value, abs=1e-6), name


def laplacian_spectrum(weight: np.ndarray) -> np.ndarray:
    """Eigenvalues of diag(w1) − w above the constant vector's 0."""
    return np.linalg.eigvalsh(np.diag(weight.sum(-1)) - weight)[1:]


@pytest.mark.slow
def test_rate_numbers_again(studied):
    """λ of each method on uniform pairs, step 1/λ_max: contraction 1 − λ_min/λ_max, from numpy eigenvalues."""
    ref, reward, tau = bandit_numbers()
    (table,) = read(studied / "rate" / "data.jsonl").tables
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    pairs = np.full((5, 5), 2 / 25) * (1 - np.eye(5))
    p = 1 / (1 + np.exp(-(reward[:, None] - reward)))
    target = gibbs(ref, reward, tau)
    own = np.linalg.eigvalsh(np.diag(target) - np.outer(target, target))[1:]
    tangent = np.eye(5) - target  # ∂ log π(y)/∂ logits, rows y
    expected = {
        "DPO": laplacian_spectrum(pairs * p * (1 - p)),
        "RDA": laplacian_spectrum(pairs),
        "RA, Z given": np.linalg.eigvalsh(tangent.T @ np.diag(ref) @ tangent)[1:],
        "BDA, own samples": own,
        "policy gradient": own,
    }
    for name, values in expected.items():
        assert rows[name]["contraction predicted"] == pytest.approx(1 - values[0] / values[-1], abs=1e-9), name
        assert rows[name]["condition number"] == pytest.approx(values[-1] / values[0], rel=1e-9), name


@pytest.mark.slow
def test_design_numbers_again(studied):
    """λ₂ and the error per label of the named designs, from numpy; the optimized one beats them."""
    ref, reward, tau = bandit_numbers()
    study = read(studied / "data-design" / "data.jsonl")
    table = study.tables[0]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    order = np.argsort(-reward)
    target = gibbs(ref, reward, tau)
    spread = np.diag(target) - np.outer(target, target)
    designs = {
        "complete": [(i, j) for i in range(5) for j in range(i)],
        "path of adjacent ranks": list(pairwise(order)),
        "star on the best": [(order[0], j) for j in order[1:]],
        "star on the worst": [(order[-1], j) for j in order[:-1]],
    }
    for name, edges in designs.items():
        curved = np.zeros((5, 5))
        for i, j in edges:
            p = 1 / (1 + np.exp(reward[j] - reward[i]))
            curved[i, j] = curved[j, i] = p * (1 - p) / len(edges)
        assert rows[name]["λ₂, DPO"] == pytest.approx(laplacian_spectrum(curved)[0], rel=1e-9), name
        inverse = np.linalg.pinv(np.diag(curved.sum(-1)) - curved)
        assert rows[name]["error × N"] == pytest.approx(np.trace(spread @ inverse) / (2 * tau**2), rel=1e-9), name
        assert rows["optimized"]["λ₂, DPO"] > rows[name]["λ₂, DPO"]


def test_a_world_that_a_study_cannot_use_is_one_line_and_the_others_go_on(tmp_path, capsys):
    world = {
        "tau": 0.5, "vocab": 2, "horizon": 2, "eos": 1,
        "prompts": [{"ref": [0.2, 0.3, 0.5], "reward": [1.0, 0.5, -0.5]}],
    }  # fmt: skip
    (tmp_path / "w.json").write_text(json.dumps(world))
    words = ["data-design", "temperature", "--world", str(tmp_path / "w.json"), "--out", str(tmp_path)]
    assert main(["study", *words]) == 2
    told = capsys.readouterr()
    assert told.err.strip().count("\n") == 0 and "give a world of horizon 1 with one prompt" in told.err
    assert (tmp_path / "temperature" / "index.html").exists() and not (tmp_path / "data-design").exists()
