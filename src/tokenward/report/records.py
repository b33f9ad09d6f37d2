"""What a report reads: run directories (config.yaml, recipe.txt, events.jsonl) and results (summary.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from tokenward.diagnose.lens.rows import TokenRow, read_rows
from tokenward.errors import InputError
from tokenward.objective.health.history import sampled
from tokenward.runlog import read

Number = int | float


@final
@dataclass(frozen=True)
class RunRecord:
    """One run: its directory's name, recipe, settings, printed recipe, its updates in order, and its other events."""

    name: str
    recipe: str
    settings: dict[str, Any]
    text: str
    updates: tuple[dict[str, Any], ...]
    others: tuple[dict[str, Any], ...] = ()

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """(updates, values) of a metric, where it was logged as a finite number."""
        places: list[int] = []
        values: list[float] = []
        for event in self.updates:
            value = number(event.get(metric))
            if value is not None:
                places.append(int(event["update"]))
                values.append(value)
        return places, values

    def last(self, metric: str, *, count: int = 10) -> float | None:
        """Mean of a metric over its last values."""
        _, values = self.series(metric)
        return math.fsum(values[-count:]) / len(values[-count:]) if values else None

    @property
    def sampled(self) -> bool:
        """Whether the run learns from texts that it samples."""
        return sampled(self.updates)

    @property
    def seconds(self) -> float:
        """Time spent in updates and on their batches."""
        parts = (number(v) for event in self.updates for k, v in event.items() if k.startswith("timing_s/"))
        return math.fsum(value for value in parts if value is not None)


@final
@dataclass(frozen=True)
class ResultRecord:
    """Results that are not a run's own: a summary of several methods, and texts with token credit by title."""

    name: str
    summary: dict[str, Any]
    credit: dict[str, tuple[TokenRow, ...]]


def number(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def gather(folders: Sequence[str | Path]) -> tuple[list[RunRecord], list[ResultRecord]]:
    """The runs and results that the directories hold; runs that share a name are told apart by their parents."""
    paths = [Path(folder) for folder in folders]
    runs: list[RunRecord] = []
    results: list[ResultRecord] = []
    for path in paths:
        if not path.is_dir():
            raise InputError(f"report: no directory {path}")
        known = False
        if (path / "events.jsonl").is_file():
            runs.append(_run(path, _name(path, paths)))
            known = True
        if (path / "summary.json").is_file() or list(path.glob("credit*.jsonl")):
            results.append(_result(path))
            known = True
        if not known:
            raise InputError(
                f"report: {path} holds neither a run (events.jsonl) nor results (summary.json, credit*.jsonl)"
            )
    return runs, results


def _name(path: Path, paths: Sequence[Path]) -> str:
    same = [other for other in paths if other.resolve().name == path.resolve().name]
    full = path.resolve()
    return full.name if len(same) == 1 else f"{full.parent.name}/{full.name}"


def _run(path: Path, name: str) -> RunRecord:
    settings: Any = {}
    if (path / "config.yaml").is_file():
        try:
            settings = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path / 'config.yaml'}: cannot be read as YAML: {' '.join(str(error).split())}"
            ) from error
        settings = settings if isinstance(settings, dict) else {}
    text = path / "recipe.txt"
    events = [e for e in read(path / "events.jsonl") if isinstance(e.get("update"), int)]
    updates = [e for e in events if e.get("event") == "update"]
    return RunRecord(
        name=name,
        recipe=str(settings.get("recipe", name)),
        settings={str(key): value for key, value in settings.items()},
        text=text.read_text(encoding="utf-8") if text.is_file() else "",
        updates=tuple(updates),
        others=tuple(e for e in events if e.get("event") != "update"),
    )


def _result(path: Path) -> ResultRecord:
    summary: Any = {}
    file = path / "summary.json"
    if file.is_file():
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: not JSON: {error}") from error
        if not isinstance(summary, dict):
            raise InputError(f"{file}: must be a JSON object, got {type(summary).__name__}")
    texts = {
        file.stem: tuple(read_rows(file)) for file in sorted(path.glob("credit*.jsonl"), key=lambda file: file.stem)
    }
    return ResultRecord(path.resolve().name, summary, texts)
