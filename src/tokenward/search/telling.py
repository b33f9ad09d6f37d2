"""Progress of a search on stderr, where a person watches."""

from __future__ import annotations

import sys
import time
from typing import Literal, final

Show = Literal["auto", "lines", "nothing"]


@final
class Telling:
    """Says what is being read: "auto" overwrites one line of a terminal, "lines" writes a line per prompt."""

    def __init__(self, *, total: int, show: Show) -> None:
        self.total, self.done = total, 0
        self.show: Show = "nothing" if show == "auto" and not sys.stderr.isatty() else show
        self._last = 0.0

    def __call__(self, words: str) -> None:
        """What a search says while it works on one prompt; at most twice a second."""
        if self.show == "auto" and time.monotonic() - self._last > 0.5:
            self._last = time.monotonic()
            sys.stderr.write(f"\r\x1b[Kprompt {self.done + 1}/{self.total} · {words}")
            sys.stderr.flush()

    def prompt(self, *, forwarded: int) -> None:
        """One prompt is answered."""
        self.done += 1
        if self.show == "lines":
            sys.stderr.write(f"prompt {self.done}/{self.total} · {forwarded:,} tokens read\n")
        elif self.show == "auto":
            sys.stderr.write("\r\x1b[K" if self.done == self.total else "")
        sys.stderr.flush()
