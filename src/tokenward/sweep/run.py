"""The sweep itself: jobs in processes of one thread each, some at a time; what is finished is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

from tokenward.errors import InputError
from tokenward.runlog import write_json, write_text
from tokenward.sweep import results
from tokenward.sweep.page import write_page
from tokenward.sweep.plan import Job, Sweep, read_sweep
from tokenward.sweep.results import Record, Status
from tokenward.train.directory import environment
from tokenward.train.runtime import Interrupted, StopRequest, stop_request

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PAUSE = 0.1  # seconds between two looks at the jobs


@final
@dataclass
class State:
    """What became of each job so far, by its name."""

    status: dict[str, Status] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Swept:
    """The records of a sweep and where its page lies."""

    records: tuple[Record, ...]
    page: Path

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(one["job"] for one in self.records if one["status"] == "failed")

    def __str__(self) -> str:
        table = results.text(results.rows(self.records))
        bad = [f"failed: {one['job']}: {one['error']}" for one in self.records if one["status"] == "failed"]
        return "\n".join([table, *bad, f"page: {self.page}", f"records: {self.page.parent / 'results.jsonl'}"])


def sweep(file: str | Path, *, out: str | Path, jobs: int | None = None) -> Swept:
    """Run what is not done yet of the sweep in `file`, `jobs` at a time (absent: one per core); write its results."""
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be 1 or more, got {jobs}")
    plan, folder = read_sweep(file), Path(out)
    _claim(folder, plan)
    state = State({job.name: "done" if _done(folder, job) else "open" for job in plan.jobs})
    try:
        with stop_request() as stop:
            _run(plan, folder, state, jobs or os.cpu_count() or 1, stop)
    finally:
        swept = _tell(plan, folder, state)
    if stop.signal is not None and "open" in state.status.values():
        done = list(state.status.values()).count("done")
        again = f"go on with: tokenward sweep {file} --out {out}"
        raise Interrupted(f"{done} of {len(plan.jobs)} jobs are done; {again}", signal=stop.signal)
    return swept


def _claim(folder: Path, plan: Sweep) -> None:
    """Write every job's job.json; one that stands there with other settings is refused."""
    wrong = []
    for job in plan.jobs:
        path = folder / "jobs" / job.name / "job.json"
        wanted = json.loads(json.dumps({**asdict(job), "measure": asdict(plan.measure)}))
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            parts = [(k, before.get(k), v) for k, v in wanted.items() if before.get(k) != v]
            wrong += [
                f"{path.parent} was made with other {k}: give another --out, or remove it" for k, _, _ in parts[:1]
            ]
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, wanted)
        except OSError as error:
            raise InputError(f"out = {folder} cannot be written: {error.strerror}") from error
    if wrong:
        raise InputError("\n".join(wrong))
    write_text(folder / "sweep.yaml", plan.text)
    write_json(folder / "environment.json", environment())


def _run(plan: Sweep, folder: Path, state: State, jobs: int, stop: StopRequest) -> None:
    """Start, watch and collect processes until no job is open, or until a signal came and all have stopped."""
    waiting = [job for job in plan.jobs if state.status[job.name] == "open"]
    print(f"{len(plan.jobs)} jobs, {len(plan.jobs) - len(waiting)} done before, {jobs} at a time", flush=True)
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while running or (waiting and stop.signal is None):
            while waiting and len(running) < jobs and stop.signal is None:
                job = waiting.pop(0)
                running[job.name] = (job, _started(folder / "jobs" / job.name), time.monotonic())
            if stop.signal is not None:
                _ask_to_stop([process for _, process, _ in running.values()])
            time.sleep(PAUSE)
            for name, (job, process, start) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    _collect(job, process, folder, state, stopping=stop.signal is not None)
                    _say(state, job, len(plan.jobs), time.monotonic() - start)
    finally:
        _ask_to_stop([process for _, process, _ in running.values()])


def _started(folder: Path) -> subprocess.Popen[bytes]:
    """A job's process, in a session of its own: a signal to the sweep reaches it through the sweep alone."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tokenward.sweep.job", str(folder)],
            env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _ask_to_stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM: a run saves where it is."""
    for process in processes:
        if process.poll() is None:
            process.terminate()


def _collect(job: Job, process: subprocess.Popen[bytes], folder: Path, state: State, *, stopping: bool) -> None:
    """What became of a job whose process has ended."""
    if _done(folder, job):
        state.status[job.name] = "done"
    elif not stopping:
        state.status[job.name] = "failed"
        state.error[job.name] = _last_line(folder / "jobs" / job.name / "log.txt", code=process.returncode)


def _last_line(log: Path, *, code: int) -> str:
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return said[-1].removeprefix("tokenward: ") if said else f"ended with exit code {code}"


def _say(state: State, job: Job, total: int, seconds: float) -> None:
    found = list(state.status.values())
    words = state.error.get(job.name) or f"{seconds:.0f} s"
    print(f"{total - found.count('open')}/{total} {state.status[job.name]} {job.name}: {words}", flush=True)


def _done(folder: Path, job: Job) -> bool:
    return (folder / "jobs" / job.name / "measured.json").is_file()


def _tell(plan: Sweep, folder: Path, state: State) -> Swept:
    """Write results.jsonl and index.html of what there is."""
    records = tuple(
        results.record(job, folder / "jobs" / job.name, status=state.status[job.name], error=state.error.get(job.name))
        for job in plan.jobs
    )
    results.write(records, folder / "results.jsonl")
    path = write_page(records, results.rows(records), sweep=plan.text, path=folder / "index.html")
    return Swept(records, path)
