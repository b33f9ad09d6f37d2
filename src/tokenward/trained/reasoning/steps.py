"""Whether low scores of steps point at the first wrong step: AUC and average precision, and who names it exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from operator import neg
from typing import Any

import torch

from tokenward.diagnose.lens.rows import Number, TokenRow
from tokenward.diagnose.lens.steps import by_step
from tokenward.diagnose.truth.localization import Found, Lead, localization
from tokenward.trained.agents.measure import bootstrap, by_prompt

Numbers = dict[str, Any]
FIRST = "first wrong step"
SCORES: dict[str, tuple[str, Callable[[float], float]]] = {  # (value of the rows, what of it speaks for an error)
    "credit": ("credit", neg), "model": ("model", neg), "logp": ("ref_logp", neg), "entropy": ("ref_entropy", float),
    "random": ("random", neg), "size": ("credit", abs),
    "random_size": ("random", abs),
}  # fmt: skip
RESULT = "result"  # SFT's log-probability of the wrong or right result alone: it must know where results stand


def located(rows: Sequence[TokenRow]) -> Numbers:
    """{score: AUC, average precision, hits; paired leads of credit} on texts that have a wrong step each.

    AUC and AP: first wrong steps among the steps of their texts, later wrong steps left out. hits: the share of texts
    whose worst step is the first wrong one, equal steps sharing it; `chance`: 1/steps. Intervals draw prompts again.
    `size` is |credit|: a step at which much is decided, for better or worse.
    """
    steps = [_first_alone(by_step(row)) for row in rows]
    suspicion = {name: [_read(step.values[value], as_) for step in steps] for name, (value, as_) in SCORES.items()}
    suspicion[RESULT] = [_results(row) for row in rows]
    places = [[name != "later" for name in step.wrong or ()] for step in steps]
    prompts = [row.prompt for row in rows]
    table = localization(steps, suspicion, places=places, clusters=prompts)
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    owner = [number[prompt] for prompt in prompts]
    hits = {name: by_prompt(owner, _hits(steps, column)) for name, column in suspicion.items()}
    hits["chance"] = by_prompt(owner, [1 / len(step.tokens) for step in steps])
    found: Numbers = {"texts": len(rows), "prompts": len(number), "steps": sum(len(step.tokens) for step in steps)}
    for name in suspicion:
        found[name] = _line(table.of(name)) | {"hits": bootstrap(hits[name])}
    found["chance"] = {"hits": bootstrap(hits["chance"])}
    for name in [*suspicion, "chance"]:
        if name != "credit":
            lead = _lead(table.lead(name)) if name != "chance" else {}
            found[f"lead_{name}"] = lead | {"hits": bootstrap(hits["credit"] - hits[name])}
    return found


def _first_alone(step: TokenRow) -> TokenRow:
    """The steps with the first wrong one marked so, and wrong ones after it as "later"."""
    wrong = step.wrong or ()
    first = next(i for i, name in enumerate(wrong) if name)
    names = tuple(FIRST if i == first else "later" if name else "" for i, name in enumerate(wrong))
    return replace(step, wrong=names)


def _read(column: Sequence[Number], as_: Callable[[float], float]) -> list[Number]:
    return [None if x is None else as_(x) for x in column]


def _results(row: TokenRow) -> list[Number]:
    """−log π_sft of the digit before each step's last mark, or of the answer; of the least likely token elsewhere."""
    assert row.segment is not None  # rows of chains have their steps
    found: list[Number] = []
    for number in dict.fromkeys(row.segment):
        places = [t for t, segment in enumerate(row.segment) if segment == number]
        digits = [t for t in places if row.tokens[t].strip().isdigit()]
        at = digits[-1:] or places
        found.append(max(-float(row.values["ref_logp"][t] or 0.0) for t in at))
    return found


def _hits(steps: Sequence[TokenRow], column: Sequence[Sequence[Number]]) -> list[float]:
    """1 where the most suspicious step is the first wrong one, 1/k where k steps share that place, else 0."""
    found = []
    for step, values in zip(steps, column, strict=True):
        known = torch.tensor([-torch.inf if x is None else float(x) for x in values])
        top = known == known.max()
        found.append(float(top[(step.wrong or ()).index(FIRST)]) / float(top.sum()))
    return found


def _line(found: Found) -> Numbers:
    return {"auc": asdict(found.auc), "ap": asdict(found.ap), "wrong": found.wrong, "right": found.right}


def _lead(found: Lead) -> Numbers:
    return {"auc": asdict(found.auc), "ap": asdict(found.ap)}
