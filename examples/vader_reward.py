"""A sentiment reward from the VADER lexicon, for `--reward examples/vader_reward.py:reward`.

VADER_LEXICON names `vader_lexicon.txt` (word, mean valence, …; tabs) or a zip that holds it. The reward of a completion
is VADER's normalization of the summed valences v of its words: v / √(v² + 15), between −1 and 1. No negation rules.
Source: Hutto and Gilbert 2014.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from functools import cache
from pathlib import Path

WORD = re.compile(r"[a-z][a-z'-]*")


@cache
def lexicon() -> dict[str, float]:
    """Mean valence, −4 to 4, of each word."""
    path = Path(os.environ.get("VADER_LEXICON", ""))
    if not path.is_file():
        raise FileNotFoundError(f"set VADER_LEXICON to vader_lexicon.txt or its zip; it is {str(path)!r}")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("vader_lexicon.txt"))
            text = archive.read(name).decode("utf-8")
    else:
        text = path.read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line.strip())
    return {row[0]: float(row[1]) for row in rows}


def reward(prompts: list[str], completions: list[str], columns: list[dict[str, object]]) -> list[float]:
    """One reward for each completion."""
    valence = lexicon()
    sums = [sum(valence.get(word, 0.0) for word in WORD.findall(text.lower())) for text in completions]
    return [v / math.sqrt(v * v + 15) for v in sums]
