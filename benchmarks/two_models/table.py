"""Seeds of `tokenward study two-models` side by side: mean over seeds with the 95 % interval of Student's t.

for s in 0 1 2 3 4; do tokenward study two-models --seed $s --out runs/two-models-$s; done
python benchmarks/two_models/table.py runs/two-models-*/two-models
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tokenward.diagnose.measures.intervals import estimate

T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # 97.5 % quantile by number of seeds
COLUMNS = ("reward", "minus_joint", "facts", "great", "own_errors")
AREAS = ("note", "mood", "own", "inherited")


def over_seeds(values: Sequence[float | None]) -> str:
    """Mean and interval over the seeds that have a value: `0.12 (0.10 to 0.14)`; the mean alone where none is known."""
    known = [value for value in values if value is not None]
    if len(known) not in T:
        return f"{fmean(known):.2f}" if known else "–"
    found = estimate(known)
    reach = T[found.count] * found.se
    return f"{found.mean:.2f} ({found.mean - reach:.2f} to {found.mean + reach:.2f})"


def each(values: Sequence[float | None]) -> str:
    """One number a seed, "–" where it has none."""
    return ", ".join("–" if value is None else f"{value:.2f}" for value in values)


def main(folders: Sequence[str]) -> None:
    """Print one table of pipelines and one of areas, in Markdown."""
    results = [json.loads((Path(folder) / "results.json").read_text(encoding="utf-8")) for folder in folders]
    print(f"{len(results)} seeds: {', '.join(str(one['settings']['seed']) for one in results)}\n")
    print(f"| pipeline | {' | '.join(COLUMNS)} | reward by seed |\n|{'---|' * (len(COLUMNS) + 2)}")
    for name in results[0]["pipelines"]:
        rows = [one["pipelines"][name] for one in results]
        cells = [over_seeds([row[key]["value"] for row in rows]) for key in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} | {each([row['reward']['value'] for row in rows])} |")
    print("\n| bad words | AUC of low credit | by seed | of low log π_ref | by seed |\n|---|---|---|---|---|")
    for name in AREAS:
        both = [[one["credit"][value][name]["auc"] for one in results] for value in ("credit", "ref_logp")]
        print(f"| {name} | {' | '.join(f'{over_seeds(areas)} | {each(areas)}' for areas in both)} |")
    print(f"\nseconds: {each([one['seconds'] for one in results])}")


if __name__ == "__main__":
    main(sys.argv[1:])
