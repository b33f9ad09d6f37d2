"""The table and the figure of docs/health.md: each method's frontier with its band, and the Gibbs ceiling.

python benchmarks/frontier/bands.py RESULTS.jsonl …    records of sweeps on the same prompts, and best_of_n.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenward.diagnose.measures.ceiling import ceiling, reward_at
from tokenward.diagnose.measures.frontier import Band, band
from tokenward.report.study_figures import svg
from tokenward.studies.study import Figure, Series
from tokenward.sweep.frontier import figure, measured
from tokenward.sweep.results import Record, read

AT = (0.5, 1.0, 2.0, 3.0, 4.0)
METHODS = (
    "ppo",
    "ppo at 1e-3",
    "rto",
    "rto at 1e-3",
    "rloo",
    "grpo",
    "reinforce_pp",
    "mirror_descent",
    "dpo",
    "best of n",
)


def records(paths: list[str]) -> list[Record]:
    """All records, the start model of the first file alone; in the methods' order."""
    first, *others = [read(path) for path in paths]
    every = first + [one for file in others for one in file if one["method"] != "start"]
    order = {method: place for place, method in enumerate(("start", *METHODS))}
    return sorted((one for one in every if one["method"] in order), key=lambda one: order[one["method"]])


def cell(found: Band) -> str:
    """The frontier's value at the end of its grid."""
    return f"{found.reward[-1]:.2f} ({found.low[-1]:.2f} to {found.high[-1]:.2f})"


def main(paths: list[str]) -> None:
    """Print the table; write bands.svg beside the last file."""
    rows = ["| reward at KL ≤ | " + " | ".join(f"{k:g}" for k in AT) + " |", "| --- |" + " ---: |" * len(AT)]
    found = records(paths)
    for name, points in measured(found).items():
        far = max(float(point.kl.mean()) for point in points)
        rows.append(f"| {name} | " + " | ".join(cell(band(points, most=k)) if k <= far else "–" for k in AT) + " |")
    drawn = figure(found)
    samples = Path(paths[-1]).with_name("rewards.json")
    if samples.is_file():
        points = ceiling(json.loads(samples.read_text(encoding="utf-8")))
        known = [reward_at(points, k) for k in AT]
        cells = ["–" if one is None else f"{one[0]:.2f} ± {2 * one[1]:.2f}" for one in known]
        rows.append("| ceiling: any policy | " + " | ".join(cells) + " |")
        line = Series("ceiling: any policy", [p.kl for p in points], [p.reward for p in points])
        drawn = Figure(drawn.name, drawn.title, drawn.x_label, drawn.y_label, (*drawn.series, line), drawn.caption)
    else:
        print(f"no ceiling: no file {samples}; benchmarks/frontier/best_of_n.py writes it", file=sys.stderr)
    print("\n".join(rows))
    Path(paths[-1]).with_name("bands.svg").write_text(svg(drawn), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
