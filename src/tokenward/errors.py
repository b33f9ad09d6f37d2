"""The two ways a command can fail: bad input (exit 2) and a failed run (exit 1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong: one line saying what, where and what to do."""


class RunError(RuntimeError):
    """A run cannot go on (NaN loss, lost model): one line; what was computed is kept."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known word, or the list of known words.

    >>> nearest("dop", ["dpo", "ppo"])
    " Did you mean 'dpo'?"
    >>> nearest("xyz", ["dpo", "ppo"])
    ' Known: dpo, ppo.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
