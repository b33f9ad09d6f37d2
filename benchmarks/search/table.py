"""Seeds of `tokenward study search` side by side: mean true reward over seeds, and each seed's.

for s in 0 1 2; do tokenward study search --seed $s --out runs/search-$s; done
python benchmarks/search/table.py runs/search-*/search
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

Result = dict[str, Any]


def cell(values: Sequence[float], *, sign: str = "") -> str:
    """Mean and every seed: `0.12 (0.10, 0.14, 0.12)`."""
    shown = ", ".join(f"{value:{sign}.2f}" for value in values)
    return f"{fmean(values):{sign}.2f} ({shown})".replace("-", "−")


def strategies(results: Sequence[Result]) -> None:
    """Reward, its difference to the greedy text of the same policy on the same prompts, length, tokens read."""
    print("| strategy | true reward | − greedy | length | tokens read |\n|---|---|---|---|---|")
    for name in results[0]["strategies"]:
        rows = [one["strategies"][name] for one in results]
        best = [one["strategies"][f"{name.split(', ')[0]}, greedy"] for one in results]
        reward = [fmean(row["reward"]) for row in rows]
        lead = [mean - fmean(row["reward"]) for mean, row in zip(reward, best, strict=True)]
        length = fmean(fmean(row["length"]) for row in rows)
        shown = "–" if name.endswith("greedy") else cell(lead, sign="+")
        print(f"| {name} | {cell(reward)} | {shown} | {length:.1f} | {fmean(row['read'] for row in rows):.0f} |")


def widths(results: Sequence[Result]) -> None:
    """Reward of a beam minus that of one beam, by width."""
    kinds = results[0]["beams"]
    print(f"\n| width | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
    for width in sorted({width for kind in kinds.values() for width in kind}, key=int):
        cells = []
        for kind, found in kinds.items():
            known = width in found
            gains = [_gain(one["beams"][kind], width) for one in results] if known else []
            cells.append(cell(gains, sign="+" if width != "1" else "") if known else "")
        print(f"| {width} | {' | '.join(cells)} |")


def _gain(kind: dict[str, Any], width: str) -> float:
    mean = fmean(kind[width]["reward"])
    return mean if width == "1" else mean - fmean(kind["1"]["reward"])


def main(folders: Sequence[str]) -> None:
    """Print both tables in Markdown."""
    results = [json.loads((Path(folder) / "results.json").read_text(encoding="utf-8")) for folder in folders]
    print(f"{len(results)} seeds: {', '.join(str(one['settings']['seed']) for one in results)}\n")
    strategies(results)
    widths(results)


if __name__ == "__main__":
    main(sys.argv[1:])
