"""The loop of every run. It knows no algorithm: the recipe does."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tokenward.data.sentences import with_sentences
from tokenward.objective.health.metrics import health_metrics
from tokenward.objective.metrics import batch_metrics
from tokenward.objective.shares import reward_shares
from tokenward.objective.signal.stage_metrics import stage_metrics
from tokenward.train import directory
from tokenward.train.assemble import Run
from tokenward.train.best import look
from tokenward.train.checks import first_batch
from tokenward.train.config import RunConfig, Scalar
from tokenward.train.journal import Journal
from tokenward.train.next_batch import next_batch
from tokenward.train.opened import Opened, fresh, resumed
from tokenward.train.probe import probed
from tokenward.train.progress import Show
from tokenward.train.runtime import Interrupted, StopRequest
from tokenward.train.schedule import minis, rate, set_rate
from tokenward.train.state import Place
from tokenward.train.update import Piece, moved


@dataclass(frozen=True)
class Result:
    """Where the trained model lies, how many updates made it, and the last event."""

    model: Path
    updates: int
    event: dict[str, object]
    seconds: float


def train(live: Opened) -> Result:
    """Update until the run's length is reached, then write the model."""
    run, place, journal, start = live.run, live.place, live.journal, time.monotonic()
    look(run, place, journal)
    while place.update < run.total:
        if place.piece is None:  # otherwise resumed within a batch
            place.piece, place.done = begin(run, place, journal), 0
        piece = place.piece
        rows = minis(piece.batch, recipe=run.recipe, config=run.config, number=place.batches)
        for index in rows[place.done : place.done + run.total - place.update]:
            share = rate(run.config, update=place.update, total=run.total)
            set_rate(run.optimizer, share)
            with journal.timing("update"):
                journal.note(probed(run.probe, run.roles, update=place.update))
                outcome = live.step(piece.rows(index))
            place.update, place.done = place.update + 1, place.done + 1
            if place.done == len(rows):
                place.piece = None
                run.source.update(run.roles.policy)  # fresh weights to the sampler
            journal.update(place.update, outcome, learning_rate=share * run.config.learning_rate)
            look(run, place, journal)
            pause(run, place, live.stop)
    return Result(directory.finish(run), place.update, journal.last, time.monotonic() - start)


def begin(run: Run, place: Place, journal: Journal) -> Piece:
    """The next batch, with everything about it that is computed once."""
    with journal.timing("batch"):
        batch = with_sentences(next_batch(run, place), ends=run.sentence_ends)  # pairs from disk, or fresh rollouts
        batch = moved(batch, run.runtime.device)
    run.roles.remember()  # where something asks how far the batch's updates move the policy
    with journal.timing("frozen"):
        frozen = run.roles.frozen(batch, run.recipe.needs)  # no gradient, only what the recipe needs
    if place.update == 0:
        journal.say(*first_batch(run, batch, frozen))
    healthy = health_metrics(batch, frozen)
    if run.config.old_logp == "sampler":
        frozen = replace(frozen, old_logp=batch.sampler_logp)
    # on whole groups, and with what the steps remember
    signals, place.memory = run.recipe.signal_after(batch, frozen, place.memory, total=run.runtime.total)
    place.batches += 1
    told = batch_metrics(batch, frozen, signals) | stage_metrics(run.recipe, batch, frozen, place.memory)
    journal.note(told | healthy | reward_shares(run.recipe, batch, frozen) | run.source.metrics())
    return Piece(batch, frozen, signals)


def pause(run: Run, place: Place, stop: StopRequest) -> None:
    """Write a checkpoint when one is due or a signal came; after a signal, stop."""
    every = run.config.save_every
    if stop.signal is None and (not every or place.update % every or place.update == run.total):
        return
    directory.save(run, place)
    if stop.signal is not None and place.update < run.total:
        name = signal.Signals(stop.signal).name
        again = f"go on with: tokenward train --resume {run.out}"
        raise Interrupted(f"{name}: saved at update {place.update} of {run.total}; {again}", signal=stop.signal)


def run(config: RunConfig, recipe: str, *, keywords: Mapping[str, Scalar] | None = None, show: Show = "auto") -> Result:
    """Train a recipe (a name, or file.py:function) from the beginning into a directory that holds no run."""
    with fresh(config, recipe, keywords=keywords, show=show) as live:
        return train(live)


def resume(out: Path, *, show: Show = "auto") -> Result:
    """Go on with the run of a directory."""
    with resumed(out, show=show) as live:
        return train(live)
