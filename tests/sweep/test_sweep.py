"""Sweeps: files into jobs, jobs into records, records into intervals, a table and a page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests import runs
from tests.places import ROOT
from tokenward.cli import main
from tokenward.errors import InputError
from tokenward.sweep import job as jobs
from tokenward.sweep import results
from tokenward.sweep import run as sweeps
from tokenward.sweep.frontier import bands, figure
from tokenward.sweep.page import learning, page
from tokenward.sweep.plan import read_sweep
from tokenward.train.runtime import Interrupted

HELDOUT = {"prompt", "reward", "kl", "length", "cut"}
RECORD = {"job", "method", "point", "seed", "recipe", "settings", "status", "error", "heldout", "training"}


def file(folder: Path, **changes: object) -> Path:
    """A sweep of RLOO on a tiny model, with other keys on top."""
    given = runs.files(folder, "rloo", count=6)
    given = {key: value for key, value in given.items() if key != "out"}
    settings = {**given, "epochs": 1, "updates": 4, "learning_rate": 1e-2}
    found: dict[str, object] = {
        "settings": settings,
        "methods": {"rloo": {"group": 2}},
        "seeds": [0],
        "measure": {"data": given["data"], "samples": 2},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**found, **changes}, sort_keys=False), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------- the file


def test_every_list_multiplies_and_what_a_method_says_wins(tmp_path: Path) -> None:
    methods = {"rloo": {"group": 2}, "mine": {"recipe": "grpo", "beta_kl": 0.3, "learning_rate": [1e-3, "1e-4"]}}
    found = read_sweep(file(tmp_path, methods=methods, grid={"beta_kl": [0.1, 0.2]}, seeds=[3, 4]))
    start, *rest = found.jobs
    assert (start.method, start.recipe) == ("start", "")
    assert [job.name for job in rest] == [
        *(f"rloo-beta_kl={b}-seed={s}" for b in (0.1, 0.2) for s in (3, 4)),
        *(f"mine-learning_rate={r}-seed={s}" for r in ("0.001", "1e-4") for s in (3, 4)),
    ]
    assert rest[0].settings["beta_kl"] == 0.1 and rest[0].point == {"beta_kl": 0.1}
    assert {job.settings["beta_kl"] for job in rest[4:]} == {0.3} and rest[4].recipe == "grpo"
    assert all(job.settings["threads"] == 1 and job.settings["seed"] == job.seed for job in rest)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {}}, "unknown key 'method'. Did you mean 'methods'?"),
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"a/b": {}}}, "method 'a/b': must be a name without '/'"),
        ({"methods": {"start": {}}}, "not 'start'"),
        ({"methods": {"rloo": {"seed": 1}}}, "method rloo: seed is given by the sweep"),
        ({"methods": {"rlo": {}}}, "method rlo: unknown recipe 'rlo'. Did you mean 'rloo'?"),
        ({"methods": {"rloo": {"grup": 2}}}, "method rloo: unknown key 'grup' in the file. Did you mean 'group'?"),
        ({"methods": {"rloo": {"group": 1}}}, "method rloo: group = 1: rloo needs 2 or more"),
        ({"methods": {"rloo": {"critic": "own"}}}, "method rloo: critic = 'own' has no effect here"),
        ({"methods": {"a b": {"recipe": "rloo"}, "a_b": {"recipe": "rloo"}}}, "two jobs are called a_b-seed=0"),
        ({"grid": {"beta_kl": 0.1}}, "grid.beta_kl must be a list with values, got 0.1"),
        ({"grid": {"beta_kl": []}}, "grid.beta_kl must be a list with values"),
        ({"grid": {"out": ["x"]}}, "out is given by the sweep"),
        ({"seeds": [-1]}, "seeds must be a list of whole numbers"),
        ({"measure": {"samples": 2}}, "measure needs data"),
        ({"measure": {"data": "nowhere.jsonl"}}, "measure.data = nowhere.jsonl: no such file"),
        ({"measure": {"data": "x", "sample": 2}}, "unknown key measure.sample. Did you mean 'samples'?"),
        ({"settings": {"model": "m", "data": "d"}}, "measure needs reward"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError) as error:
        read_sweep(file(tmp_path, **changes))
    assert said in str(error.value)


def test_what_is_wrong_with_measure_hides_nothing_of_the_methods(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_sweep(file(tmp_path, measure={"data": "x", "sample": 2}, methods={"rlo": {}, "rloo": {"grup": 2}}))
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and all(any(word in line for line in lines) for word in ("sample", "'rlo'", "'grup'"))


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no file .*gone\.yaml$"):
        read_sweep(tmp_path / "gone.yaml")


SHIPPED = sorted((ROOT / "benchmarks").glob("*/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_sweeps_of_the_benchmarks_are_what_train_takes(path: Path, tmp_path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["measure"]["data"] = runs.jsonl(tmp_path / "held.jsonl", [{"prompt": "w3"}])
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    jobs = read_sweep(tmp_path / "sweep.yaml").jobs
    assert len({job.label for job in jobs}) == 1 + (len(jobs) - 1) // len(found["seeds"])


# ---------------------------------------------------------------------------------------------------------------- a job


def test_a_job_trains_and_measures_once_and_its_record_has_the_documented_keys(tmp_path: Path) -> None:
    rows = [{"prompt": f"w{i} w{i + 1} ", "part": "even" if i % 2 == 0 else "odd"} for i in range(3, 8)]
    held = runs.jsonl(tmp_path / "held.jsonl", rows)
    path = file(tmp_path, measure={"data": held, "samples": 3, "by": "part"})
    plan, out = read_sweep(path), tmp_path / "out"
    sweeps._claim(out, plan)
    start, one = plan.jobs
    for each in plan.jobs:
        jobs.work(out / "jobs" / each.name)
    before = (out / "jobs" / one.name / "measured.json").stat().st_mtime_ns
    jobs.work(out / "jobs" / one.name)
    assert (out / "jobs" / one.name / "measured.json").stat().st_mtime_ns == before
    found = results.record(one, out / "jobs" / one.name, status="done", error=None)
    assert set(found) == RECORD
    assert set(found["heldout"]) == HELDOUT | {"by"}
    assert {len(column) for column in found["heldout"].values()} == {5}
    assert found["heldout"]["by"] == ["odd", "even", "odd", "even", "odd"]
    assert found["training"]["update"] == [1, 3]
    assert len(found["training"]["reward"]) == len(found["training"]["kl"]) == len(found["training"]["update"])
    assert all(kl > 0 for kl in found["heldout"]["kl"])
    begun = results.record(start, out / "jobs" / start.name, status="done", error=None)
    assert begun["heldout"]["kl"] == [0.0] * 5 and begun["training"] == {}
    groups = [row.group for row in results.rows([begun, found])]
    assert groups == [None, "odd", "even"] * 2


def test_of_the_updates_on_one_batch_the_largest_ratio_is_kept(tmp_path: Path) -> None:
    fresh = {"completions/length": 4.0, "policy/ratio_max": 1.0, "policy/kl_old": 0.0}
    events = [
        {"event": "update", "update": 1, "score": 0.5, "kl": 0.0, **fresh},
        {"event": "update", "update": 2, "policy/ratio_max": 1.7, "policy/kl_old": 0.2},
        {"event": "update", "update": 3, "policy/ratio_max": 1.4, "policy/kl_old": 0.3},
        {"event": "update", "update": 4, "score": 0.7, "kl": 0.1, **fresh},
        {"event": "update", "update": 5, "score": 0.8, "kl": 0.1, **fresh, "trust/ratio_max": 1.9, "trust/kl": 0.01},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events), encoding="utf-8")
    found = jobs.training(tmp_path)
    assert found["update"] == [1, 4, 5] and found["reward"] == [0.5, 0.7, 0.8]
    assert found["ratio_max"] == [1.7, 1.0, 1.9] and found["kl_old"] == [0.3, 0.0, 0.01]
    assert "entropy" not in found
    events = [{**event, "epoch": 0.1} for event in events]  # a run that learns from a file: they are the data's
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events), encoding="utf-8")
    assert set(found) - set(jobs.training(tmp_path)) == {"reward", "length"}


# ------------------------------------------------------------------------------------------------------------ the sweep


def fake(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Jobs that are one line of Python instead of a run: `folder` and `name` are theirs."""
    head = "import sys, json, time, pathlib; folder = pathlib.Path(sys.argv[1]); name = folder.name\n"
    done = "made = {k: [1.0, 2.0] for k in ('reward', 'kl', 'length', 'cut')} | {'prompt': [0, 1]}\n"
    done += "(folder / 'tried').open('a').write('x')\n"

    def started(folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "log.txt").open("ab") as log:
            words = [sys.executable, "-S", "-c", head + done + code, str(folder)]
            return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    monkeypatch.setattr(sweeps, "_started", started)


WRITE = "(folder / 'measured.json').write_text(json.dumps(made))"


def test_a_failed_job_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, seeds=[0, 1, 2])
    fake(monkeypatch, f"if 'seed=1' in name: sys.exit('tokenward: the reward has no <head>')\n{WRITE}")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 1
    assert "failed: rloo-seed=1: the reward has no <head>" in capsys.readouterr().out
    found = results.read(tmp_path / "out" / "results.jsonl")
    assert [one["status"] for one in found] == ["done", "done", "failed", "done"]
    assert "the reward has no &lt;head&gt;" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    fake(monkeypatch, WRITE)  # what failed is tried again, what is finished is not
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    tried = {p.parent.name: len(p.read_text()) for p in (tmp_path / "out" / "jobs").glob("*/tried")}
    assert tried == {"start": 1, "rloo-seed=0": 1, "rloo-seed=1": 2, "rloo-seed=2": 1}


def test_never_more_jobs_at_a_time_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = []
    fake(monkeypatch, f"time.sleep(.3); {WRITE}")
    inner = sweeps._started
    alive: list[subprocess.Popen[bytes]] = []

    def counted(folder: Path) -> subprocess.Popen[bytes]:
        alive.append(inner(folder))
        most.append(sum(process.poll() is None for process in alive))
        return alive[-1]

    monkeypatch.setattr(sweeps, "_started", counted)
    sweeps.sweep(file(tmp_path, seeds=[0, 1, 2, 3]), out=tmp_path / "out", jobs=2)
    assert max(most) == 2


def test_a_signal_stops_the_jobs_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, f"time.sleep(0 if name == 'start' else 60); {WRITE}")
    told: list[object] = []

    def say(*words: object) -> None:
        told.append(words)
        if len(told) == 1:  # `start` is done, the next job is at work
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweeps, "_say", say)
    begin = time.monotonic()
    with pytest.raises(Interrupted, match=r"1 of 3 jobs are done; go on with: tokenward sweep .* --out ") as stop:
        sweeps.sweep(file(tmp_path, seeds=[0, 1]), out=tmp_path / "out", jobs=2)
    assert len(told) == 2 and stop.value.signal == signal.SIGINT and time.monotonic() - begin < 30
    states = [one["status"] for one in results.read(tmp_path / "out" / "results.jsonl")]
    assert states == ["done", "open", "open"]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    sweeps._claim(tmp_path / "out", read_sweep(file(tmp_path)))
    with pytest.raises(InputError, match=r"rloo-seed=0 was made with other settings: give another --out"):
        sweeps._claim(tmp_path / "out", read_sweep(file(tmp_path, methods={"rloo": {"group": 4}})))


@pytest.mark.parametrize("words", [["sweep"], ["sweep", "a.yaml"], ["sweep", "a.yaml", "--out", "o", "--jobs", "0"]])
def test_bad_words(words: list[str]) -> None:
    assert main(words) == 2


# ----------------------------------------------------------------------------------------------- intervals and the page


def made(method: str, *, seed: int, reward: list[float], kl: float = 1.0, point: dict[str, float] | None = None):
    numbers = {"reward": reward, "kl": [kl] * len(reward), "length": [5.0] * len(reward), "cut": [0.0] * len(reward)}
    held = {**numbers, "prompt": list(range(len(reward)))}
    series = {"update": [1, 2], "reward": [0.0, seed + 1.0], "kl": [0.0, 0.1]}
    return {
        "job": f"{method}-{seed}", "method": method, "point": point or {}, "seed": seed, "recipe": method,
        "settings": {}, "status": "done", "error": None, "heldout": held, "training": series,
    }  # fmt: skip


def test_the_interval_draws_seeds_and_prompts() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(4, 30)) + np.array([0.0, 1.0, 2.0, 3.0])[:, None]
    found = results.interval(torch.tensor(values))
    draws = [values[random.integers(4, size=4)][:, random.integers(30, size=30)].mean() for _ in range(20_000)]
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.08)
    assert results.interval(torch.tensor(values), statistic=torch.square).value == pytest.approx(values.mean() ** 2)


def test_a_paired_difference_has_no_spread_where_the_gap_is_constant() -> None:
    one = [made("a", seed=s, reward=[1.0 + s, 5.0 + s]) for s in (0, 1, 2)]
    two = [made("b", seed=s, reward=[0.5 + s, 4.5 + s]) for s in (1, 2, 3)]  # seeds 1 and 2 are shared
    found = results.difference(one, two)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="no seeds and prompts that both were measured on"):
        results.difference(one, [made("c", seed=9, reward=[1.0, 2.0])])


def test_the_page_escapes_names_and_has_no_script() -> None:
    name = "<script>alert(1)</script> $x_1$ & co"
    found = [made(name, seed=s, reward=[1.0, 2.0], point={"beta": b}) for s in (0, 1) for b in (0.1, 0.2)]
    found.append({**made("bad", seed=0, reward=[0.0]), "status": "failed", "error": "<img src=x>", "heldout": None})
    text = page(found, results.rows(found), sweep="methods: {<b>: {}}")
    assert "<script" not in text and "<img src=x>" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)" in text and "4 jobs done, 1 jobs failed" in text
    assert text.count("<img src=") == 4  # points, frontier, reward and KL of the batches
    assert "http" not in text.replace("http-equiv", "").replace("data:image/svg+xml", "")


def test_a_line_that_is_alone_is_named_in_its_title() -> None:
    two = [made("ppo_m", seed=0, reward=[kl, kl], kl=kl, point={"beta": kl}) for kl in (1.0, 2.0)]
    other = [{**one, "method": "grpo"} for one in two]
    assert figure(two).title == "Frontier by method: ppo m" and figure(two + other).title == "Frontier by method"
    assert [one.title for one in learning(two[:1])] == [
        "Reward of the training batches: ppo m beta=1.0", "KL of the training batches (nats): ppo m beta=1.0",
    ]  # fmt: skip
    assert learning(two)[0].title == "Reward of the training batches"


@pytest.mark.parametrize("grid", [False, True], ids=["a model a method", "models in the grid"])
def test_a_frontier_begins_with_the_model_that_its_jobs_began_with(grid: bool) -> None:
    jobs = [("weak", 0.0, 0.0), ("weak", 1.0, 1.0), ("weak", 0.6, 0.5), ("strong", 5.0, 0.0), ("strong", 6.0, 2.0)]
    found = []
    for model, reward, kl in [*jobs, ("strong", 5.5, 0.5)]:
        method = "start" if kl == 0 else "ppo" if grid else f"from {model}"
        point = {"beta": kl, "model": model} if grid and kl else {"model": model} if kl == 0 else {"beta": kl}
        found.append({**made(method, seed=0, reward=[reward] * 2, kl=kl, point=point), "settings": {"model": model}})
    names = ["ppo model=weak", "ppo model=strong"] if grid else ["from weak", "from strong"]
    found = bands(sorted(found, key=lambda one: one["settings"]["model"] == "strong"))
    assert list(found) == names
    assert [(one.reward[0], one.reward[-1], one.kl[-1]) for one in found.values()] == [(0, 1, 1), (5, 6, 2)]


def test_rows_come_in_the_order_of_the_jobs_and_are_means() -> None:
    found = [made("b", seed=0, reward=[1.0, 3.0], kl=2.0), made("a", seed=0, reward=[0.0, 0.0])]
    first, second = results.rows(found)
    assert (first.label, first.reward.value, first.kl.value, first.seeds) == ("b", 2.0, 2.0, 1)
    assert second.label == "a"
    assert results.text([first]).splitlines()[1].startswith("b ")


# ------------------------------------------------------------------------------------------------------- with processes


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_gives_the_same_records(tmp_path: Path) -> None:
    path = file(tmp_path, seeds=[0, 1])
    command = [sys.executable, "-m", "tokenward.cli", "sweep", str(path), "--jobs", "2", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    straight = subprocess.run([*command, str(tmp_path / "one")], env=environment, capture_output=True, text=True)
    assert straight.returncode == 0, straight.stderr
    killed = subprocess.Popen([*command, str(tmp_path / "two")], env=environment, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    while not list((tmp_path / "two" / "jobs").glob("rloo*/run/config.yaml")) and time.monotonic() - begin < 60:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    again = subprocess.run([*command, str(tmp_path / "two")], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    one, two = (results.read(tmp_path / name / "results.jsonl") for name in ("one", "two"))
    for each in (*one, *two):
        each["training"].pop("seconds", None)
    assert one == two and len(one) == 3
