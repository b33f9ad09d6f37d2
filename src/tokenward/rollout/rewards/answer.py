"""Whether a completion's answer is the number that stands in its prompt's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, nearest
from tokenward.rollout.rewards import number


@final
@dataclass(frozen=True)
class Answer:
    """1 where the answer is exactly the number in `column`, else 0; what a number is: `number.py`.

    Both are read the same way: after the last `####`, or the last number. A completion without a number scores 0; a
    row without one is an error. Logged beside: `parsed`, 1 where the completion has a number.

    >>> Answer("gold").check("2 × 36 = 72.", Prompt(0, (), "", {"gold": "… #### 72.0"}))
    (1.0, {'parsed': 1.0})
    """

    column: str

    def check(self, text: str, prompt: Prompt) -> tuple[float, dict[str, float]]:
        """(whether the answers agree, whether there is one)."""
        if self.column not in prompt.columns:
            raise InputError(f"has no column {self.column!r}.{nearest(self.column, prompt.columns)}")
        value = prompt.columns[self.column]
        wanted = None
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            wanted = number.answer(str(value))
        if wanted is None:
            raise InputError(f"has no number in column {self.column!r}: {_short(value)}")
        found = number.answer(text)
        return float(found == wanted), {"parsed": float(found is not None)}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
