"""Human error spans: files of FineGrainedRLHF's feedback as preference pairs and as answers with marked errors.

The format (Wu et al. 2023): one JSON object a line with `question`, `prediction 1` … `prediction 4`, `preference` (of
the pairs (1,2) (1,3) (1,4) (2,3) (2,4) (3,4): 0 tie, 1 the first, 2 the second) and `feedback.errors`, each with
`error type`, `start` and `end` in the characters of `prediction 1`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, final

from tokenward.errors import InputError

ANSWERS = 4


@final
@dataclass(frozen=True)
class Question:
    """A question with four answers, the preferences among them, and the errors of the first."""

    prompt: str
    answers: tuple[str, ...]
    preference: tuple[int, ...]
    errors: tuple[tuple[int, int, str], ...]

    @property
    def held_out(self) -> bool:
        """Half of the questions, by a hash of their text."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] % 2 == 0

    def demonstrations(self) -> list[dict[str, str]]:
        """Each answer as a row of SFT."""
        return [{"prompt": self.prompt, "completion": answer} for answer in self.answers]

    def pairs(self) -> list[dict[str, str]]:
        """The comparisons that somebody won, as rows of preference training; ties and equal texts are left out."""
        rows = []
        for (one, two), winner in zip(combinations(self.answers, 2), self.preference, strict=True):
            if winner and one.split() != two.split():
                chosen, rejected = (one, two) if winner == 1 else (two, one)
                rows.append({"prompt": self.prompt, "chosen": chosen, "rejected": rejected})
        return rows

    def marked(self) -> dict[str, Any]:
        """The first answer with its errors, as `tokenward credit` reads them."""
        return {"prompt": self.prompt, "completion": self.answers[0], "spans": [list(span) for span in self.errors]}


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, plain or gzipped; the first row that is none is named by its line."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_question(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{path}:{number}: not a row of FineGrainedRLHF's feedback: {error!r}") from error
    if not found:
        raise InputError(f"{path}: holds no question; give FineGrainedRLHF's feedback as JSON lines")
    return found


def _question(plain: dict[str, Any]) -> Question:
    written = [_string(plain, f"prediction {n}") for n in range(1, ANSWERS + 1)]
    answers = tuple(one.strip() for one in written)
    preference = tuple(int(x) for x in plain["preference"])
    if len(preference) != ANSWERS * (ANSWERS - 1) // 2 or not {0, 1, 2}.issuperset(preference):
        raise ValueError(f"preference must be six of 0, 1, 2, got {plain['preference']}")
    spans = [(int(e["start"]), int(e["end"]), _string(e, "error type")) for e in plain["feedback"]["errors"]]
    if any(not 0 <= start < end for start, end, _ in spans):
        raise ValueError(f"a span needs 0 ≤ start < end, got {spans}")
    cut = len(written[0]) - len(written[0].lstrip())  # spans count the answer as it was, white space and all
    moved = [(max(0, start - cut), min(end - cut, len(answers[0])), kind) for start, end, kind in spans]
    errors = tuple((start, end, kind) for start, end, kind in moved if start < end)
    return Question(_string(plain, "question").strip() + "\n", answers, preference, errors)


def _string(plain: dict[str, Any], key: str) -> str:
    value = plain[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} must be a text, got {value!r}")
    return value
