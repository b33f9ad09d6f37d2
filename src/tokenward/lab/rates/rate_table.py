"""`tokenward lab --rate`: how fast each recipe comes to rest, predicted and measured, and what sets it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tokenward.lab.rates.rate import Rate, rate
from tokenward.lab.verify import settings, with_guides
from tokenward.lab.worlds.world import World, default_world
from tokenward.lab.worlds.world_file import read_world
from tokenward.recipes import Setting, build, maker

NOTES = """\
per step: what is left of an error after one step, near the point of rest; predicted is a closed form, measured is plain
gradient descent on the recipe's expected gradient (for proximal recipes: one exact step) · stable: the largest step
that does not diverge, 2/λ_max · κ = λ_max/λ_min: the best fixed step leaves (κ − 1)/(κ + 1) · bound: holds at every
step from π_ref on"""


def run(
    names: Sequence[str], *, world_path: str | Path | None, overrides: Mapping[str, Setting], step: float | None
) -> list[Rate]:
    """One rate per recipe, on the world of the file or on the built-in one."""
    world = with_guides(default_world() if world_path is None else read_world(world_path))
    guide = torch.stack([prompt.guide for prompt in world.prompts if prompt.guide is not None])
    return [rate(build(name, **_settings(name, world, overrides)), world, step=step, guide=guide) for name in names]


def _settings(name: str, world: World, overrides: Mapping[str, Setting]) -> dict[str, Setting]:
    """Those of the lab; a proximal recipe takes η = 1/(2τ) and the pull τ, so that there is a rate."""
    found = settings(maker(name), world, overrides)
    return {"eta": 0.5 / world.tau, "beta_kl": world.tau, **overrides} if "eta" in found else found


def as_json(one: Rate) -> dict[str, Any]:
    """The fields of the rate, with the prompts' condition numbers."""
    prompts = [{**asdict(prompt), "condition": prompt.condition} for prompt in one.prompts]
    return {**asdict(one), "prompts": prompts, "agrees": one.agrees}


def missed(rates: Sequence[Rate]) -> list[str]:
    """The recipes whose descent is not the predicted one."""
    return [one.recipe for one in rates if one.agrees is False]


def render(rates: Sequence[Rate]) -> str:
    """A plain table, and below it what sets each rate."""
    head = ("recipe", "predicted", "measured", "step", "stable", "κ", "bound", "verdict")
    rows = [head, *(_row(one) for one in rates)]
    width = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in rows]
    causes = [line for one in rates for line in _causes(one)]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:], "", *causes, "", NOTES])


def _row(one: Rate) -> tuple[str, ...]:
    verdict = {True: "agree", False: "DIFFER", None: "no closed form" if one.measured is not None else "no rate"}
    numbers = (one.predicted, one.measured)
    found = ("–" if x is None else "0" if abs(x) < 1e-9 else f"{x:.6f}" for x in numbers)
    rest = (one.step, one.largest_stable_step, one.condition)
    bound = "–" if one.bound is None else f"{one.bound:.6f}"
    return one.recipe, *found, *(_short(x) for x in rest), bound, verdict[one.agrees]


def _causes(one: Rate) -> list[str]:
    if one.slowest is None:
        return [f"{one.recipe}: {one.cause}"]
    prompt, up, down = one.slowest
    where = f"prompt {prompt}: " if len(one.prompts) > 1 else ""
    return [f"{one.recipe}: {where}{one.cause}; slowest: leaf {up} against leaf {down}"]


def _short(x: float | None) -> str:
    return "–" if x is None or not math.isfinite(x) else f"{x:.4g}"
