"""Weights of words, from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@final
@dataclass(frozen=True)
class Lexicon:
    """The mean ("mean") or the sum ("sum") of the weights of a completion's words; unknown words weigh 0.

    Words are runs of letters, apostrophes and hyphens within them, in lower case; a text without words scores 0.
    Logged beside: `known`, the number of words that stand in the lexicon.

    >>> Lexicon({"glad": 2.0, "sad": -2.0}).check("A glad, glad dog.", Prompt(0, (), ""))
    (1.0, {'known': 2.0})
    """

    weights: Mapping[str, float]
    total: Literal["mean", "sum"] = "mean"

    def check(self, text: str, prompt: Prompt) -> tuple[float, dict[str, float]]:
        """(mean or sum of weights, known words)."""
        words = WORD.findall(text.lower())
        total = math.fsum(self.weights.get(word, 0.0) for word in words)
        if self.total == "mean":
            total /= max(len(words), 1)
        return total, {"known": float(sum(word in self.weights for word in words))}


def read_lexicon(path: Path) -> dict[str, float]:
    """Words and weights of a text file: one word a line, a tab or blanks, its weight; further columns are not read.

    Entries that are no word of `Lexicon` (emoticons, phrases) are passed over; of a word that stands twice, the last
    weight counts (VADER's own file has such).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"lexicon {path} cannot be read: {error}") from error
    found: dict[str, float] = {}
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, weight = _entry(line, where=f"{path}:{line_number}")
        if WORD.fullmatch(word):
            found[word] = weight
    if not found:
        raise InputError(f"lexicon {path} holds no word: give lines of a word, a tab or blanks, and its weight")
    return found


def _entry(line: str, *, where: str) -> tuple[str, float]:
    """The word of a line in lower case, and its weight."""
    fields = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
    try:
        weight = float(fields[1])
    except (IndexError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(f"{where}: wanted a word, a tab or blanks, and its weight, got {line.strip()!r}")
    return fields[0].lower(), weight
