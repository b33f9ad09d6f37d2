"""The tables of docs/comparisons.md from the records of sweeps: `python benchmarks/tables.py WHAT RESULTS.jsonl …`.

    tuned     the place of each method with the best reward − 0.15·KL
    frontier  reward and KL of each method at each β, and reward − β·KL against PPO's at the same β
    samples   samples until a level of PPO's last regularized objective, and the KL there
    groups    reward of each group of prompts, and of the worst
    ablation  reward against the first method, KL, length, the largest ratio, and what moved first

`pack RESULTS.jsonl OUT.jsonl` keeps of the records what the tables read; `docs` writes the tables of benchmarks/results
into docs/comparisons.md anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from tokenward.diagnose.measures.association import Interval
from tokenward.sweep.results import Record, by_label, difference, interval, read, rows, table

TAU, LEVEL, WINDOW, BATCH = 0.15, 0.75, 5, 64


def cell(found: Interval) -> str:
    """A mean and its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; columns of numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def tuned(records: Sequence[Record]) -> str:
    """The best place of each method by reward − TAU·KL, among all that were tried."""
    found: dict[str, list[tuple[float, str]]] = {}
    for same in by_label(records).values():
        value = table(same, "reward").mean() - TAU * table(same, "kl").mean()
        place = ", ".join(f"{k} {v:g}" for k, v in same[0]["point"].items() if not isinstance(v, str))
        found.setdefault(same[0]["method"], []).append((float(value), place))
    lines = []
    for method, tried in found.items():
        best = max(tried)
        lines.append([method, best[1], f"{best[0]:.2f}", "; ".join(f"{place}: {value:.2f}" for value, place in tried)])
    return markdown(["method", "taken", f"reward − {TAU:g}·KL", "all"], lines)


def frontier(records: Sequence[Record], *, against: str = "ppo") -> str:
    """Reward and KL of each method at each β; the paired difference of reward − β·KL to one method at the same β."""
    found, shown = by_label(records), {row.label: row for row in rows(records)}
    by_place = {(same[0]["method"], same[0]["point"].get("beta_kl")): (label, same) for label, same in found.items()}
    methods = list(dict.fromkeys(method for method, _ in by_place))
    betas = list(dict.fromkeys(beta for _, beta in by_place if beta is not None))
    head = ["reward at its KL", *(f"β {beta:g}" for beta in betas)]
    lines, gaps = [], []
    for method in methods:
        if (method, None) in by_place:
            row = shown[by_place[method, None][0]]
            lines.append([f"{method}: {cell(row.reward)} at {row.kl.value:.2f}", *[""] * len(betas)])
            continue
        here = {beta: by_place[method, beta] for beta in betas if (method, beta) in by_place}
        cells = {beta: f"{cell(shown[name].reward)} at {shown[name].kl.value:.2f}" for beta, (name, _) in here.items()}
        lines.append([method, *(cells.get(beta, "–") for beta in betas)])
        other = {beta: by_place[against, beta][1] for beta in here if (against, beta) in by_place}
        less = {beta: cell(_value_gap(here[beta][1], other[beta], beta=beta)) for beta in other}
        gaps += [[method, *(less.get(beta, "–") for beta in betas)]] if method != against else []
    second = [f"reward − β·KL, less {against}'s", *head[1:]]
    return markdown(head, lines) + "\n\n" + markdown(second, gaps)


def _value_gap(one: Sequence[Record], two: Sequence[Record], *, beta: float) -> Interval:
    """The paired difference of reward − β·KL."""
    shared = sorted({r["seed"] for r in one} & {r["seed"] for r in two})
    parts = []
    for side in (one, two):
        kept = sorted((r for r in side if r["seed"] in shared), key=lambda r: r["seed"])
        parts.append(table(kept, "reward") - beta * table(kept, "kl"))
    return interval(parts[0] - parts[1])


def samples(*sweeps: Sequence[Record]) -> str:
    """Samples until the running mean of score − β·KL of the batches stands at LEVEL of the way to PPO's last.

    The way begins at the first batch of all runs and ends at the mean of the last WINDOW batches of PPO's runs with the
    same start of the critic (the words behind the method's name). "never": the level was not reached.
    """
    each = [_samples(records) for records in sweeps]
    head = ["method", *["samples (by seed)", "KL there", "true reward at the end", "KL"] * len(sweeps)]
    return markdown(
        head, [[method, *(cell for one in each for cell in one.get(method, ["–"] * 4))] for method in each[0]]
    )


def _samples(records: Sequence[Record]) -> dict[str, list[str]]:
    """The cells of each method of one sweep."""
    found = {}
    for same in by_label(records).values():
        method = same[0]["method"]
        kind = method.partition(" ")[2]
        ppo = [r for r in records if r["method"] == f"ppo {kind}" and r["status"] == "done"]
        if not ppo:
            continue
        first = fmean(_objective(r)[0] for r in ppo)
        last = fmean(_objective(r)[-1] for r in ppo)
        at = [_reached(r, first + LEVEL * (last - first)) for r in same]
        hit = [place for place in at if place is not None]
        kl = [fmean(r["training"]["kl"][max(0, p - WINDOW + 1) : p + 1]) for r, p in zip(same, at) if p is not None]
        numbers = ", ".join("never" if place is None else str((place + 1) * BATCH) for place in at)
        mean = f"{fmean(hit) * BATCH + BATCH:.0f}" if len(hit) == len(at) else "–"
        reward, end = interval(table(same, "reward")), interval(table(same, "kl"))
        found[method] = [f"{mean} ({numbers})", f"{fmean(kl):.2f}" if kl else "–", cell(reward), f"{end.value:.2f}"]
    return found


def _objective(record: Record) -> list[float]:
    """Running mean of score − β·KL of the batches, over WINDOW of them."""
    beta, series = float(record["settings"].get("beta_kl", 0.05)), record["training"]
    raw = [score - beta * kl for score, kl in zip(series["reward"], series["kl"], strict=True)]
    return [fmean(raw[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(raw))]


def _reached(record: Record, level: float) -> int | None:
    return next((i for i, value in enumerate(_objective(record)) if value >= level), None)


def groups(records: Sequence[Record]) -> str:
    """Reward of each group, of the worst group, and the gap between the first two."""
    names = list(dict.fromkeys(name for r in records if r["heldout"] for name in r["heldout"]["by"]))
    lines = []
    for label, same in by_label(records).items():
        each = [interval(table(same, "reward", group=name)) for name in names]
        worst = min(fmean(table([one], "reward", group=name).flatten().tolist()) for one in same for name in names)
        gap = each[0].value - each[1].value
        kl = interval(table(same, "kl"))
        lines.append([label, str(len(same)), *map(cell, each), f"{worst:.2f}", f"{gap:.2f}", cell(kl)])
    head = ["method", "seeds", *names, "worst group of any seed", f"{names[0]} − {names[1]}", "KL"]
    return markdown(head, lines)


def ablation(records: Sequence[Record]) -> str:
    """Each method against the first: reward, KL, length, the largest ratio of any update, and the KL half-way."""
    found = by_label(records)
    base = next(same for same in found.values() if same[0]["method"] != "start")
    lines = []
    for label, same in found.items():
        row = {name: interval(table(same, name)) for name in ("reward", "kl", "length")}
        gap = cell(difference(same, base)) if same is not base and label != "start" else "–"
        curves = [r["training"] for r in same if r["training"].get("kl")]
        top = f"{max(max(x or 0.0 for x in c['ratio_max']) for c in curves):.1f}" if curves else "–"
        near = "–" if not any("kl_old" in c for c in curves) else f"{_mean_of(curves, 'kl_old'):.4f}"
        half = f"{fmean(c['kl'][len(c['kl']) // 2] for c in curves):.1f}" if curves else "–"
        lines.append([label, cell(row["reward"]), gap, cell(row["kl"]), half, f"{row['length'].value:.1f}", top, near])
    first = base[0]["method"]
    head = ["method", "reward", f"less {first}", "KL", "KL half-way", "tokens", "largest ratio", "KL to old a token"]
    return markdown(head, lines)


def _mean_of(curves: Sequence[dict[str, list[float | None]]], name: str) -> float:
    return fmean(x for c in curves for x in c.get(name, []) if x is not None)


KEPT = ("prompt", "by", "reward", "kl", "length", "update", "ratio_max", "kl_old")  # of heldout and training


def pack(source: str, target: str) -> None:
    """The records with what the tables read, in fewer digits."""
    found = read(source)
    for one in found:
        one["settings"] = {k: one["settings"][k] for k in ("beta_kl", "learning_rate") if k in one["settings"]}
        for part in ("heldout", "training"):
            one[part] = one[part] and {name: _short(values) for name, values in one[part].items() if name in KEPT}
    Path(target).write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in found), encoding="utf-8")


def _short(values: Sequence[object]) -> list[object]:
    return [round(x, 2 if abs(x) > 1 else 3) if isinstance(x, float) else x for x in values]


TABLES: dict[str, Callable[..., str]] = {
    "tuned": tuned, "frontier": frontier, "samples": samples, "groups": groups, "ablation": ablation,
}  # fmt: skip

HERE = Path(__file__).resolve().parent
DOCS = {  # mark in docs/comparisons.md: (table, files of results)
    "frontier": ("frontier", ["frontier"]), "placement": ("samples", ["placement", "placement_long"]),
    "few_prompts": ("groups", ["few_prompts"]), "code_level": ("ablation", ["code_level"]),
    "ppo_max": ("ablation", ["ppo_max"]), "robust": ("groups", ["robust"]),
}  # fmt: skip


def refill(page: Path, made: Mapping[str, str]) -> None:
    """Put each table, by its mark in the page, between the mark and the next `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    for mark, written in made.items():
        head, found, rest = text.partition(f"<!-- {mark} -->\n")
        if not found:
            raise SystemExit(f"{page}: no mark {mark}")
        text = f"{head}<!-- {mark} -->\n{written}\n<!-- end -->\n{rest.partition('<!-- end -->' + chr(10))[2]}"
    page.write_text(text, encoding="utf-8")


def docs() -> dict[str, str]:
    """The tables of docs/comparisons.md by their marks."""
    made = {}
    for mark, (what, names) in DOCS.items():
        files = [HERE / "results" / f"{name}.jsonl" for name in names]
        made[mark] = TABLES[what](*(read(file) for file in files if file.is_file()))
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *files = sys.argv[1:]
    if what == "pack":
        pack(*files)
    elif what == "docs":
        refill(HERE.parent / "docs" / "comparisons.md", docs())
    else:
        print(TABLES[what](*map(read, files)))
