"""An environment by its built-in name, or from a file of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenward.environments import ENVIRONMENTS
from tokenward.environments.protocol import Environment
from tokenward.errors import InputError, nearest
from tokenward.own_file import Refused, module, raised


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
    try:
        found = module(Path(file))
    except Refused as error:
        raise InputError(f"environment {spec}: {error}") from error
    make: Callable[[], Any] | None = getattr(found, name, None)
    if not callable(make):
        own = [n for n, v in vars(found).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise InputError(f"environment {spec}: {file} has no {name!r}.{nearest(name, own)}")
    try:
        made = make()
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise InputError(f"environment {spec}: {name}() raised {raised(error, file=Path(file))}") from error
    if not isinstance(made, Environment):
        raise InputError(f"environment {spec}: {name}() gives a {type(made).__name__} without start(prompt, seed)")
    return made
