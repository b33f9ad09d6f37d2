"""Calls of other people's code that may raise or hang: whatever happens becomes one line that names the call."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, final

from tokenward.errors import InputError


@final
class Patience:
    """Runs calls one after another in one thread of its own, and waits `seconds` for each.

    A call that hangs cannot be killed: its thread is left behind (it ends with the program) and nothing more is asked.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise InputError(f"an environment needs more than 0 seconds for a call, got {seconds}")
        self.seconds = seconds
        self._asked: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hung = False

    def call(self, work: Callable[[], Any], *, what: str) -> Any:
        """What the work returns; InputError `what` when it raises, or takes too long."""
        if self._hung:  # its answer would come to the next one who asks
            raise InputError(f"{what}: a call before it never returned")
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True, name="environment")
            self._thread.start()
        self._asked.put(work)
        try:
            value, error = self._given.get(timeout=self.seconds)
        except queue.Empty:
            self._hung = True
            raise InputError(f"{what} took more than {self.seconds:g} s: make it faster, or wait longer") from None
        words = " ".join(str(error).split())
        if isinstance(error, InputError):
            raise InputError(f"{what}: {words}") from error
        if error is not None:
            raise InputError(f"{what} raised {type(error).__name__}: {words}") from error
        return value

    def _serve(self) -> None:
        while True:
            work = self._asked.get()
            try:
                self._given.put((work(), None))
            except Exception as error:  # other people's code: whatever it raises is reported as one line
                self._given.put((None, error))
