"""The user's reward function: called in this process, or in one of its own.

Needs the standard library and the package's `own_file` alone, so that it starts at once: as a script it is the process
that a time-out can end, which finds the package where this file lies. It then reads one JSON object a line, a batch to
score, and answers one a line; standard output stays the function's.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the parent's path comes later
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tokenward.own_file import Refused, module, raised

NAMED = ("spans", "finish")  # what a function is given besides, if it has a parameter of that name


class Raised(Exception):
    """What the user's function raised, in one line."""


def load(file: Path, name: str) -> Callable[..., Any]:
    """A function of a file (the user's own code, named by the user)."""
    own = module(file)
    found = getattr(own, name, None)
    if not callable(found):
        known = sorted(n for n, v in vars(own).items() if callable(v) and not n.startswith("_"))
        raise Refused(f"no function {name!r} in it; it has {', '.join(known) or 'none'}")
    asks(found)
    return found  # type: ignore[no-any-return]


def asks(function: Callable[..., Any]) -> tuple[str, ...]:
    """Which of `NAMED` the function has a parameter for; Refused if (prompts, completions, columns) do not fit it."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in that does not tell
        return ()
    named = tuple(name for name in NAMED if name in list(signature.parameters)[3:])
    try:
        signature.bind([], [], [], **dict.fromkeys(named))
    except TypeError as error:
        takes = f"{getattr(function, '__name__', 'it')}{signature}"
        raise Refused(
            f"{takes} cannot be called with (prompts, completions, columns): {error}; it may also take "
            f"{' and '.join(NAMED)} by name"
        ) from error
    return named


def call(function: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any], *, file: Path | None) -> Any:
    """What the function returns, as a list; Raised with its exception and the line of its file, Refused otherwise."""
    try:
        returned = function(*given, **named)
        found = plain(returned)
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise Raised(raised(error, file=file)) from error
    if not isinstance(found, list):
        raise Refused(f"must return a list of numbers, got {type(returned).__name__}")
    return found


def plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists, mappings as dicts; everything else as it is."""
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Answer batches until the other end closes, or its process is gone."""
    file, name, reads, writes, parent = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    with os.fdopen(reads, encoding="utf-8") as asked, os.fdopen(writes, "w", encoding="utf-8") as answers:

        def answer(found: dict[str, Any]) -> None:
            print(json.dumps(found, default=_number), file=answers, flush=True)

        sys.path[:] = json.loads(asked.readline())
        try:
            function = load(file, name)
        except Refused as error:
            return answer({"refused": str(error)})
        answer({"asks": asks(function)})
        for line in asked:
            batch = json.loads(line)
            try:
                answer({"returned": call(function, tuple(batch["given"]), batch["named"], file=file)})
            except Refused as error:
                answer({"refused": str(error)})
            except Raised as error:
                answer({"raised": str(error)})
            except BaseException as error:  # sys.exit in the user's code too: the run must be told
                answer({"raised": raised(error)})
    return None


def _number(value: Any) -> float:
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"it returned a {type(value).__name__} where a number is wanted")


def _follow(parent: int) -> None:
    """End with the process that started this one, whatever the function is doing."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
