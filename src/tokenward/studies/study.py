"""A study as data: claims with what was measured, tables, figures; and the JSON lines that carry it.

Whoever makes a study computes; whoever draws it reads these lines and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from tokenward.errors import InputError
from tokenward.runlog import write_text

Scale = Literal["linear", "log"]
Style = Literal["line", "points", "bars"]
Cell = str | float | None


@final
@dataclass(frozen=True)
class Claim:
    """One sentence and its test: it holds if at_least ≤ measured ≤ at_most (an absent bound does not bind).

    `source` says whose it is; `check` says what was computed, on what, and what `measured` counts.
    """

    text: str
    source: str
    check: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise InputError(f"claim {self.text!r}: no bound, it could not fail; give at_least or at_most")

    @property
    def holds(self) -> bool:
        """Whether what was measured lies within the bounds; NaN never does.

        >>> Claim("x", "y", "z", float("nan"), at_most=1.0).holds
        False
        """
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.measured <= high


@final
@dataclass(frozen=True)
class Series:
    """One line, cloud or row of bars of a figure; bars stand at the names in `x`; `low` and `high` bound intervals."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    style: Style = "line"
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.x, self.y, self.low, self.high) if part is not None}
        if len(sizes) != 1:
            raise InputError(f"series {self.name!r}: x, y, low and high differ in length: {sorted(sizes)}")


@final
@dataclass(frozen=True)
class Figure:
    """What to draw; `name` is its file's name, `caption` says how to read it."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"


@final
@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise InputError(f"table {self.title!r}: every row needs {len(self.columns)} cells")


@final
@dataclass(frozen=True)
class Study:
    """A question, what was found, and everything that shows it. `world` says on what it was computed."""

    name: str
    title: str
    question: str
    world: str
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if not claim.holds)


def write(study: Study, path: Path) -> None:
    """The study as JSON lines: a head, then one line per claim, table row and figure series."""
    head = {"kind": "study", **{key: getattr(study, key) for key in ("name", "title", "question", "world", "notes")}}
    lines: list[Mapping[str, Any]] = [head]
    lines += [{"kind": "claim", **asdict(claim), "holds": claim.holds} for claim in study.claims]
    for table in study.tables:
        lines.append({"kind": "table", "title": table.title, "columns": table.columns, "note": table.note})
        lines += [{"kind": "row", "table": table.title, "cells": row} for row in table.rows]
    for figure in study.figures:
        bare = asdict(figure)
        series = bare.pop("series")
        lines.append({"kind": "figure", **bare})
        lines += [{"kind": "series", "figure": figure.name, **one} for one in series]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, "".join(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        )
    except OSError as error:
        raise InputError(f"study {study.name}: {path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Study:
    """The study of a file that `write` made."""
    try:
        lines = [_back(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"study {path}: cannot be read: {error}; run the study again") from None
    try:
        return _study(lines)
    except (KeyError, TypeError, StopIteration) as error:
        raise InputError(f"study {path}: not the records of a study ({error!r}); run the study again") from None


def _study(lines: Sequence[dict[str, Any]]) -> Study:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        kinds.setdefault(line.pop("kind"), []).append(line)
    (head,) = kinds["study"]
    claims = tuple(Claim(**{k: v for k, v in one.items() if k != "holds"}) for one in kinds.get("claim", []))
    rows, series = kinds.get("row", []), kinds.get("series", [])
    tables = tuple(
        Table(
            one["title"], tuple(one["columns"]),
            tuple(tuple(row["cells"]) for row in rows if row["table"] == one["title"]), one["note"],
        )
        for one in kinds.get("table", [])
    )  # fmt: skip
    figures = tuple(
        Figure(**one, series=tuple(Series(**{k: v for k, v in s.items() if k != "figure"}) for s in series
                                   if s["figure"] == one["name"]))
        for one in kinds.get("figure", [])
    )  # fmt: skip
    return Study(**{**head, "notes": tuple(head["notes"])}, claims=claims, figures=figures, tables=tables)


def _plain(value: Any) -> Any:
    """The value with numbers that JSON lacks as the words that `float` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _back(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["number"]) if set(value) == {"number"} else {key: _back(one) for key, one in value.items()}
    return [_back(one) for one in value] if isinstance(value, list) else value
