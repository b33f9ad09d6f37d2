"""A Python file of the user's own: imported by its path, one line for what it raises, the types of its functions.

The file runs as Python: name only files that you trust. Needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints


class Refused(Exception):
    """A file, a name in it, or what that gives, that cannot be used: one line."""


def module(file: Path) -> ModuleType:
    """The module of a file; Refused where there is none, or where it raises."""
    if not file.is_file():
        raise Refused(f"no file {file}")
    whole = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:8]  # files of other folders may have its name
    spec = importlib.util.spec_from_file_location(f"tokenward_own_{file.stem}_{whole}", file)
    if spec is None or spec.loader is None:
        raise Refused(f"{file} is not a Python file")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses in the user's file look their module up
    try:
        spec.loader.exec_module(found)
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise Refused(f"importing it raised {raised(error, file=file)}") from error
    return found


def raised(error: BaseException, *, file: Path | None = None) -> str:
    """An exception in one line, with the last line of the user's file that it came through."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if file is None:
        return said
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return f"{said}, {file.name} line {lines[-1]}" if lines else said


def hints(make: Callable[..., object]) -> dict[str, Any]:
    """The types of a function's keywords; a name that stands in a file for type checkers alone has none."""
    scope = getattr(inspect.unwrap(make), "__globals__", {})
    found: dict[str, Any] = {}
    for name, keyword in inspect.signature(make).parameters.items():
        if keyword.annotation is not keyword.empty:
            with suppress(NameError, AttributeError):
                alone: Any = SimpleNamespace(__annotations__={name: keyword.annotation})
                found |= get_type_hints(alone, scope)
    return found
