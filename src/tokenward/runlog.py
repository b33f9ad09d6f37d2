"""The event log of a run: append-only JSON lines, the contract between runs and reports.

Every event is one object on one line of valid JSON. A number that JSON cannot hold is written as the string "NaN",
"Infinity" or "-Infinity", which `float()` reads back. A kill can tear the last line only; it is then as if that event
had not happened yet. Files that are replaced as a whole are replaced atomically.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from tokenward.errors import InputError

Event = dict[str, object]


@final
class RunLog:
    """Appends events to one file.

    >>> import tempfile
    >>> log = RunLog(Path(tempfile.mkdtemp()) / "events.jsonl")
    >>> log.append({"event": "update", "update": 1, "loss": 0.5, "ratio": float("nan")})
    >>> read(log.path)
    [{'event': 'update', 'update': 1, 'loss': 0.5, 'ratio': 'NaN'}]
    """

    def __init__(self, path: Path) -> None:
        """Open the log for appending; a torn last line is cut off first."""
        self.path = Path(path)
        if self.path.exists():
            whole = self.path.read_bytes()
            os.truncate(self.path, whole.rfind(b"\n") + 1)

    def append(self, event: Mapping[str, object]) -> None:
        """Add one line; when this returns, killing the process no longer loses it."""
        line = _line(event).encode()
        with self.path.open("ab") as file:
            file.write(line)

    def rewind(self, update: int) -> None:
        """Forget everything from the first event whose "update" is past the given one.

        After resuming from the checkpoint of that update, the log goes on as that of a run without interruption.
        """
        end = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else ():
            reached = _parse(line, self.path).get("update", -1)
            if isinstance(reached, int) and reached > update:
                os.truncate(self.path, end)
                return
            end += len(line)


def read(path: Path) -> list[Event]:
    """All events of a log, oldest first; a torn last line (a run killed while writing) is left out."""
    text = Path(path).read_bytes()
    return [_parse(line, path) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: whoever reads it, even after a power cut, sees the old or the new text, whole."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: object) -> None:
    """Replace a file atomically by a value as indented JSON; numbers as in the event log."""
    write_text(path, _dumped(value, indent=2) + "\n")


def _line(event: Mapping[str, object]) -> str:
    return _dumped(event, separators=(",", ":")) + "\n"


def _dumped(value: object, **style: Any) -> str:
    """The value as JSON; half characters (of a file's name that is no UTF-8) as their escapes."""
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, **style)
    return text.encode(errors="backslashreplace").decode()


def _plain(value: object) -> object:
    """The value with its containers made JSON's and its non-finite numbers made words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _parse(line: bytes, path: Path) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise InputError(f"{path}: not an event log: each line must be one JSON object, got {line[:60]!r}")
    return event
