"""Reads along while a run is on, and says each thing once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from tokenward.objective.health.checks import CHECKS, Finding
from tokenward.objective.health.history import Event, History


@final
class Watch:
    """The history of a run, and which warnings it has had; made from the events so far, it goes on as if never gone."""

    def __init__(self, past: Iterable[Event] = ()) -> None:
        self.told = History()
        self.evaluated: set[object] = set()  # updates after which held-out prompts were asked
        self._said: set[str] = set()
        for event in past:
            self._take(event)
            if event.get("event") == "warning":
                self._said.add(str(event.get("check")))

    def see(self, event: Event) -> list[Finding]:
        """Take in an event; the checks it reads that are bad now and have not been said in this run."""
        self._take(event)
        new = [
            found
            for check in CHECKS
            if check.name not in self._said and any(name in event for name in check.reads)
            if (found := check.find(self.told)).level == "bad"
        ]
        self._said |= {found.check.name for found in new}
        return new

    def _take(self, event: Event) -> None:
        self.told.add(event)
        if event.get("event") == "eval":
            self.evaluated.add(event.get("update"))


def warning(found: Finding, *, update: int) -> dict[str, object]:
    """The event of a warning: check, level, value, threshold, and the sentence."""
    told = {"check": found.check.name, "level": found.level, "value": found.value, "threshold": found.check.bad}
    return {"event": "warning", "update": update, **told, "text": found.text}
