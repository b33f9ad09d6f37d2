"""What a run says of itself: one event per update in events.jsonl, and lines or a bar for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

from tokenward.objective.health.watch import Watch, warning
from tokenward.runlog import RunLog
from tokenward.train.progress import Progress
from tokenward.train.update import Outcome


@final
class Journal:
    """Gathers the numbers of an update (timings, notes of its batch) and writes them as one event.

    What the checks of health find bad is a `warning` event and a line, once a run and check.
    """

    def __init__(self, log: RunLog, progress: Progress, watch: Watch) -> None:
        self._log, self._progress, self.watch = log, progress, watch
        self._notes: dict[str, object] = {}
        self._seconds: dict[str, float] = {}
        self.last: dict[str, object] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to `timing_s/name` of the next event."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def note(self, numbers: Mapping[str, float]) -> None:
        """Numbers of a batch, for the event of its first update."""
        self._notes |= numbers

    def say(self, *lines: str) -> None:
        """Lines for whoever watches."""
        for line in lines:
            self._progress.say(line)

    def update(self, number: int, outcome: Outcome, *, learning_rate: float) -> None:
        """The event of one update; all but `timing_s/*` and `perf/*` is the same in every repetition of the run."""
        event: dict[str, object] = {"event": "update", "update": number, "loss": outcome.loss}
        event |= {"grad_norm": outcome.grad_norm, "learning_rate": learning_rate, **outcome.values, **self._notes}
        event |= {f"timing_s/{name}": seconds for name, seconds in self._seconds.items()}
        event["perf/tokens_per_s"] = outcome.tokens / max(sum(self._seconds.values()), 1e-9)
        self._notes, self._seconds, self.last = {}, {}, event
        self._log.append(event)
        self._progress.update(number, event)
        self._warn(number, event)

    def held_out(self, number: int, numbers: Mapping[str, float]) -> None:
        """The event of an evaluation on held-out prompts after an update."""
        event: dict[str, object] = {"event": "eval", "update": number, **numbers}
        self._log.append(event)
        self._warn(number, event)

    def _warn(self, number: int, event: Mapping[str, object]) -> None:
        for found in self.watch.see(event):
            self._log.append(warning(found, update=number))
            self.say(f"warning at update {number}: {found.check.name}: {found.text}")
