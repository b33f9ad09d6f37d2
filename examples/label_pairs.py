"""From scored samples to preference pairs: `python examples/label_pairs.py SAMPLES.jsonl PAIRS.jsonl`.

SAMPLES.jsonl is what `tokenward sample --reward …` writes: several rows {"prompt", "completion", "score"} of each
prompt. Neighbors of one prompt make a pair, labeled by a Bradley–Terry draw on SCALE × the difference of scores.
"""

from __future__ import annotations

import json
import math
import random
import sys
from itertools import groupby
from pathlib import Path

SCALE = 4.0  # logits per unit of score


def main(samples: str, pairs: str) -> None:
    """Write the pairs and print how many there are and how often the better score won."""
    rows = [json.loads(line) for line in Path(samples).read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    lines, better = [], 0
    for prompt, group in groupby(rows, key=lambda row: row["prompt"]):
        found = list(group)
        for one, two in zip(found[::2], found[1::2], strict=False):
            if one["completion"] == two["completion"]:
                continue
            gap = one["score"] - two["score"]
            win, lose = (one, two) if draw.random() < 1 / (1 + math.exp(-SCALE * gap)) else (two, one)
            better += win["score"] > lose["score"]
            lines.append(json.dumps({"prompt": prompt, "chosen": win["completion"], "rejected": lose["completion"]}))
    Path(pairs).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} pairs, the better score chosen in {better / max(1, len(lines)):.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
