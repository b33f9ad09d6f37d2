"""Texts that were sampled: what their rows say of their tokens, against the tokens that are read here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from tokenward.diagnose.lens.rows import TokenRow
from tokenward.diagnose.lens.texts import Text

NEAR = {"rel_tol": 0.01, "abs_tol": 0.05}  # of two Σ log π of the same tokens, of which one may be in bfloat16
SAYS = {
    "tokens": "another number of tokens than their rows say (`tokens`): texts are tokenized anew, and the numbers are "
    "of the tokens read here",
    "logp": "another Σ log π than their rows say (`logp`): other tokens, model, temperature or law",
}


@final
@dataclass
class Sampled:
    """How many texts say of themselves how many tokens they have, or their Σ log π, and how many have another here."""

    told: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)

    def compared(self, texts: Sequence[Text], rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        """The rows, one for each text, compared on their way; texts that were cut are left out."""
        for text, row in zip(texts, rows, strict=True):
            if "completion" in text.prompt.columns and not text.cut:
                here = {"tokens": row.totals["length"], "logp": row.totals["logp"]}
                for name, number in here.items():
                    said = text.prompt.columns.get(name)
                    if isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said):
                        near = NEAR if name == "logp" else {"rel_tol": 0.0}
                        self.told[name] += 1
                        self.other[name] += not math.isclose(said, number, **near)
            yield row

    def notes(self) -> list[str]:
        """A line for each number that some text has otherwise than its row says."""
        return [f"{self.other[name]} of {self.told[name]} texts have {says}" for name, says in SAYS.items()
                if self.other[name]]  # fmt: skip
