"""A run made ready to train: from the beginning, or from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tokenward.errors import InputError
from tokenward.objective.health.watch import Watch
from tokenward.objective.updates import ConstrainedStep
from tokenward.runlog import RunLog, read
from tokenward.train import checkpoint, directory
from tokenward.train.assemble import Run, assemble
from tokenward.train.config import RunConfig, Scalar
from tokenward.train.constrained import ConstrainedLearner
from tokenward.train.critic_first import CriticFirst, alone
from tokenward.train.journal import Journal
from tokenward.train.progress import Show, progress
from tokenward.train.runtime import StopRequest, session, stop_request
from tokenward.train.settings import Settings
from tokenward.train.state import Place
from tokenward.train.update import Learner, Outcome, Piece


@final
@dataclass(frozen=True)
class Opened:
    """A run, where it stands, what makes its updates, who is told, and whether a signal asked it to stop."""

    run: Run
    place: Place
    learner: Learner | ConstrainedLearner
    journal: Journal
    stop: StopRequest
    critic_first: CriticFirst | None = None  # what makes the first updates, where only the critic learns

    def step(self, piece: Piece) -> Outcome:
        """One update on these rows."""
        early = self.critic_first is not None and self.place.update < self.run.config.critic_warmup
        return self.critic_first.step(piece) if early and self.critic_first else self.learner.step(piece)


@contextmanager
def fresh(
    config: RunConfig, recipe: str, *, keywords: Mapping[str, Scalar] | None = None, show: Show = "auto"
) -> Iterator[Opened]:
    """A recipe (a name, or file.py:function) from the beginning, in a directory that holds no run."""
    with session(config) as runtime, stop_request() as stop:
        with directory.claimed(Path(config.out)):
            run = assemble(Settings(recipe, dict(keywords or {}), config), runtime)
            directory.begin(run)
        place = Place(memory=run.recipe.memory)
        with _told(run, place, show) as journal:
            yield Opened(run, place, _learner(run), journal, stop, _critic_first(run))


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
        place = Place(memory=run.recipe.memory) if saved is None else directory.load(run, saved)
        with _told(run, place, show) as journal:
            yield Opened(run, place, _learner(run), journal, stop, _critic_first(run))


def _learner(run: Run) -> Learner | ConstrainedLearner:
    kind = ConstrainedLearner if isinstance(run.recipe.update, ConstrainedStep) else Learner
    return kind(
        run.recipe,
        roles=run.roles,
        optimizer=run.optimizer,
        runtime=run.runtime,
        config=run.config,
        where=run.source.where,
    )


def _critic_first(run: Run) -> CriticFirst | None:
    recipe = alone(run.recipe) if run.config.critic_warmup else None
    if recipe is None:
        return None
    learner = Learner(
        recipe,
        roles=run.roles,
        optimizer=run.optimizer,
        runtime=run.runtime,
        config=run.config,
        where=run.source.where,
    )
    return CriticFirst(learner)


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
        yield Journal(log, watch, Watch(read(log.path) if log.path.exists() else ()))
    finally:
        watch.close()
