"""Pipelines of models in files: what each model read and wrote, and a preference on what came out at the end.

A step is {"actor", "prompt", "completion"}: which model, all that it read, what it wrote.
"""

from __future__ import annotations

from typing import Any

from tokenward.data import rows
from tokenward.data.rows import Row, Step, Steps
from tokenward.data.tally import BadRow
from tokenward.data.values import shown

ACTORS = ("model", "partner")  # the settings of a run that name the models; their places are the actors' numbers
COLUMNS = ("chosen_steps", "rejected_steps")


def pipeline_pair(where: str, columns: dict[str, Any]) -> Row:
    """chosen_steps, rejected_steps: two runs of a pipeline whose first steps are of one model and read the same."""
    chosen, rejected = (_steps(where, columns[name], name) for name in COLUMNS)
    one, two = chosen.steps[0], rejected.steps[0]
    if (one.actor, one.prompt) != (two.actor, two.prompt):
        raise BadRow("prompt differs", f"the first steps of {' and '.join(COLUMNS)} differ in actor or prompt")
    if chosen == rejected:
        raise BadRow("identical chosen and rejected", "the two runs of the pipeline are the same")
    return rows.pair(where, one.prompt, chosen, rejected, columns)


def _steps(where: str, items: Any, name: str) -> Steps:
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise BadRow("wrong type", f"{name} must be a list of steps, got {shown(items)}")
    return Steps(tuple(_step(where, item, f"{name}[{place}]") for place, item in enumerate(items)))


def _step(where: str, item: dict[str, Any], name: str) -> Step:
    missing = [key for key in ("actor", "prompt", "completion") if item.get(key) is None]
    if missing:
        raise BadRow("missing column", f"{name} has no {missing[0]}: a step has actor, prompt and completion")
    if item["actor"] not in ACTORS:
        raise BadRow("wrong type", f"{name}.actor must be {' or '.join(ACTORS)}, got {shown(item['actor'])}")
    try:
        told = rows.demonstration(where, {key: item[key] for key in ("prompt", "completion")})
    except BadRow as problem:
        raise BadRow(problem.reason, f"{name}: {problem.detail}") from problem
    (answer,) = told.responses
    assert isinstance(answer, str | tuple)  # what a demonstration holds
    return Step(ACTORS.index(item["actor"]), told.prompt, answer)
