"""Files, models and batches of two-model pipelines for the tests."""

from __future__ import annotations

import random
from pathlib import Path

from tests import runs, tiny
from tokenward.train.config import RunConfig


def run_of(prompt: str, first: str, source: random.Random) -> list[dict[str, str]]:
    """The model rewrites the prompt into a text that begins with `first`; the partner answers from that text alone."""
    rewritten = f"{first} {runs.words(source, 1, 3)}"
    return [
        {"actor": "model", "prompt": prompt, "completion": rewritten},
        {"actor": "partner", "prompt": rewritten + " ", "completion": runs.words(source, 1, 4)},
    ]


def rows(count: int = 24) -> list[dict[str, object]]:
    """Pairs of runs; the chosen one is rewritten into a text that begins with w7, the rejected one with w8."""
    source = random.Random(0)
    found: list[dict[str, object]] = []
    for _ in range(count):
        prompt = runs.words(source, 2, 5) + " "
        found.append(
            {"chosen_steps": run_of(prompt, "w7", source), "rejected_steps": run_of(prompt, "w8", source),
             "score_chosen": 1.0, "score_rejected": 0.0}
        )  # fmt: skip
    return found


def config(folder: Path, **more: object) -> RunConfig:
    """A run of both models; 8 pairs an update."""
    for name, seed in (("base", 0), ("other", 3)):
        if not (folder / name).exists():
            tiny.saved(folder / name, seed=seed)
    settings = {
        "model": str(folder / "base"), "partner": str(folder / "other"), "out": str(folder / "run"), "threads": 1,
        "learning_rate": 1e-2, "seed": 1, "rows_per_update": 8, "updates": 3,
        "data": runs.jsonl(folder / "steps.jsonl", rows()),
    }  # fmt: skip
    return RunConfig(**{**settings, **more})  # type: ignore[arg-type]
