"""A run made ready to train: from the beginning, or from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tokenward.errors import InputError
from tokenward.runlog import RunLog
from tokenward.train import checkpoint, directory
from tokenward.train.assemble import Run, assemble
from tokenward.train.config import RunConfig, Scalar
from tokenward.train.journal import Journal
from tokenward.train.progress import Show, progress
from tokenward.train.runtime import StopRequest, session, stop_request
from tokenward.train.settings import Settings
from tokenward.train.state import Place
from tokenward.train.update import Learner


@final
@dataclass(frozen=True)
class Opened:
    """A run, where it stands, what makes its updates, who is told, and whether a signal asked it to stop."""

    run: Run
    place: Place
    learner: Learner
    journal: Journal
    stop: StopRequest


@contextmanager
def fresh(
    config: RunConfig, recipe: str, *, keywords: Mapping[str, Scalar] | None = None, show: Show = "auto"
) -> Iterator[Opened]:
    """A recipe (a name, or file.py:function) from the beginning, in a directory that holds no run."""
    directory.claim(Path(config.out))
    with session(config) as runtime, stop_request() as stop:
        run = assemble(Settings(recipe, dict(keywords or {}), config), runtime)
        directory.begin(run)
        place = Place()
        with _told(run, place, show) as journal:
            yield Opened(run, place, _learner(run), journal, stop)


@contextmanager
def resumed(out: Path, *, show: Show = "auto") -> Iterator[Opened]:
    """The run of a directory at its newest whole checkpoint, at its beginning where there is none."""
    settings = directory.settings(out)
    if directory.finished(out):
        raise InputError(f"{out} is finished: its model lies in {out / 'model'}")
    with session(settings.config) as runtime, stop_request() as stop:
        run = assemble(settings, runtime)
        directory.same_inputs(run)
        saved = checkpoint.newest(out / "checkpoints")
        place = Place() if saved is None else directory.load(run, saved)
        with _told(run, place, show) as journal:
            yield Opened(run, place, _learner(run), journal, stop)


def _learner(run: Run) -> Learner:
    return Learner(
        run.recipe,
        roles=run.roles,
        optimizer=run.optimizer,
        runtime=run.runtime,
        config=run.config,
        where=run.source.where,
    )


@contextmanager
def _told(run: Run, place: Place, show: Show) -> Iterator[Journal]:
    """events.jsonl as it stood at this place, and a bar or lines for whoever watches."""
    log = RunLog(run.out / "events.jsonl")
    log.rewind(place.update)
    watch = progress(show, total=run.total, done=place.update, every=run.config.log_every, label=run.recipe.name)
    try:
        again = [f"resuming at update {place.update}"] if place.update else []
        for line in (*run.notes, *map(str, run.advice), *again):
            watch.say(line)
        yield Journal(log, watch)
    finally:
        watch.close()
