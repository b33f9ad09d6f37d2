"""The pairs of the study: two texts of one prompt, told apart by the final answer alone; or by a coin."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenward.trained.reasoning.bench import Bench
from tokenward.types import Rollout

Row = dict[str, str]


def by_outcome(bench: Bench, texts: Sequence[Rollout], *, most: int) -> list[Row]:
    """Right text k chosen over wrong text k of each prompt, at most `most` pairs; no text stands in two."""
    right: dict[int, list[str]] = {}
    wrong: dict[int, list[str]] = {}
    for text in texts:
        if text.score is not None and bench.truth(text) is not None and text.finish == "stop":
            (right if text.score else wrong).setdefault(text.prompt_id, []).append(bench.words(text))
    return [
        {"prompt": bench.named[number].text, "chosen": good, "rejected": bad}
        for number, goods in right.items()
        for good, bad in list(zip(goods, wrong.get(number, []), strict=False))[:most]
    ]


def by_coin(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The same pairs, chosen and rejected exchanged where a coin says so."""
    rng = random.Random(seed)
    return [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if rng.random() < 0.5 else row for row in rows
    ]
