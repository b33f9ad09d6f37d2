"""`tokenward lab`: for each recipe the policy it should reach, in closed form, beside the one that it does reach."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.prediction import Identified, Prediction
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.descent import CONVERGED
from tokenward.lab.solving.solve import Solution, solve
from tokenward.lab.worlds.world import World, default_world
from tokenward.lab.worlds.world_file import read_world
from tokenward.objective.recipe import Recipe
from tokenward.recipes import Setting, build, maker

REACHED = 1e-4  # total variation, or largest error of a centered score, that counts as reached
UNATTAINED = "no finite minimum: some answers always win"
Answer = dict[str, Any]


def run(names: Sequence[str], *, world_path: str | Path | None, overrides: Mapping[str, Setting]) -> list[Answer]:
    """One answer per recipe, on the world of the file or on the built-in one; `overrides` are recipe keywords."""
    world = with_guides(default_world() if world_path is None else read_world(world_path))
    return [answer(name, world, overrides=overrides) for name in names]


def answer(name: str, world: World, *, overrides: Mapping[str, Setting]) -> Answer:
    """What the recipe should reach on the world and what it reaches, in the fields of docs/lab.md."""
    recipe = build(name, **settings(maker(name), world, overrides))
    guide = torch.stack([prompt.guide for prompt in world.prompts if prompt.guide is not None])
    prediction = predict(recipe, world, guide=guide)
    solution = solve(recipe, world, guide=guide)
    return _object(recipe, prediction, solution)


def predicted(names: Sequence[str], world: World) -> dict[str, Prediction]:
    """What is known of each recipe's optimum on a world, with the lab's keywords; nothing is solved but the guide."""
    world = with_guides(world)
    guide = torch.stack([prompt.guide for prompt in world.prompts if prompt.guide is not None])
    return {name: predict(build(name, **settings(maker(name), world, {})), world, guide=guide) for name in names}


def optimum_name(prediction: Prediction) -> str:
    """The optimum in words: its name, or that it is of scores, or that there is no closed form."""
    return prediction.target or ("scores of the labels" if prediction.score is not None else "no closed form")


def settings(make: Callable[..., Recipe], world: World, overrides: Mapping[str, Setting]) -> dict[str, Setting]:
    """The keywords of the lab: the pull to the reference is `tau`; whatever is given stands.

    A proximal recipe (keyword `eta`) takes eta = 1/tau and no other pull: one exact step. With a KL in its loss it has
    a fixed point instead, and the pull is `tau`.
    """
    known = inspect.signature(make).parameters
    found: dict[str, Setting] = {}
    if "eta" in known:
        found = {"eta": 1 / world.tau, "beta_kl": 0.0 if overrides.get("kl", "reward") == "reward" else world.tau}
    elif "beta" in known:
        found = {"beta": world.tau}
    elif "beta_kl" in known:
        found = {"beta_kl": world.tau}
    return {**{key: value for key, value in found.items() if key in known}, **overrides}


def with_guides(world: World) -> World:
    """The world with a guide for every prompt: where it has none, what DPO reaches in this world.

    No probability of such a guide is below 1e-300: its logarithm is needed.
    """
    if all(prompt.guide is not None for prompt in world.prompts):
        return world
    dpo = build("dpo", beta=world.tau)
    found = predict(dpo, world).law
    law = (solve(dpo, world).law if found is None else found).clamp(min=1e-300)
    prompts = (replace(p, guide=own) if p.guide is None else p for p, own in zip(world.prompts, law, strict=True))
    return replace(world, prompts=tuple(prompts))


def forms_apart(world: World) -> float:
    """The largest difference between π^τ in sequence form and in token form, over all leaves."""
    tree = world.tree
    soft = exact.soft_values(tree, tree.conditional(world.ref), tree.outcome(world.reward), tau=world.tau)
    return float((tree.leaf_sum(soft.logp).exp() - world.target).abs().max())


def missed(answers: Sequence[Answer]) -> list[str]:
    """The recipes with a prediction, of the whole or within components, that they did not reach."""
    return [one["recipe"] for one in answers if _is_missed(one)]


def render(answers: Sequence[Answer]) -> str:
    """The answers as a plain table: recipe · scenario · shares π^τ · target · tv · verdict."""
    head = ("recipe", "scenario", "shares π^τ", "target", "tv", "verdict")
    rows = [head, *(_row(one) for one in answers)]
    width = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _row(one: Answer) -> tuple[str, ...]:
    residual = "not finite" if one["residual"] is None else f"{one['residual']:.0e}"
    rest = f"{'at rest' if one['converged'] else 'not at rest'}, residual {residual}"
    within = one.get("tv_identified")
    if one["predicted"] is not None:
        verdict = "reached" if _error(one) <= REACHED else f"MISSED; {rest}"
    elif within is not None:
        verdict = f"{'reached' if within <= REACHED else 'MISSED'} within each component, tv {within:.0e}; {rest}"
    else:
        small = one["residual"] is not None and one["residual"] <= CONVERGED  # not at rest then: no finite minimum
        known = "at rest" if one["converged"] else "not at rest" if small else f"at rest below {CONVERGED:.0e}"
        verdict = f"no closed form; residual {residual} ({known})"
    if "note" in one:
        verdict += f"; {one['note']}"
    scores = "max_error" in one
    if scores and one["predicted"] is not None:
        verdict += f" (centered scores, largest error {one['max_error']:.0e})"
    tv = "–" if one["tv"] is None else f"{one['tv']:.0e}"
    shares = "yes" if one["shares_pi_tau"] else "no"
    return one["recipe"], one["scenario"] or "–", shares, one["target"] or "–", tv, verdict


def _is_missed(one: Answer) -> bool:
    whole = one["predicted"] is not None and not _error(one) <= REACHED
    return whole or (one.get("tv_identified") is not None and not one["tv_identified"] <= REACHED)


def _error(one: Answer) -> float:
    error = one["tv"] if one["tv"] is not None else one.get("max_error")
    return math.inf if error is None else float(error)


def _within(identified: tuple[tuple[Identified, ...], ...], law: Float[Tensor, "X L"]) -> float | None:
    """The largest total variation between a law that is fixed within a set of leaves and the one reached there."""
    apart = [
        exact.total_variation(part.law[None], own[list(part.leaves)][None] / own[list(part.leaves)].sum())
        for parts, own in zip(identified, law, strict=True)
        for part in parts
    ]
    return max(apart) if apart else None


def _object(recipe: Recipe, prediction: Prediction, solution: Solution) -> Answer:
    if solution.score is not None and not solution.attained:
        prediction = Prediction()
    expected = prediction.law if solution.score is None else prediction.score
    reached = solution.law if solution.score is None else solution.score
    result: Answer = {
        "recipe": recipe.name,
        "scenario": recipe.scenario,
        "shares_pi_tau": prediction.shares,
        "target": prediction.target,
        "predicted": None if expected is None else expected.tolist(),
        "reached": reached.tolist(),
        "tv": None if prediction.law is None else exact.total_variation(prediction.law, solution.law),
        "residual": solution.residual if math.isfinite(solution.residual) else None,
        "converged": solution.converged,
    }
    note = prediction.note if solution.attained else UNATTAINED
    if note is not None:
        result["note"] = note
    if prediction.identified is not None and solution.score is None:
        result["identified"] = [
            [{"leaves": list(part.leaves), "law": part.law.tolist()} for part in parts]
            for parts in prediction.identified
        ]
        result["tv_identified"] = _within(prediction.identified, solution.law)
    if solution.score is not None:
        gap: Float[Tensor, "X L"] | None = None if prediction.score is None else prediction.score - solution.score
        result["max_error"] = None if gap is None else float(gap.abs().max())
    return result
