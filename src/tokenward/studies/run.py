"""Studies by name, each to its folder: computed side by side, one process and one thread each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import final

import torch

from tokenward.errors import InputError, RunError, nearest
from tokenward.lab.worlds.world_file import read_world
from tokenward.studies import STUDIES
from tokenward.studies.study import write


@final
@dataclass(frozen=True)
class Done:
    """A study that was computed: how many of its claims hold, the texts of those that do not, and how long it took.

    `refused`: why it could not be computed (this world is none of its kind, a library is missing); the others go on.
    """

    name: str
    claims: int
    failed: tuple[str, ...]
    seconds: float
    refused: str | None = None


def run(names: Sequence[str], *, out: Path, world_path: str | None, workers: int) -> Iterator[Done]:
    """Compute each study on its own world or on that of the file, and write `out`/NAME/data.jsonl, as they end."""
    for name in names:
        if name not in STUDIES:
            raise InputError(f"unknown study {name!r}.{nearest(name, STUDIES)}")
    if world_path is not None:
        read_world(world_path)  # what is wrong with it is said before any process starts
    if len(names) == 1 or workers == 1:
        yield from (_one(name, out, world_path) for name in names)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_one, name, out, world_path) for name in names]):
            yield done.result()


def _one(name: str, out: Path, world_path: str | None) -> Done:
    before, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices: a second thread only waits
    try:
        study = STUDIES[name](None if world_path is None else read_world(world_path))
        write(study, out / name / "data.jsonl")
    except (InputError, RunError) as error:
        return Done(name, 0, (), time.perf_counter() - before, str(error))
    finally:
        torch.set_num_threads(threads)
    failed = tuple(claim.text for claim in study.failed)
    return Done(name, len(study.claims), failed, time.perf_counter() - before)
