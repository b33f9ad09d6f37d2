"""A reward function in a process of its own, which ends when a call takes too long.

Only a process can be stopped whatever it does: a thread cannot, and a signal waits for code that never comes back to
Python. The function is imported there alone, so what it holds (models, caches, connections) goes with it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tokenward.errors import InputError, RunError
from tokenward.own_file import Refused
from tokenward.rollout.rewards import worker

LOAD_S = 300.0  # importing the user's file may load a model


@final
class OwnProcess:
    """`function` of `file`, called in a child process; RunError when a call takes more than `seconds`.

    Texts and columns travel as JSON. The child is started anew after it was ended.
    """

    def __init__(self, file: Path, function: str, *, name: str, seconds: float) -> None:
        self.file, self.function, self.name, self.seconds = file, function, name, seconds
        self._child: _Child | None = None
        self.asks = self._started()

    def __call__(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """What the function returns; Raised and Refused as `worker.call` does."""
        if self._child is None:
            self._started()
        try:
            line = json.dumps({"given": given, "named": named})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"reward {self.name} runs in a process of its own (reward_timeout_s), and a column cannot be written "
                f"as JSON: {error}"
            ) from error
        found = self._asked(line, self.seconds, f"{len(given[0])} completions")
        if "raised" in found:
            raise worker.Raised(found["raised"])
        if "refused" in found:
            raise Refused(found["refused"])
        returned: list[Any] = found["returned"]
        return returned

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _started(self) -> tuple[str, ...]:
        """The parameters that the function asks for besides, once its file is imported."""
        self._child = _Child(self.file, self.function)
        found = self._asked(json.dumps(sys.path), LOAD_S, "importing its file")
        if "refused" in found:
            self.close()
            raise Refused(found["refused"])
        return tuple(found["asks"])

    def _asked(self, line: str, seconds: float, what: str) -> dict[str, Any]:
        assert self._child is not None  # started by every caller
        answer = self._child.ask(line, seconds)
        if answer is not None:
            found: dict[str, Any] = json.loads(answer)
            return found
        status = self._child.process.poll()
        self.close()
        if status is None:
            raise RunError(
                f"reward {self.name} gave no answer within {seconds:g} s ({what}); its process was ended: mend it, or "
                "give a larger reward_timeout_s"
            )
        raise RunError(f"reward {self.name}: its process ended with exit status {status} ({what})")


@final
class _Child:
    """The process and the two pipes to it; ended when nobody holds this object any more."""

    def __init__(self, file: Path, function: str) -> None:
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        words = [str(Path(worker.__file__)), str(file), function, str(reads), str(writes), str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *words],  # -P: the names of this folder's files must not hide the user's modules
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which saves first
        )
        os.close(reads)
        os.close(writes)
        self.end = weakref.finalize(self, _end, self.process, (self._write, self._read))

    def ask(self, line: str, seconds: float) -> bytes | None:
        """The child's answer to a line; None when it gave none in time, or is gone."""
        limit = time.monotonic() + seconds
        waiting = memoryview(line.encode() + b"\n")
        found = bytearray()
        os.set_blocking(self._write, False)
        while not found.endswith(b"\n"):
            left = limit - time.monotonic()
            ready = select.select([self._read], [self._write] if waiting else [], [], max(left, 0.0))
            if not any(ready):
                return None
            try:
                if ready[1]:
                    waiting = waiting[os.write(self._write, waiting) :]
            except BrokenPipeError:
                break
            if ready[0]:
                piece = os.read(self._read, 1 << 16)
                if not piece:
                    break
                found += piece
        if found.endswith(b"\n"):
            return bytes(found)
        self.process.wait()  # its end of a pipe is closed: so that its exit status can be told
        return None


def _end(process: subprocess.Popen[bytes], pipes: Sequence[int]) -> None:
    process.kill()
    process.wait()
    for pipe in pipes:
        os.close(pipe)
