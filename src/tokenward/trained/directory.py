"""The directory of a study that trains: claimed by its settings at the start, filled with what was found at the end."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenward.errors import InputError
from tokenward.runlog import write_json
from tokenward.stages import Stages, one_thread
from tokenward.studies.study import Study, write

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MARK = "study.json"  # marks a directory as a study's own, and says with what settings


def begin(out: Path, *, name: str, seed: int, scale: float, plan: DataclassInstance) -> Path:
    """A new directory, or one in which this study was begun with the same settings; any other is refused."""
    if not 0 < scale <= 10:
        raise InputError(
            f"scale multiplies the updates of every run: give a number above 0 and at most 10, got {scale}"
        )
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be ≥ 0 and below 2⁶³, got {seed}")
    settings = json.loads(json.dumps({"study": name, "seed": seed, "scale": scale, "plan": asdict(plan)}))
    mark = out / MARK
    if mark.is_file():
        _same(settings, mark)
    elif out.exists() and not (out.is_dir() and all(one.name.startswith(f".{MARK}.") for one in out.iterdir())):
        raise InputError(f"{out} holds something that this study did not make: give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(mark, settings)  # first of all: a directory without it is nobody's
        (out / "runs" / "data").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {out} cannot be made: {error.strerror}") from error
    return out


def _same(settings: dict[str, Any], mark: Path) -> None:
    """Refuse a directory whose mark holds other settings, or none that a study wrote."""
    try:
        begun = json.loads(mark.read_text(encoding="utf-8"))
        other = f"{begun['study']}, seed {begun['seed']}, scale {begun['scale']:g}"
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{mark} was written by no study: give another --out") from None
    if begun != settings:
        raise InputError(f"{mark.parent} was begun with other settings ({other}): give another --out")


def conduct(
    name: str,
    work: Callable[[Stages], dict[str, Any]],
    told: Callable[[dict[str, Any]], Study],
    *,
    plan: DataclassInstance,
    seed: int,
    out: str,
    scale: float,
) -> str:
    """Do what is not done yet, on one thread: results.json, data.jsonl (the study), runs/; claims and tables as text.

    `told` is given what `work` gives, with `stages` (seconds of each), `seconds`, and `settings` beside it.
    `seconds`: of this call, and of what earlier calls finished or brought to a checkpoint.
    """
    start = time.monotonic()
    folder = begin(Path(out), name=name, seed=seed, scale=scale, plan=plan)
    stages = Stages(folder / "runs", seed, scale)
    with one_thread():
        results = work(stages)
    results |= {"stages": stages.seconds, "seconds": time.monotonic() - start + stages.before}
    results["settings"] = {"seed": seed, "scale": scale, **asdict(plan)}
    write_json(folder / "results.json", results)
    found = told(results)
    write(found, folder / "data.jsonl")
    return f"{text(found)}\n\nnumbers: {folder / 'results.json'}"


def text(found: Study) -> str:
    """Claims and tables for the terminal."""
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    words = io.StringIO()
    console = Console(file=words, width=160)
    for table in found.tables:
        drawn = Drawn(title=Text(table.title), title_justify="left")
        for name in table.columns:
            drawn.add_column(Text(name))
        for row in table.rows:
            drawn.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
        console.print(drawn)
    for claim in found.claims:
        console.print(Text(f"{'holds' if claim.holds else 'DOES NOT HOLD'}: {claim.text}"), soft_wrap=True)
    return words.getvalue().rstrip()
