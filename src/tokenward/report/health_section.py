"""The health of runs on a report page: a line per check that is not ok, and reward over √KL of held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tokenward.diagnose.health.run import Health, of_events
from tokenward.objective.health.checks import Finding
from tokenward.report.figures import data_uri
from tokenward.report.records import RunRecord
from tokenward.report.study_figures import svg
from tokenward.studies.study import Figure, Series

MARKS = {"ok": "●", "watch": "▲", "bad": "■", "unknown": "○"}  # told apart without color


def section(runs: Sequence[RunRecord]) -> list[str]:
    """The section as HTML; nothing where no run logged what a check reads."""
    found = [of_events(run.name, [*run.others, *run.updates]) for run in runs]
    body = [part for one in found if one.worst != "unknown" for part in _run(one)]
    return ["<h2>Health</h2>", *body] if body else []


def _run(found: Health) -> list[str]:
    counts = {level: [f for f in found.findings if f.level == level] for level in MARKS}
    told = " · ".join(f"{mark} {len(counts[level])} {level}" for level, mark in MARKS.items())
    lines = [_line(one) for level in ("bad", "watch") for one in counts[level]]
    body = [f"<h3>{escape(found.run)}</h3><p>{told}</p>"]
    if lines:
        body.append(f"<ul>{''.join(lines)}</ul>")
    if len(found.points) > 1:
        figure = overoptimization(found)
        words = f"<figcaption>{escape(figure.caption)}</figcaption>"
        body.append(f'<figure><img src="{data_uri(svg(figure))}" alt="{escape(figure.title)}">{words}</figure>')
    return body


def _line(found: Finding) -> str:
    return f"<li>{MARKS[found.level]} <b>{escape(found.check.name)}</b>: {escape(found.text)}</li>"


def overoptimization(found: Health) -> Figure:
    """Held-out reward and proxy, each as gain over the first evaluation, over √KL; and the fitted curve of each."""
    start, series = found.points[0], []
    for label, key in (("held-out reward", "reward"), ("proxy", "proxy")):
        known = [point for point in found.points if key in point and "kl" in point]
        if not known or key not in start:
            continue
        at, gain = [_root(point) for point in known], [point[key] - start[key] for point in known]
        errors = [2 * point.get("reward_se", 0.0) for point in known] if key == "reward" else None
        low, high = ([g + s * e for g, e in zip(gain, errors, strict=True)] if errors else None for s in (-1, 1))
        series.append(Series(label, at, gain, style="points", low=low, high=high))
        if (curve := found.fits.get(label)) is not None:
            near = min(x for x in at if x > 0)  # from the first point behind the start to the last
            grid = [near + (max(at) - near) * i / 59 for i in range(60)]
            series.append(Series(f"{label}, fitted", grid, [curve.at(x) for x in grid]))
    best = found.best
    first = "the start" if start.get("update") == 0 else "the first evaluation, which is not of the start,"
    caption = f"Gain over {first} on held-out prompts; bars are ± 2 standard errors."
    if found.fits:
        caption += " Fit: d·(α − β·log d), d = √KL."
    if best is not None and "kl" in best:
        caption += f" The best was update {best['update']:.0f}, at √KL = {_root(best):.2f}."
    title = f"Reward over √KL: {found.run}"
    return Figure("overoptimization", title, "√KL (√nats)", "gain", tuple(series), caption)


def _root(point: dict[str, float]) -> float:
    return math.sqrt(max(point["kl"], 0.0))
