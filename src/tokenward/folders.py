"""Folders that are replaced as a whole, and whether one holds a model: no kill leaves less than the old or the new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def former(out: Path) -> Path:
    """Where the folder that stood at `out` lies while a new one takes its place: .OUT.old beside it."""
    return out.with_name(f".{out.name}.old")


def settle(out: Path) -> None:
    """Put .OUT.old back where a kill came before the new folder had its name."""
    if former(out).exists() and not out.exists():
        former(out).rename(out)


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A fresh folder that becomes `out` only when everything in it is written; what stood there is deleted last.

    Two renames: out → .OUT.old, new → out. Between them a kill leaves the old folder whole at .OUT.old (`settle`).
    """
    settle(out)
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(former(out), ignore_errors=True)
    if out.exists():
        out.rename(former(out))
    fresh.rename(out)
    shutil.rmtree(former(out), ignore_errors=True)


def holds_model(folder: Path) -> bool:
    """Whether a folder has the configuration and all the weights that transformers loads."""
    if not (folder / "config.json").is_file():
        return False
    if any((folder / name).is_file() for name in WEIGHTS):
        return True
    for name in WEIGHTS:
        try:
            shards = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if shards and all((folder / str(shard)).is_file() for shard in shards):
            return True
    return False
