"""The tables of docs/process_credit.md: `python benchmarks/process_credit/tables.py docs`.

`pack RESULTS.json …` keeps of results.json of `tokenward study chains`, one a seed in their order, the parts that the
tables read, in seeds.jsonl, rounded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenward.trained.reasoning.tables import POLICIES, SCORES, WAYS

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import markdown, refill  # noqa: E402  (benchmarks/tables.py)

Row = Mapping[str, Any]
KINDS = {"injected": "errors put in", "natural": "errors of the SFT policy"}
JUDGES = {"dpo": "DPO", "reward-model": "reward model", "dpo-random-labels": "DPO on random labels"}


def pack(*files: str) -> None:
    """What the tables read."""
    kept = []
    for file in files:
        found = json.loads(Path(file).read_text(encoding="utf-8"), parse_float=lambda number: round(float(number), 6))
        found["settings"] = {key: found["settings"][key] for key in ("seed", "scale")}
        found["curves"] = {name: round(fmean(values), 6) for name, (_, values) in found["curves"].items()}
        keys = ("settings", "taught", "pairs", "credit", "preferences", "best", "policies", "curves")
        kept.append({key: found[key] for key in keys})
    (HERE / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")


def seeds() -> list[dict[str, Any]]:
    """The records of the seeds, in their order."""
    return [json.loads(line) for line in (HERE / "seeds.jsonl").read_text(encoding="utf-8").splitlines()]


def cell(found: Row, digits: int = 2) -> str:
    """A value and its interval."""
    value, low, high = (f"{found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return value if value == low == high else f"{value} ({low} to {high})"


def steps(seed: int) -> str:
    """Who finds the first wrong step, at one seed."""
    one = seeds()[seed]
    both = {name: one["credit"][kind] for kind, name in KINDS.items()}
    head = ["score of a step"]
    for name in both:
        head += [f"{name}: AUC", "credit's lead", "worst step is it"]
    lines = []
    for score, label in SCORES.items():
        cells = [label]
        for found in both.values():
            area = cell(found[score]["auc"]) if "auc" in found[score] else "0.50"
            lead = found.get(f"lead_{score}", {})
            cells += [area, cell(lead["auc"]) if "auc" in lead else "", cell(found[score]["hits"])]
        lines.append(cells)
    counts = "; ".join(
        f"{name}: {found['texts']} texts of {found['prompts']} prompts, {found['credit']['wrong']} first wrong steps "
        f"against {found['credit']['right']} others" for name, found in both.items()
    )  # fmt: skip
    first = f"Seed {one['settings']['seed']}. Rounds of SFT: {one['taught']['rounds']}; pairs: {one['pairs']['pairs']}"
    return f"{first}; {counts}.\n\n{markdown(head, lines)}\n\n{_beside(one, both)}"


def _beside(one: Row, both: Mapping[str, Row]) -> str:
    """Leads in naming the step, two errors that cancel, and held-out pairs, in words."""
    named = "; ".join(
        f"{name}: over the reward model {cell(found['lead_model']['hits'])}, over random labels "
        f"{cell(found['lead_random']['hits'])}, over chance {cell(found['lead_chance']['hits'])}"
        for name, found in both.items()
    )
    canceled = one["credit"]["canceled"]
    told = ", ".join(f"{label} {cell(one['preferences'][name])}" for name, label in JUDGES.items())
    return (
        f"Credit's lead in \"worst step is it\": {named}. Two errors that cancel, AUC of the first: credit "
        f"{cell(canceled['credit']['auc'])}, reward model {cell(canceled['model']['auc'])}. "
        f"Held-out pairs told right ({one['preferences']['pairs']}): {told}."
    )  # fmt: skip


def best() -> str:
    """Best of n by each way to choose."""
    found = seeds()
    sizes = [("2", "4", "8", "16"), *[("4", "16")] * (len(found) - 1)]
    head = ["chosen by"]
    for one, shown in zip(found, sizes, strict=True):
        seed, alone = one["settings"]["seed"], one["best"]["oracle"]["1"]["value"]
        head += [f"seed {seed} (one text {alone:.3f}): n = {shown[0]}", *shown[1:]]
    lines = []
    for way, label in WAYS.items():
        cells = [label]
        for one, shown in zip(found, sizes, strict=True):
            cells += [f"{one['best'][way][n]['value']:.3f}" for n in shown[:-1]]
            cells.append(cell(one["best"][way][shown[-1]], 3))
        lines.append(cells)
    return markdown(head, lines)


def policies() -> str:
    """Right answers of each policy, its KL to SFT, and right answers while it learned."""
    found = seeds()
    head = ["policy"]
    for one in found:
        head += [f"seed {one['settings']['seed']}: right answers", "KL to SFT, nats", "right while learning"]
    lines = []
    for name, label in POLICIES.items():
        cells = [label]
        for one in found:
            row, curve = one["policies"][name], one["curves"].get(name)
            cells += [cell(row["right"], 3), f"{row['kl']['value']:.2f}", "" if curve is None else f"{curve:.3f}"]
        lines.append(cells)
    gaps = {
        "DPO less SFT": ("dpo", "minus_sft"),
        "credit on each step less the outcome alone": ("ppo-steps", "minus_ppo-outcome"),
        "credit on each step less the same at the end": ("ppo-steps", "minus_ppo-end"),
        "outcome reward model less SFT": ("ppo-model", "minus_sft"),
    }
    told = "; ".join(
        f"{label}: {', '.join(cell(one['policies'][name][gap], 3) for one in found)}"
        for label, (name, gap) in gaps.items()
    )
    return f"{markdown(head, lines)}\n\nPaired differences of right answers, by seed. {told}."


TABLES: dict[str, Callable[[], str]] = {
    **{f"steps_{seed}": partial(steps, seed) for seed in range(3)}, "best": best, "policies": policies,
}  # fmt: skip


def docs() -> dict[str, str]:
    """The tables of docs/process_credit.md by their marks."""
    return {mark: made() for mark, made in TABLES.items()}


if __name__ == "__main__":
    what, *files = sys.argv[1:] or [""]
    if what == "pack" and files:
        pack(*files)
    elif what == "docs":
        refill(HERE.parents[1] / "docs" / "process_credit.md", docs())
    elif what in TABLES:
        print(TABLES[what]())
    else:
        sys.exit(f"usage: tables.py pack FILE… | docs | {' | '.join(TABLES)}")
