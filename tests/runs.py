"""Small runs for the tests of the trainer: a model directory, data of every kind, a reward, a configuration."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import tiny
from tokenward.objective.updates import ConstrainedStep
from tokenward.recipes import build
from tokenward.runlog import read
from tokenward.train.config import RunConfig

REWARD = '''
def evens(prompts, completions, columns):
    """Share of even words."""
    found = [[int(word[1:]) for word in text.split()] for text in completions]
    return [sum(n % 2 == 0 for n in numbers) / max(1, len(numbers)) for numbers in found]
'''


def words(source: random.Random, low: int, high: int) -> str:
    return " ".join(f"w{source.randint(3, 39)}" for _ in range(source.randint(low, high)))


def rows(kind: str, *, count: int = 24) -> list[dict[str, object]]:
    """Random rows of a kind; the chosen answer begins with w7, the rejected one with w8."""
    source = random.Random(0)
    found: list[dict[str, object]] = []
    for i in range(count):
        prompt, more = words(source, 2, 5) + " ", words(source, 2, 5)
        if kind == "pairs":
            scores = {"score_chosen": 1.0, "score_rejected": 0.0, "target": 0.9}
            found.append({"prompt": prompt, "chosen": f"w7 {more}", "rejected": f"w8 {words(source, 1, 6)}", **scores})
        elif kind == "rollouts":
            found.append({"prompt": prompt})
        else:
            extra = {"demos": {}, "labels": {"label": i % 2 == 0}, "scores": {"score": (i % 2) * 1.0}}[kind]
            found.append({"prompt": prompt, "completion": f"w{8 - i % 2} {more}", **extra})
    return found


def jsonl(path: Path, lines: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def files(folder: Path, recipe: str, *, count: int = 24) -> dict[str, object]:
    """The settings that a recipe cannot do without, and the files they name."""
    made = build(recipe)
    kind = made.streams[0].kind
    model = folder / "base"
    if not model.exists():
        tiny.saved(model)
    found: dict[str, object] = {
        "model": str(model),
        "data": jsonl(folder / f"{kind}.jsonl", rows(kind, count=count)),
        "out": str(folder / "run"),
    }
    if kind == "rollouts":
        (folder / "reward.py").write_text(REWARD, encoding="utf-8")
        found |= {"max_new_tokens": 8, "rollout_rows": 8, "mini_rows": 4, "epochs": 2}
        if isinstance(made.update, ConstrainedStep):  # the whole batch at once, and no head on the policy
            found |= {"critic": "own", "mini_rows": None, "epochs": 1}
        if "score" in made.needs:
            found["reward"] = f"{folder / 'reward.py'}:evens"
    if "guide_logp" in made.needs:
        guide = folder / "guide"
        if not guide.exists():
            tiny.saved(guide, seed=1)
        found["guide"] = str(guide)
    return found


def config(folder: Path, recipe: str, *, count: int = 24, **more: object) -> RunConfig:
    """A configuration that runs; 8 units an update, one thread."""
    settings = {"threads": 1, "learning_rate": 1e-2, "seed": 1, **files(folder, recipe, count=count)}
    if settings.get("max_new_tokens") is None:
        settings["rows_per_update"] = 8
    return RunConfig(**{**settings, **more})  # type: ignore[arg-type]


def facts(out: Path) -> list[dict[str, object]]:
    """The events without what depends on the machine's speed."""
    return [
        {name: value for name, value in event.items() if not name.startswith(("timing_s/", "perf/"))}
        for event in read(out / "events.jsonl")
    ]


def weights(folder: Path | str) -> list[torch.Tensor]:
    """Every weight of a model directory, by name."""
    return [tensor for _, tensor in sorted(load_file(Path(folder) / "model.safetensors").items())]
