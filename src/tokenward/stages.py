"""Stages of a story on the built-in world: rows, a fresh model, and runs of the trainer, each in its own directory."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from tokenward.runlog import write_json, write_text


@final
@dataclass(frozen=True)
class Stages:
    """Where a story writes, its seed, what multiplies the updates of its runs, and how long each stage took.

    `earlier`: what of those seconds earlier calls spent, before the story was gone on with. A stage that is done inside
    another is asked for there alone, or its seconds would count twice.
    """

    out: Path
    seed: int
    scale: float
    seconds: dict[str, float] = field(default_factory=dict)
    earlier: dict[str, float] = field(default_factory=dict)

    @property
    def before(self) -> float:
        """Seconds of earlier calls that are not to be spent again."""
        return math.fsum(self.earlier.values())

    def file(self, name: str) -> Path:
        return self.out / "data" / name

    def model(self, run: str) -> str:
        return str(self.out / run / "model")

    def write(self, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """Rows as JSON lines; the file appears when it is whole."""
        path = self.file(name)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return path

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file that `write` made."""
        return [json.loads(line) for line in self.file(name).read_text(encoding="utf-8").splitlines()]

    def once(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the work gives, JSON values, NaN and ∞ too; from out/done/name.json where it has been done before."""
        path = self.out / "done" / f"{name}.json"
        fresh = not path.is_file()
        if fresh:
            start, before = time.monotonic(), self.before
            found = work()
            spent = time.monotonic() - start + self.before - before  # runs inside it may have been done before
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"seconds": spent, "found": found})
        done = json.loads(path.read_text(encoding="utf-8"))
        self.seconds[name] = float(done["seconds"])
        self.earlier.setdefault(name, 0.0 if fresh else self.seconds[name])
        result: dict[str, Any] = _numbers(done["found"])
        return result

    def train(
        self, name: str, recipe: str, settings: Mapping[str, object], *, keywords: Mapping[str, float] | None = None
    ) -> None:
        """One run of the trainer into out/name; a finished run is left as it is, an interrupted one goes on."""
        from tokenward.report.records import gather
        from tokenward.train import directory, loop
        from tokenward.train.config import make

        updates = max(1, round(int(str(settings["updates"])) * self.scale))
        warmup = min(int(str(settings.get("warmup_updates", 0))), updates // 2)
        folder, start = self.out / name, time.monotonic()
        if directory.finished(folder):
            print(f"{name}: done before", flush=True)
        else:
            print(f"{name}: {recipe}, {updates} updates", flush=True)
            if (folder / "config.yaml").is_file():
                loop.resume(folder)
            else:
                config = make(
                    {
                        "micro_tokens": 16384, "save_every": 0, "seed": self.seed, "device": "cpu", "threads": 1,
                        "log_every": 1000, **settings, "updates": updates, "warmup_updates": warmup,
                        "out": str(folder),
                    }
                )  # fmt: skip
                loop.run(config, recipe, keywords=dict(keywords or {}))
        (run,), _ = gather([folder])
        self.seconds[name] = run.seconds
        self.earlier.setdefault(name, max(0.0, run.seconds - (time.monotonic() - start)))


def _numbers(value: Any) -> Any:
    """The value with the words that `write_json` puts for numbers that JSON lacks made numbers again."""
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread: models this small gain little from a second, and lose much where the machine is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_world(stages: Stages, *, train_prompts: int, held_prompts: int) -> None:
    """Prompts, tokenizer, and a model that knows nothing yet; the same again where they are there already."""
    import torch
    from transformers import LlamaForCausalLM

    from tokenward.data import world_model, world_rows
    from tokenward.models.quiet import quiet

    train, held = world_rows.prompt_rows(train=train_prompts, heldout=held_prompts, seed=stages.seed)
    stages.write("prompts.jsonl", train)
    stages.write("heldout.jsonl", held)
    tokenizer = world_model.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(stages.seed)
        model = LlamaForCausalLM(world_model.model_config(tokenizer))
    with quiet():
        model.save_pretrained(stages.out / "base")
        tokenizer.save_pretrained(stages.out / "base")


def supervise(stages: Stages) -> None:
    """The SFT stages into out/sft: copying first, reviews then."""
    from tokenward.data import world_model, world_rows

    train = stages.rows("prompts.jsonl")
    model = str(stages.out / "base")
    for number, stage in enumerate(world_model.SFT_STAGES):
        last = number + 1 == len(world_model.SFT_STAGES)
        settings = asdict(stage)
        corpus = settings.pop("corpus")
        rows = (
            world_rows.copy_rows(count=stage.rows, seed=stages.seed)
            if corpus == "copy"
            else world_rows.sft_rows(train, count=stage.rows, seed=stages.seed)
        )
        settings |= {"model": model, "data": str(stages.write(f"{corpus}.jsonl", rows))}
        name = "sft" if last else f"sft-{corpus}"
        stages.train(name, "sft", settings)
        model = stages.model(name)
