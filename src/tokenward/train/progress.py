"""What a person sees while a run is on: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, final, runtime_checkable

Show = Literal["auto", "lines", "nothing"]
SHOWN = ("loss", "rewards/margins", "rewards/accuracies", "score", "kl", "grad_norm")


@runtime_checkable
class Progress(Protocol):
    """Told of every update, and of what is worth a line."""

    def say(self, line: str) -> None: ...
    def update(self, number: int, event: Mapping[str, object]) -> None: ...
    def close(self) -> None: ...


def progress(show: Show, *, total: int, done: int, every: int, label: str) -> Progress:
    """A bar on a terminal, a line every so many updates elsewhere, or nothing."""
    if show == "nothing":
        return Silence()
    if show == "auto" and sys.stderr.isatty():
        return Bar(total=total, done=done, label=label)
    return Lines(total=total, done=done, every=every)


@final
class Silence:
    """Says nothing."""

    def say(self, line: str) -> None:
        pass

    def update(self, number: int, event: Mapping[str, object]) -> None:
        pass

    def close(self) -> None:
        pass


@final
class Lines:
    """Prints the first update, every `every`-th and the last, with the time left."""

    def __init__(self, *, total: int, done: int, every: int, write: Callable[[str], None] = print) -> None:
        self._total, self._done, self._every, self._write = total, done, every, write
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        self._write(line)

    def update(self, number: int, event: Mapping[str, object]) -> None:
        if number % self._every and number not in (self._done + 1, self._total):
            return
        left = (time.monotonic() - self._start) / (number - self._done) * (self._total - number)
        self._write(f"update {number}/{self._total} · {_numbers(event)} · {_clock(left)} left")

    def close(self) -> None:
        pass


@final
class Bar:
    """rich's progress bar on stderr."""

    def __init__(self, *, total: int, done: int, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=Console(stderr=True))
        self._task = self._bar.add_task(label, total=total, completed=done, numbers="")
        self._bar.start()

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, number: int, event: Mapping[str, object]) -> None:
        self._bar.update(self._task, completed=number, numbers=_numbers(event, most=2))

    def close(self) -> None:
        self._bar.stop()


def _numbers(event: Mapping[str, object], *, most: int = len(SHOWN)) -> str:
    pairs = [(name, event[name]) for name in SHOWN if name in event][:most]
    words = [f"{name} {value:.4g}" for name, value in pairs if isinstance(value, int | float)]
    return " · ".join((["critic alone"] if "critic/warmup" in event else []) + words)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )
