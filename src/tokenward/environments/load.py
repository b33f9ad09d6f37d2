"""An environment by its built-in name, or from a file of one's own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenward.environments import ENVIRONMENTS
from tokenward.environments.protocol import Environment
from tokenward.errors import InputError, nearest


def environment(spec: str) -> Environment:
    """A built-in name, or `file.py:Name` of a class or function that is called without arguments.

    The file is run as Python: give only files that you trust.

    >>> environment("ask-then-anser")
    Traceback (most recent call last):
        ...
    tokenward.errors.InputError: unknown environment 'ask-then-anser'. Did you mean 'ask-then-answer'?
    """
    file, colon, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise InputError(f"environment {spec} names no class; write {spec}:Name")
    if not colon:
        if spec not in ENVIRONMENTS:
            raise InputError(f"unknown environment {spec!r}.{nearest(spec, ENVIRONMENTS)}")
        return ENVIRONMENTS[spec]()
    module = _module(Path(file), spec)
    make: Callable[[], Any] | None = getattr(module, name, None)
    if not callable(make):
        own = [n for n, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise InputError(f"environment {spec}: {file} has no {name!r}.{nearest(name, own)}")
    try:
        made = make()
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise InputError(f"environment {spec}: {name}() raised {type(error).__name__}: {error}") from error
    if not isinstance(made, Environment):
        raise InputError(f"environment {spec}: {name}() gives a {type(made).__name__} without start(prompt, seed)")
    return made


def _module(file: Path, spec: str) -> ModuleType:
    if not file.is_file():
        raise InputError(f"environment {spec}: no file {file}")
    module_spec = importlib.util.spec_from_file_location(f"tokenward_environment_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"environment {spec}: {file} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses in the user's file look their module up
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise InputError(f"environment {spec}: importing it raised {type(error).__name__}: {error}") from error
    return module
