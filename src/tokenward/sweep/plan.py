"""A sweep's file: common settings, methods, a grid and seeds, made into jobs.

settings
    model, data, reward, updates …: what all runs share
methods
    `ppo: {critic: own}`, `short: {recipe: grpo, group: 8, learning_rate: [1e-4, 3e-4]}`: names with their own settings
grid
    `beta_kl: [0.02, 0.05, 0.1]`
seeds
    `[0, 1, 2]`
measure
    `{data: heldout.jsonl, samples: 4}`, see Measure

Keys are those of `tokenward train` and of the recipe. What a method says wins over the grid, the grid over `settings`;
every list, in the grid or in a method, multiplies the jobs. A method without `recipe` is the recipe of its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, final

import yaml

from tokenward.errors import InputError, nearest
from tokenward.recipes import maker
from tokenward.train.config import coerce
from tokenward.train.fit import check
from tokenward.train.settings import resolve

KEYS = ("settings", "methods", "grid", "seeds", "measure")
OURS = ("out", "seed", "threads")  # settings that the sweep itself gives
START = "start"  # the method that is no run: the model that all runs of it begin with
Value = str | int | float | None


@final
@dataclass(frozen=True)
class Measure:
    """How a trained model is measured: `samples` texts for each prompt of `data`, drawn at temperature 1.

    `reward` is that of the run where it is absent. `by` names a column of the prompts whose values are told apart.
    """

    data: str
    samples: int = 4
    reward: str | None = None
    max_new_tokens: int | None = None
    by: str | None = None
    seed: int = 12345


@final
@dataclass(frozen=True)
class Job:
    """One run: its name (a folder's), method, place in the grid, seed; recipe and settings as `train` reads them."""

    name: str
    method: str
    point: dict[str, Value]
    seed: int
    recipe: str
    settings: dict[str, Value]

    @property
    def label(self) -> str:
        """Method and place in the grid: what runs of several seeds share."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.point.items())])


@final
@dataclass(frozen=True)
class Sweep:
    """The jobs of a file in its order, how they are measured, and the file's text."""

    jobs: tuple[Job, ...]
    measure: Measure
    text: str


def read_sweep(path: str | Path) -> Sweep:
    """The jobs of a file; everything wrong with any of them is said at once, before one starts."""
    if not Path(path).is_file():
        raise InputError(f"no file {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: must hold {', '.join(KEYS)}, got {type(found).__name__}")
    wrong = [f"{path}: unknown key {key!r}.{nearest(str(key), KEYS)}" for key in found if key not in KEYS]
    settings, methods, grid, measure = (
        _mapping(found, key, wrong) for key in ("settings", "methods", "grid", "measure")
    )
    seeds = found.get("seeds", [0])
    if not methods:
        wrong.append(f"{path}: methods is empty: name at least one, for example `ppo: {{}}`")
    if not isinstance(seeds, list) or not seeds or not all(isinstance(n, int) and n >= 0 for n in seeds):
        wrong.append(f"{path}: seeds must be a list of whole numbers ≥ 0, got {seeds!r}")
    wrong += [f"{path}: {key} is given by the sweep: leave it out" for key in OURS if key in settings | grid]
    wrong += [f"{path}: grid.{k} must be a list with values, got {v!r}" for k, v in grid.items() if not _values(v)]
    if wrong:
        raise InputError("\n".join(wrong))
    jobs = [job for name, own in methods.items() for job in _expand(str(name), own or {}, settings, grid, seeds)]
    try:
        made = _measure(measure, settings, where=str(path))
    except InputError as error:
        raise InputError("\n".join([str(error), *_refused(jobs)])) from error
    wrong = _refused(jobs)
    if not Path(made.data).is_file():
        wrong.append(f"measure.data = {made.data}: no such file")
    if wrong:
        raise InputError("\n".join(wrong))
    return Sweep((*_starts(jobs), *jobs), made, text)


def _mapping(found: Mapping[str, Any], key: str, wrong: list[str]) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        wrong.append(f"{key} must be `name: value` lines, got {value!r}")
        return {}
    return value


def _values(value: object) -> bool:
    return isinstance(value, list) and bool(value) and not any(isinstance(one, dict | list) for one in value)


def _expand(
    name: str, own: Mapping[str, Any], settings: Mapping[str, Any], grid: Mapping[str, Any], seeds: Sequence[int]
) -> list[Job]:
    """The jobs of one method: its settings over the grid's over the common ones, times the seeds."""
    if not isinstance(own, dict) or not name.strip() or "/" in name or name.startswith(".") or name == START:
        raise InputError(f"method {name!r}: must be a name without '/', not {START!r}, with `key: value` settings")
    if wrong := [key for key in OURS if key in own]:
        raise InputError(f"method {name}: {wrong[0]} is given by the sweep: leave it out")
    merged = {**settings, **grid, **own}
    recipe = str(merged.pop("recipe", name))
    lists = {key: value for key, value in merged.items() if isinstance(value, list)}
    if empty := [key for key, value in lists.items() if not _values(value)]:
        raise InputError(f"method {name}: {empty[0]} must be a value or a list of values, got {lists[empty[0]]!r}")
    jobs = []
    for values in product(*lists.values()):
        point = dict(zip(lists, values, strict=True))
        for seed in seeds:
            words = [name, *(f"{key}={value}" for key, value in point.items()), f"seed={seed}"]
            folder = re.sub(r"[^\w.=+<>&,-]", "_", "-".join(words))
            jobs.append(Job(folder, name, point, seed, recipe, {**merged, **point, "seed": seed, "threads": 1}))
    return jobs


def _starts(jobs: Sequence[Job]) -> list[Job]:
    """One measurement of each model that jobs begin with."""
    models = list(dict.fromkeys(str(job.settings["model"]) for job in jobs))
    many = len(models) > 1
    return [
        Job(f"{START}-{i}" if many else START, START, {"model": model} if many else {}, 0, "", {"model": model})
        for i, model in enumerate(models)
    ]


def _measure(given: Mapping[str, Any], settings: Mapping[str, Any], *, where: str) -> Measure:
    """The `measure` of a file with what it leaves to the settings."""
    types = {f.name: {"data": str, "samples": int, "seed": int}.get(f.name, str | None) for f in fields(Measure)}
    types["max_new_tokens"] = int | None
    if wrong := [f"{where}: unknown key measure.{k}.{nearest(str(k), types)}" for k in given if k not in types]:
        raise InputError("\n".join(wrong))
    if "data" not in given:
        raise InputError(f"{where}: measure needs data: a file of held-out prompts")
    found: dict[str, Any] = {key: coerce(f"measure.{key}", value, types[key]) for key, value in given.items()}
    found = {"reward": settings.get("reward"), "max_new_tokens": settings.get("max_new_tokens"), **found}
    if found["reward"] is None:
        raise InputError(
            f"{where}: measure needs reward: file.py:function or a reward model, as the settings have none"
        )
    if found.get("samples", 1) < 1:
        raise InputError(f"{where}: measure.samples must be 1 or more, got {found['samples']}")
    return Measure(**found)


def _refused(jobs: Sequence[Job]) -> list[str]:
    """What `train` would refuse of any job, each line once, with the method that it is about."""
    wrong: list[str] = []
    for job in jobs:
        try:
            function = maker(job.recipe)
            made = resolve(recipe=job.recipe, function=function, file={**job.settings, "out": job.name}, flags={})
            check(function(**made.keywords), made.config)
        except InputError as error:
            wrong += [f"method {job.method}: {line}" for line in str(error).splitlines()]
    names = [job.name for job in jobs]
    wrong += [f"two jobs are called {name}: give the methods other names" for name in names if names.count(name) > 1]
    return list(dict.fromkeys(wrong))
