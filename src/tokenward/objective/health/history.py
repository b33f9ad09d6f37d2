"""The numbers that a run has told so far, by name, and what checks read off them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import final

WINDOW = 10  # values that a mean is taken over
OF_A_FILE = "epoch"  # passes over the data: every run that learns from a file tells them, no run that samples does
Event = Mapping[str, object]
Reading = Callable[["History"], float | None]


def sampled(events: Iterable[Event]) -> bool:
    """Whether the run of these events learns from texts that it samples: scores and lengths of a file are the data's.

    >>> sampled([{"event": "update", "score": 0.5}]), sampled([{"event": "update", "score": 0.5, "epoch": 0.1}])
    (True, False)
    """
    return all(OF_A_FILE not in event for event in events)


@final
class History:
    """Finite numbers of update and eval events, in order; of several runs one after the other there is no history."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._values: dict[str, list[float]] = {}
        self._places: dict[str, list[int]] = {}  # which event each value is of
        self._count = 0
        self.sampled = True
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in the numbers of one event."""
        if event.get("event") not in ("update", "eval"):
            return
        self._count += 1
        self.sampled = self.sampled and sampled([event])
        for name, value in event.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self._values.setdefault(name, []).append(float(value))
                self._places.setdefault(name, []).append(self._count)

    def values(self, name: str) -> list[float]:
        """All values of a metric; empty where it was never told."""
        return self._values.get(name, [])

    def together(self, *names: str) -> list[tuple[float, ...]]:
        """The values of several metrics, side by side, of the events that told all of them.

        >>> History([{"event": "eval", "a": 1, "b": 2}, {"event": "eval", "a": 3}]).together("a", "b")
        [(1.0, 2.0)]
        """
        columns = [dict(zip(self._places.get(name, ()), self.values(name), strict=True)) for name in names]
        return [tuple(one[at] for one in columns) for at in columns[0] if all(at in one for one in columns)]


def late(name: str, *, least: int = WINDOW) -> Reading:
    """Mean of the last WINDOW values, once there are `least`."""

    def read(history: History) -> float | None:
        values = history.values(name)
        return fmean(values[-WINDOW:]) if len(values) >= least else None

    return read


def unless(other: str, reading: Reading) -> Reading:
    """The reading, where another metric was never told."""

    def read(history: History) -> float | None:
        return None if history.values(other) else reading(history)

    return read


def total(*names: str) -> Reading:
    """Sum of the late means of those that were told; None where none was."""

    def read(history: History) -> float | None:
        found = [value for name in names if (value := late(name)(history)) is not None]
        return math.fsum(found) if found else None

    return read


def largest(name: str) -> Reading:
    """Largest of the last WINDOW values."""

    def read(history: History) -> float | None:
        values = history.values(name)
        return max(values[-WINDOW:]) if len(values) >= WINDOW else None

    return read


def size(name: str) -> Reading:
    """|late mean|."""

    def read(history: History) -> float | None:
        value = late(name)(history)
        return None if value is None else abs(value)

    return read


def early_and_late(history: History, name: str) -> tuple[float, float] | None:
    """Means of the first and of the last WINDOW values, where they do not overlap."""
    values = history.values(name)
    return (fmean(values[:WINDOW]), fmean(values[-WINDOW:])) if len(values) >= 2 * WINDOW else None


def change(name: str) -> Reading:
    """Late mean ÷ early mean, of a metric that is above 0."""

    def read(history: History) -> float | None:
        ends = early_and_late(history, name)
        return None if ends is None or ends[0] <= 0 else ends[1] / ends[0]

    return read


def drift(name: str) -> Reading:
    """The factor by which a metric grew or shrank, 1 or more."""

    def read(history: History) -> float | None:
        found = change(name)(history)
        return None if found is None else math.inf if found <= 0 else max(found, 1 / found)

    return read


def kl_per_token(history: History) -> float | None:
    """Late KL of a text ÷ late length."""
    kl, length = late("kl")(history), late("completions/length")(history)
    return None if kl is None or not length else kl / length


def one_quarter(history: History) -> float | None:
    """The largest quarter's share of the KL; None below 0.05 nats a token, where the shares are noise."""
    parts = [late(f"kl/quarter_{i}")(history) for i in (1, 2, 3, 4)]
    known = [max(part, 0.0) for part in parts if part is not None]
    if len(known) < 4 or math.fsum(known) / 4 < 0.05:
        return None
    return max(known) / math.fsum(known)


def gain_by_length(history: History) -> float | None:
    """Share of the score's gain that the change of length explains: b·Δlength ÷ Δscore, b the mean slope of batches.

    None while the gain is below half the spread of the scores of a batch at the beginning.
    """
    score, length = early_and_late(history, "score"), early_and_late(history, "completions/length")
    slopes, spread = history.values("score/length_slope"), history.values("score_std")[:WINDOW]
    if score is None or length is None or not slopes or not spread:
        return None
    gain = score[1] - score[0]
    if gain <= 0.5 * fmean(spread):
        return None
    return fmean(slopes) * (length[1] - length[0]) / gain


def held_out_fall(history: History) -> float | None:
    """How far the held-out reward has fallen from its best, in standard errors, while the proxy has not fallen.

    The smaller of the falls at the last two evaluations: one unlucky draw does not count. The error of a fall is taken
    as √(se² + se_best²), too large where prompts and random numbers are the same, as they are in training. 0 where the
    proxy is lower than it was at the best. An evaluation that lacks one of the three numbers is passed over.
    """
    whole = history.together("eval/reward", "eval/reward_se", "eval/proxy")
    if len(whole) < 4:
        return None
    reward, error, proxy = ([row[i] for row in whole] for i in range(3))
    best = max(range(len(reward)), key=reward.__getitem__)
    if best >= len(reward) - 2 or proxy[-1] < proxy[best] or proxy[-2] < proxy[best]:
        return 0.0
    falls = [(reward[best] - reward[i]) / (math.hypot(error[i], error[best]) or 1e-12) for i in (-1, -2)]
    return min(falls)
