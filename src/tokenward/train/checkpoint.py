"""Checkpoints on disk: a folder of safetensors and JSON that is either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenward.errors import InputError
from tokenward.runlog import write_text

MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: JSON state, and named tensors by part (weights, optimizer, work, rng, …)."""

    update: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(folder: Path, saved: Saved, *, keep: int) -> Path:
    """Write step-N under the folder: files first, their hashes next, the name last; then drop the oldest."""
    target = folder / f"step-{saved.update}"
    if _whole(target):
        return target
    fresh = folder / f".step-{saved.update}.{os.getpid()}.tmp"
    for old in (target, fresh):
        shutil.rmtree(old, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part, tensors in saved.tensors.items():
        save_file(_apart(tensors), fresh / f"{part}.safetensors")
    (fresh / STATE).write_text(json.dumps({"update": saved.update, **saved.state}), encoding="utf-8")
    for file in fresh.iterdir():
        _sync(file)
    write_text(fresh / MANIFEST, json.dumps({file.name: file_hash(file) for file in sorted(fresh.iterdir())}, indent=1))
    fresh.replace(target)
    _sync(folder)
    for old in _steps(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> Saved | None:
    """The newest whole checkpoint; torn ones are passed over, None when there is no whole one."""
    for path in _steps(folder):
        if _whole(path):
            return load(path)
    return None


def load(path: Path) -> Saved:
    """Read one checkpoint."""
    if not _whole(path):
        raise InputError(f"{path} is not a whole checkpoint: a file is missing or differs from {MANIFEST}")
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Saved(state.pop("update"), state, tensors)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: two names may stand for one tensor, which safetensors refuses."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        place = there.untyped_storage().data_ptr()
        found[name] = there.clone() if place in seen else there
        seen.add(place)
    return found


def _steps(folder: Path) -> list[Path]:
    """The step-N folders, newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: -int(path.name[5:]))


def _whole(path: Path) -> bool:
    """Whether every file of the manifest is there with its hash."""
    try:
        manifest: Mapping[str, str] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return all(file_hash(path / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sync(path: Path) -> None:
    """Ask the disk to hold what was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
