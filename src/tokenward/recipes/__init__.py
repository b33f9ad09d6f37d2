"""Every method by name: `RECIPES`, `build`, and `load` for a method in a file of your own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from tokenward.errors import InputError, nearest
from tokenward.objective.recipe import Recipe
from tokenward.recipes.catalog import CATALOG

Setting = int | float | str | None

RECIPES: dict[str, Callable[..., Recipe]] = {name: method.make for name, method in CATALOG.items()}


def maker(name: str) -> Callable[..., Recipe]:
    """The recipe function of a name in RECIPES, or of "file.py:function".

    >>> maker("dop")
    Traceback (most recent call last):
        ...
    tokenward.errors.InputError: unknown recipe 'dop'. Did you mean 'dpo'?
    """
    if ":" in name:
        return load(name)
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}.{nearest(name, RECIPES)}")
    return RECIPES[name]


def build(name: str, **settings: Setting) -> Recipe:
    """The recipe with the given keyword arguments; anything unknown is an InputError that names the nearest match."""
    make = maker(name)
    known = inspect.signature(make).parameters
    for key in settings:
        if key not in known:
            raise InputError(f"recipe {name} has no setting {key!r}.{nearest(key, known)}")
    return make(**settings)


def load(spec: str) -> Callable[..., Recipe]:
    """The function of "file.py:function": a method of your own, without touching the package.

    The file is run as Python: give only files that you trust.
    """
    path, _, function = spec.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"recipe {spec!r}: no file {path!r}; give file.py:function")
    module_spec = importlib.util.spec_from_file_location(f"tokenward_recipe_{Path(path).stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"recipe {spec!r}: {path!r} is not a Python file; give file.py:function")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    make = getattr(module, function, None)
    if not callable(make):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"recipe {spec!r}: {path} has no function {function!r}.{nearest(function, names)}")
    result: Callable[..., Recipe] = make
    return result
