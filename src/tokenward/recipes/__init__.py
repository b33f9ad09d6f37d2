"""Every method by name: `RECIPES`, `build`, and `load` for a method in a file of your own."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

from tokenward import ranges
from tokenward.errors import InputError, nearest
from tokenward.objective.recipe import Recipe
from tokenward.own_file import Refused, hints, module, raised
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
    if name.endswith(".py"):
        raise InputError(f"recipe {name!r} names no function: give file.py:function; {_functions(Path(name))}")
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
    if wrong := [
        line for key, value in settings.items() for line in (*ranges.wrong(key, value), *_choice(make, key, value))
    ]:
        raise InputError("\n".join(wrong))
    return make(**settings)


def idle(name: str, settings: Mapping[str, Setting]) -> list[str]:
    """One line for each keyword that differs from its default and changes nothing beside the others.

    >>> idle("ppo", {"kl_horizon": 5000.0, "beta_kl": 0.1})
    ['ppo: kl_horizon = 5000.0 has no effect with these settings']
    """
    recipe, known = build(name, **settings), inspect.signature(maker(name)).parameters

    def same_without(key: str) -> bool:
        try:
            return build(name, **{k: v for k, v in settings.items() if k != key}) == recipe
        except InputError:
            return False

    return [
        f"{name}: {key} = {value} has no effect with these settings"
        for key, value in settings.items()
        if value != known[key].default and same_without(key)
    ]


def _choice(make: Callable[..., Recipe], key: str, value: Setting) -> list[str]:
    """One line where a keyword of named choices is given another value."""
    kind = hints(make).get(key)
    if get_origin(kind) is not Literal or value in get_args(kind):
        return []
    return [
        f"{key} must be {' or '.join(map(repr, get_args(kind)))}, got {value!r}.{nearest(str(value), get_args(kind))}"
    ]


def load(spec: str) -> Callable[..., Recipe]:
    """The function of "file.py:function": a method of your own, without touching the package.

    The file is run as Python: give only files that you trust.
    """
    path, _, function = spec.rpartition(":")
    try:
        own = module(Path(path))
    except Refused as error:
        raise InputError(f"recipe {spec!r}: {error}; give file.py:function") from error
    make = getattr(own, function, None)
    if not callable(make):
        names = [name for name, value in vars(own).items() if inspect.isfunction(value)]
        raise InputError(f"recipe {spec!r}: {path} has no function {function!r}.{nearest(function, names)}")
    return _checked(make, spec, path)


def _checked(make: Callable[..., object], spec: str, path: str) -> Callable[..., Recipe]:
    """The function of a file, with one line for what it raises or gives that is no recipe."""

    @functools.wraps(make)
    def made(**keywords: Setting) -> Recipe:
        try:
            recipe = make(**keywords)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"recipe {spec!r} failed: {raised(error, file=Path(path))}") from error
        if not isinstance(recipe, Recipe):
            raise InputError(f"recipe {spec!r} must return a Recipe, got {type(recipe).__name__}")
        return recipe

    return made


def _functions(path: Path) -> str:
    """What functions a file has, read without running it."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except OSError:
        return f"there is no file {path}"
    except (SyntaxError, ValueError) as error:
        return f"the file cannot be read: {' '.join(str(error).split())}"
    names = [one.name for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    return f"the file has: {', '.join(names)}" if names else "the file has no function"
