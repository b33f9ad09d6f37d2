"""Plants each fault of `faults/` in a copy of the tree and expects the named tests to fail.

`python scripts/mutate.py [--only TEXT] [--workers N]`. The tests must pass without a fault first. Exits 1 when a
fault survives, or when one cannot be judged: its old text is not found exactly once, or no test could be run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist")

Outcome = Literal["found", "SURVIVED", "UNCLEAR"]


@dataclass(frozen=True)
class Verdict:
    """What the tests said about one fault; `why` names the test that failed, or what went wrong."""

    fault: Fault
    outcome: Outcome
    why: str
    seconds: float


def run_tests(tree: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """(exit status, output) of the fast tests in these files of a tree; status −1 if they hang."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "",
        "OMP_NUM_THREADS": "1",
        "TOKENWARD_SHARED": os.environ.get("TOKENWARD_SHARED", str(ROOT.parent / "shared")),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return -1, f"no end within {TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def write(path: Path, source: str) -> None:
    """Write a file and drop its bytecode: a source as long, written within the same second, would not be noticed."""
    path.write_text(source, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def judge(fault: Fault, tree: Path) -> Verdict:
    """Plant the fault in the tree, run its tests, and take it out again."""
    start = time.monotonic()
    path = tree / fault.file
    source = path.read_text(encoding="utf-8") if path.exists() else ""
    if source.count(fault.old) != 1:
        return Verdict(fault, "UNCLEAR", f"old text stands {source.count(fault.old)} times in {fault.file}", 0.0)
    write(path, source.replace(fault.old, fault.new))
    try:
        status, output = run_tests(tree, fault.tests)
    finally:
        write(path, source)
    outcome, why = read_outcome(status, output)
    return Verdict(fault, outcome, why, time.monotonic() - start)


def read_outcome(status: int, output: str) -> tuple[Outcome, str]:
    """What pytest's exit status means here: 1 tests failed, 0 they all passed, anything else says nothing."""
    if status == 0:
        return "SURVIVED", "all named tests passed"
    if status == -1:
        return "found", output
    failed = re.findall(r"^FAILED (.+?)(?: - .*)?$", output, flags=re.MULTILINE)
    if status == 1 and failed:
        return "found", failed[0]
    return "UNCLEAR", (output.strip().splitlines() or [f"pytest exited with {status}"])[-1]


def judge_all(faults: list[Fault], *, workers: int, folder: Path) -> list[Verdict]:
    """Judge every fault, each worker in a copy of the tree of its own."""
    trees: SimpleQueue[Path] = SimpleQueue()
    for worker in range(workers):
        trees.put(Path(shutil.copytree(ROOT, folder / f"tree-{worker}", ignore=LEFT_OUT)))

    def in_free_tree(fault: Fault) -> Verdict:
        tree = trees.get()
        try:
            verdict = judge(fault, tree)
        finally:
            trees.put(tree)
        print(f"{verdict.outcome:8}  {verdict.seconds:5.1f} s  {fault.breaks}  [{verdict.why}]", flush=True)
        return verdict

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(in_free_tree, faults))


def main() -> int:
    """Judge the chosen faults and print the verdict; 0 if all are found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="judge faults whose file or description contains this text")
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree tested at once")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in f"{fault.file} {fault.breaks}"]
    if not faults:
        parser.error(f"no fault contains {options.only!r}")
    tests = tuple(sorted({test for fault in faults for test in fault.tests}))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(ROOT, Path(folder) / "sound", ignore=LEFT_OUT))
        status, output = run_tests(tree, tests)
        if status != 0:
            print(output[-3000:], f"\nmutate: the tests do not pass without a fault: {' '.join(tests)}", sep="")
            return 1
        verdicts = judge_all(faults, workers=options.workers, folder=Path(folder))
    found = sum(verdict.outcome == "found" for verdict in verdicts)
    print(f"\n{found} of {len(verdicts)} planted faults found")
    for verdict in verdicts:
        if verdict.outcome != "found":
            print(f"{verdict.outcome}: {verdict.fault.file}: {verdict.fault.breaks}: {verdict.why}")
    return 0 if found == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
