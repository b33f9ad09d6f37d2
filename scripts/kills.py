"""Kills training runs with SIGKILL at random moments, resumes them, and compares with the uninterrupted run.

`python scripts/kills.py [--kills 10] [--seed 0]`: a DPO run and an RTO run of `tokenward train` on tiny random models,
with a checkpoint after every update, so that kills hit the writing of checkpoints too. Equal means: every file of
model/ (and critic/) byte for byte, and the same events but for timings. Exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from transformers.utils.logging import disable_progress_bar  # noqa: E402

from tests.tiny import saved  # noqa: E402 (found through the path above)
from tokenward.runlog import read  # noqa: E402

PROGRAM = [sys.executable, "-c", "import sys; from tokenward.cli import main; sys.exit(main())", "train"]
TIMEOUT_S = 600
MACHINE = ("timing_s/", "perf/")  # what differs between repetitions of a run

REWARD = '''"""The share of one word among the words of a completion."""


def score(prompts, completions, columns):
    return [text.split().count("w7") / max(len(text.split()), 1) for text in completions]
'''


@dataclass(frozen=True)
class Job:
    """A run to be killed: its name and the words after `tokenward train`, without --out."""

    name: str
    words: tuple[str, ...]


def jobs(folder: Path, *, seed: int) -> list[Job]:
    """A DPO and an RTO run on models, pairs, prompts and a reward written below the folder."""
    disable_progress_bar()
    draw = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(3, 40)}" for _ in range(length))

    pairs = [{"prompt": text(3), "chosen": text(draw.randint(2, 8)), "rejected": text(9)} for _ in range(64)]
    prompts = [{"prompt": text(draw.randint(2, 5))} for _ in range(64)]
    for name, rows in (("pairs", pairs), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    policy, guide = saved(folder / "policy", seed=1), saved(folder / "guide", seed=2)
    common = (
        *("--model", str(policy), "--learning-rate", "1e-3", "--threads", "1", "--seed", str(seed)),
        *("--save-every", "1", "--keep-checkpoints", "2", "--schedule", "cosine"),
    )
    dpo = ("dpo", "--data", str(folder / "pairs.jsonl"), "--updates", "150", "--rows-per-update", "8", *common)
    rto = (
        *("rto", "--data", str(folder / "prompts.jsonl"), "--updates", "120", "--rollout-rows", "16"),
        *("--mini-rows", "8", "--epochs", "2", "--max-new-tokens", "8", "--guide", str(guide), "--critic", "own"),
        *("--reward", f"{folder / 'reward.py'}:score", *common),
    )
    return [Job("dpo", dpo), Job("rto", rto)]


def start(words: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    """`tokenward train WORDS` in the background, its output appended to a file."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen([*PROGRAM, *words], env=environment, stdout=output, stderr=subprocess.STDOUT)


def finish(words: tuple[str, ...], log: Path) -> None:
    """Run `tokenward train WORDS` to its end; RuntimeError with its last lines if it fails."""
    status = start(words, log).wait(TIMEOUT_S)
    if status != 0:
        raise RuntimeError(f"exit {status}: {' | '.join(log.read_text(errors='replace').splitlines()[-4:])}")


def seconds_of_training(job: Job, out: Path, log: Path) -> float:
    """Run the job uninterrupted; how long from its config.yaml (before, nothing is there to resume) to its model/."""
    process = start((*job.words, "--out", str(out)), log)
    begun, ended = wait_for(out / "config.yaml", process), wait_for(out / "model", process)
    if process.wait(TIMEOUT_S) != 0:
        raise RuntimeError(f"{job.name}: {log.read_text(errors='replace')[-500:]}")
    return ended - begun


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> float:
    """The moment at which the file is there, or the process has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)
    return time.monotonic()


def kill_at(job: Job, moment: float, *, out: Path, log: Path) -> bool:
    """Start the job and kill it `moment` seconds after its config.yaml; False if its model/ was written before."""
    process = start((*job.words, "--out", str(out)), log)
    begun = wait_for(out / "config.yaml", process)
    time.sleep(max(0.0, begun + moment - time.monotonic()))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL and not (out / "model").exists()


def content(out: Path) -> dict[str, str]:
    """Hash of every file of the trained models, and of the events without what the machine adds."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for part in ("model", "critic")
        for path in sorted((out / part).rglob("*"))
        if path.is_file()
    }
    events = [{k: v for k, v in event.items() if not k.startswith(MACHINE)} for event in read(out / "events.jsonl")]
    files["events.jsonl"] = json.dumps(events).encode()
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def trial(job: Job, moment: float, *, straight: dict[str, str], folder: Path) -> str:
    """Kill, resume, compare: "equal", "ended before" or what differs."""
    out, log = folder / "run", folder / "log.txt"
    folder.mkdir()
    if not kill_at(job, moment, out=out, log=log):
        return "ended before"
    steps = sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))
    finish(("--resume", str(out)), log)
    resumed = content(out)
    wrong = sorted(name for name in straight.keys() | resumed.keys() if straight.get(name) != resumed.get(name))
    verdict = f"DIFFERENT: {', '.join(wrong)}" if wrong else "equal"
    print(f"{job.name}: killed at {moment:6.2f} s, newest checkpoint {steps[-1:] or 'none'}: {verdict}", flush=True)
    return verdict


def main() -> int:
    """Both jobs, each killed as often as asked; 0 if every resumed run equals the straight one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="kills of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of models, data and moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job in jobs(folder, seed=options.seed):
            seconds = seconds_of_training(job, folder / f"{job.name}-straight", folder / f"{job.name}.log")
            straight = content(folder / f"{job.name}-straight")
            assert "model/model.safetensors" in straight, sorted(straight)
            print(f"{job.name}: uninterrupted, {seconds:.1f} s from config.yaml to model/", flush=True)
            done = tries = 0
            while done < options.kills and tries < 5 * options.kills:
                tries += 1
                verdict = trial(job, draw.uniform(0, seconds), straight=straight, folder=folder / f"{job.name}-{tries}")
                done += verdict != "ended before"
                bad += verdict.startswith("DIFFERENT")
            bad += done < options.kills
    print("every resumed run equals the uninterrupted one, bit for bit" if not bad else f"{bad} runs differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
