"""Tables and figures of the study of chains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from tokenward.studies.study import Cell, Figure, Series, Table

Row = Mapping[str, Any]
KINDS = {
    "injected": "one error put in", "natural": "errors of the SFT policy",
    "canceled": "two errors that cancel", "natural_right": "the SFT policy's wrong steps before a right answer",
}  # fmt: skip
SCORES = {
    "credit": "DPO: implicit advantage", "size": "DPO: its size, whatever its sign",
    "model": "outcome reward model: difference of prefixes",
    "logp": "SFT: log-probability", "result": "SFT: log-probability of the result alone", "entropy": "SFT: entropy",
    "random": "control: DPO on random labels", "random_size": "control: its size", "chance": "chance",
}  # fmt: skip
WAYS = {
    "implicit": "implicit reward", "least_step": "credit of the worst step", "model": "outcome reward model",
    "likelihood": "likelihood", "vote": "majority vote", "oracle": "oracle",
}  # fmt: skip
POLICIES = {
    "sft": "SFT", "dpo": "DPO on outcome pairs", "ppo-outcome": "PPO, true outcome",
    "ppo-model": "PPO, outcome reward model", "ppo-steps": "PPO, true outcome and DPO's credit on each step",
    "ppo-end": "PPO, the same with the credit at the end",
}  # fmt: skip
AGAINST = ("auc", "hits")


def tables(results: Row) -> tuple[Table, ...]:
    """Credit of steps by kind of error, best of n, policies."""
    return (
        *(_located(results, kind) for kind in KINDS if results["credit"][kind]),
        _chosen(results),
        _trained(results),
    )


def _located(results: Row, kind: str) -> Table:
    found = results["credit"][kind]
    first = found["credit"]
    by_chance = {"auc": "0.5", "ap": f"{first['wrong'] / (first['wrong'] + first['right']):.3f}"}
    rows: list[tuple[Cell, ...]] = []
    for name, label in SCORES.items():
        one = found[name]
        gap = found.get(f"lead_{name}", {})
        area = [ends(one[key]) if key in one else chance for key, chance in by_chance.items()]
        rows.append((label, *area, ends(one["hits"]), *(ends(gap[key]) if key in gap else None for key in AGAINST)))
    return Table(
        f"Finding the first wrong step: {KINDS[kind]}",
        ("score of a step", "AUC", "average precision", "worst step is it", "DPO's lead in AUC", "… in worst step"),
        tuple(rows),
        note=(
            f"Steps of {found['texts']} texts with a wrong step each, on {found['prompts']} held-out prompts: "
            f"{first['wrong']} first wrong steps against {first['right']} others (wrong steps after the first are left "
            "out); the answer is a step. Value (95 % interval, bootstrap over prompts); leads are paired."
        ),
    )


def _chosen(results: Row) -> Table:
    best, n = results["best"], results["settings"]["best_of"]
    sizes = [str(2**k) for k in range(n.bit_length())]
    rows: list[tuple[Cell, ...]] = []
    for name, label in WAYS.items():
        gap = best.get(f"lead_{name}")
        rows.append((label, *(ends(best[name][size]) for size in sizes), None if gap is None else ends(gap)))
    return Table(
        "Best of n texts of the SFT policy: share of right answers",
        ("chosen by", *(f"n = {size}" for size in sizes), f"implicit reward's lead, n = {n}"),
        tuple(rows),
        note=(
            f"{results['counts']['prompts']} held-out prompts × {n} texts, cut into blocks of n; bootstrap over "
            "prompts. An oracle takes a right text wherever there is one."
        ),
    )


def _trained(results: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, label in POLICIES.items():
        found = results["policies"][name]
        curve = results["curves"].get(name)
        learning = None if curve is None else f"{fmean(curve[1]):.3f}"
        gap = None if name == "ppo-outcome" else ends(found["minus_ppo-outcome"])
        rows.append((label, *(ends(found[key]) for key in ("right", "sound", "kl")), gap, learning))
    plan = results["settings"]
    return Table(
        "Policies on held-out prompts",
        (
            "policy",
            "right answers",
            "right, no wrong step",
            "KL to SFT, nats",
            "right − PPO on the true outcome",
            "right while learning",
        ),
        tuple(rows),
        note=(
            f"PPO: {plan['online']['updates']} updates at scale 1, β_kl {plan['beta_kl']:g}, β_guide "
            f"{plan['beta_guide']:g}, one budget and one set of settings for the four; their rewards differ in scale, "
            "so read the KL (Σ log π/π_sft of the policy's own texts) beside. Right while learning: mean of texts "
            "sampled on training prompts. Bootstrap over held-out prompts, single runs."
        ),
    )


def figures(results: Row) -> tuple[Figure, ...]:
    """Best of n, and right answers while PPO learns."""
    best = results["best"]
    sizes = [2**k for k in range(results["settings"]["best_of"].bit_length())]
    lines = []
    for name, label in WAYS.items():
        columns = [[best[name][str(n)][key] for n in sizes] for key in ("value", "low", "high")]
        lines.append(Series(label, [float(n) for n in sizes], columns[0], "line", *columns[1:]))
    curves = tuple(
        Series(POLICIES[name], [float(x) for x in at], values) for name, (at, values) in results["curves"].items()
    )
    return (
        Figure(
            "best-of-n", "Best of n by each way to choose", "n", "share of right answers", tuple(lines),
            "SFT texts on held-out prompts; 95 % intervals, bootstrap over prompts.", x_scale="log",
        ),
        Figure(
            "learning", "Right answers while PPO learns", "updates", "share of right answers", curves,
            "Texts sampled on training prompts, one value a batch; not smoothed.",
        ),
    )  # fmt: skip


def title(kind: str) -> str:
    """The kind of error as a sentence begins with it."""
    return KINDS[kind][0].upper() + KINDS[kind][1:]


def ends(found: Row) -> str:
    """An estimate and its interval: `0.120 (0.100 to 0.140)`; a dash for an interval that is not known."""
    reach = "–" if math.isnan(found["low"]) else f"{found['low']:.3f} to {found['high']:.3f}"
    return f"{found['value']:.3f} ({reach})"
