"""Runs `tokenward demo` on several seeds, one after the other, and counts in how many each of its claims holds.

`python scripts/demo_seeds.py [--seeds 0 1 2 3 4] [--out runs/seeds]`: a seed whose summary.json is there already is not
run again. Exits 1 when a run fails or a claim holds in fewer than four of five seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.8  # of the seeds in which a claim must hold
PROGRAM = [sys.executable, "-c", "import sys; from tokenward.cli import main; sys.exit(main())", "demo"]

Summary = dict[str, Any]


def gain(summary: Summary, method: str) -> float:
    """How many standard errors a method's true reward lies above that of SFT."""
    ours, sft = summary["methods"][method], summary["methods"]["sft"]
    return (ours["reward"] - sft["reward"]) / math.hypot(ours["reward_se"], sft["reward_se"])


def above_ceiling(summary: Summary) -> float:
    """The largest excess of a row over the Gibbs ceiling at its KL, in standard errors; −∞ where none is drawn."""
    excess = [
        (row["reward"] - row["ceiling"]) / math.hypot(row["reward_se"], row["ceiling_se"])
        for row in [*summary["methods"].values(), *summary["search"].values()]
        if "ceiling" in row
    ]
    return max(excess, default=-math.inf)


CLAIMS: dict[str, Callable[[Summary], bool]] = {
    "at most 7 minutes": lambda s: s["seconds"] <= 7 * 60,
    "DPO above SFT by more than 2 standard errors": lambda s: gain(s, "dpo") > 2,
    "PPO above SFT by more than 2 standard errors": lambda s: gain(s, "ppo") > 2,
    "no method above the ceiling by more than 2 standard errors": lambda s: above_ceiling(s) <= 2,
    "credit AUC of true labels at least .85": lambda s: s["credit_auc"] >= 0.85,
    "credit AUC of random labels .5 ± .1": lambda s: abs(s["credit_auc_random_labels"] - 0.5) <= 0.1,
}


def run(seed: int, out: Path) -> Summary | None:
    """The summary of the demo with a seed, from an earlier run if there is one; None if the demo fails."""
    path = out / "summary.json"
    if not path.exists():
        done = subprocess.run([*PROGRAM, "--seed", str(seed), "--out", str(out)], cwd=ROOT)
        if done.returncode != 0:
            print(f"seed {seed}: tokenward demo exited with {done.returncode}")
            return None
    summary: Summary = json.loads(path.read_text(encoding="utf-8"))
    return summary


def line(seed: int, summary: Summary) -> str:
    """One seed's figures."""
    methods = " · ".join(f"{m} {v['reward']:.3f}±{v['reward_se']:.3f}" for m, v in summary["methods"].items())
    gains = ", ".join(f"{m} {gain(summary, m):+.1f}" for m in summary["methods"] if m != "sft")
    auc = f"AUC {summary['credit_auc']:.3f}, random {summary['credit_auc_random_labels']:.3f}"
    return f"seed {seed}: {methods}; above SFT in standard errors: {gains}; {auc}; {summary['seconds']:.0f} s"


def main() -> int:
    """Run what is missing, judge every claim on every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "seeds", help="folder of the runs")
    options = parser.parse_args()
    found = {seed: run(seed, options.out / f"seed-{seed}") for seed in options.seeds}
    summaries = {seed: summary for seed, summary in found.items() if summary is not None}
    for seed, summary in summaries.items():
        print(line(seed, summary))
    good = len(summaries) == len(found)
    for claim, holds in CLAIMS.items():
        seeds = [seed for seed, summary in summaries.items() if holds(summary)]
        enough = len(seeds) >= SHARE * len(found)
        good &= enough
        missing = [seed for seed in found if seed not in seeds]
        print(
            f"{'holds' if enough else 'FAILS'} in {len(seeds)} of {len(found)}: {claim}"
            + (f" (not in seeds {missing})" if missing else "")
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
