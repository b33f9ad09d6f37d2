"""One job of a sweep, in a process of its own: train, go on with, or leave a run, then measure its model.

python -m tokenward.sweep.job FOLDER          FOLDER holds job.json; run/, measured.json and log.txt are written
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenward.errors import InputError, RunError
from tokenward.runlog import write_json

SERIES = {  # of events.jsonl, by its name in results.jsonl
    "reward": "score", "kl": "kl", "length": "completions/length", "ratio_max": "ratio_max", "kl_old": "kl_old",
    "entropy": "entropy", "value_explained": "critic/vf_explained_var",
}  # fmt: skip
OF_SAMPLES = ("reward", "length")  # of a run that learns from a file they would be those of its rows
DIGITS = 5  # of numbers in results.jsonl


def work(folder: Path) -> None:
    """Do what is not done yet of the job in a folder; another process at the same job is waited for."""
    with alone(folder):
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        if not (folder / "measured.json").is_file():
            model = _trained(folder / "run", job) if job["recipe"] else Path(job["settings"]["model"])
            write_json(folder / "measured.json", measured(model, job))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a process that outlived its sweep and the one of the next sweep take turns."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _trained(run: Path, job: dict[str, Any]) -> Path:
    """The model of the job's run: begun, gone on with, or there already."""
    from tokenward.recipes import maker
    from tokenward.train import directory, loop
    from tokenward.train.settings import resolve

    if not directory.finished(run):
        if (run / "config.yaml").is_file():
            loop.resume(run, show="lines")
        else:
            values = {**job["settings"], "out": str(run)}
            made = resolve(recipe=job["recipe"], function=maker(job["recipe"]), file=values, flags={})
            loop.run(made.config, made.recipe, keywords=made.keywords, show="lines")
    return run / "model"


def measured(model: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Means over each held-out prompt's texts of reward, exact KL to the start model, length, and share cut."""
    from tokenward.data import dataset
    from tokenward.data.tokenize import Prompt
    from tokenward.diagnose.evaluate import sample
    from tokenward.diagnose.measures.value import text_values
    from tokenward.models import load
    from tokenward.rollout.rewards import reward
    from tokenward.rollout.sampler import GenerateSampler

    how = job["measure"]
    policy, reference = load.policy(str(model)), load.policy(job["settings"]["model"])
    tokenizer = load.tokenizer(str(model))
    data = dataset.load(how["data"], tokenizer=tokenizer, kind="prompts", asked_by="sweep")
    prompts = [example for example in data.examples if isinstance(example, Prompt)]
    sampler = GenerateSampler(
        policy, end_ids=load.end_ids(policy, tokenizer), pad_id=data.encoder.pad,
        max_new_tokens=how["max_new_tokens"] or 64, rows=256, seed=how["seed"],
    )  # fmt: skip
    texts = sample(sampler, prompts, samples=how["samples"], reward=reward(how["reward"], tokenizer=tokenizer))
    values = text_values(texts, policy=policy, reference=reference, tau=0.0, pad_id=data.encoder.pad)
    columns = {
        "reward": values.reward.tolist(),
        "kl": values.kl.tolist(),
        "length": [float(len(text.response_tokens)) for text in texts],
        "cut": [float(text.finish == "length") for text in texts],
    }
    each = how["samples"]
    found: dict[str, Any] = {
        name: [round(fmean(column[i : i + each]), DIGITS) for i in range(0, len(column), each)]
        for name, column in columns.items()
    }
    found["prompt"] = [prompt.id for prompt in prompts]
    if how["by"]:
        found["by"] = [_group(prompt, how) for prompt in prompts]
    return found


def _group(prompt: Any, how: dict[str, Any]) -> str:
    if how["by"] not in prompt.columns:
        raise InputError(
            f"{how['data']}: {prompt.where or prompt.id} has no column {how['by']!r}, which measure.by names"
        )
    return str(prompt.columns[how["by"]])


def training(run: Path) -> dict[str, Any]:
    """What the events of a run tell of its batches, place by place: `update` at which each begins, and SERIES.

    Of the updates on one batch the largest `ratio_max` is kept, and the last `kl_old`; a constrained update tells both
    as they are after its step, others as they are before.
    """
    from tokenward.report.records import gather, number

    if not (run / "events.jsonl").is_file():
        return {}
    (record,), _ = gather([run])
    batches: list[dict[str, Any]] = []
    for event in record.updates:
        moved = {"ratio_max": _largest(event), "kl_old": event.get("trust/kl", event.get("policy/kl_old"))}
        if SERIES["length"] in event or not batches:  # what is said once for a batch
            batches.append({**event, **moved})
        else:
            top = max((x for x in (batches[-1]["ratio_max"], moved["ratio_max"]) if x is not None), default=None)
            batches[-1] |= {**moved, "ratio_max": top}
    found: dict[str, Any] = {"update": [batch["update"] for batch in batches], "seconds": round(record.seconds, 2)}
    for name, key in SERIES.items():
        if name in OF_SAMPLES and not record.sampled:
            continue
        values = [number(batch.get(key)) for batch in batches]
        if any(value is not None for value in values):
            found[name] = [value if value is None else round(value, DIGITS) for value in values]
    return found


def _largest(event: dict[str, Any]) -> float | None:
    """The largest π/π_old of a token that an update tells of, before its step or, under a constraint, after it."""
    from tokenward.report.records import number

    told = [number(event.get(key)) for key in ("policy/ratio_max", "trust/ratio_max")]
    return max((x for x in told if x is not None), default=None)


def main(words: list[str]) -> int:
    """Do the job of one folder; 1 and a line on stderr where it fails, 130 where it was asked to stop."""
    try:
        work(Path(words[0]))
    except KeyboardInterrupt as stop:
        print(f"tokenward: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except (InputError, RunError) as error:
        print("\n".join(f"tokenward: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
