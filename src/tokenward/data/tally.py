"""What became of the rows of a file: how many were dropped or changed, why, and the first lines of each reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, final

from tokenward.errors import InputError

FIRST = 3  # lines kept of each reason

Reason = Literal[
    "broken JSON", "not UTF-8", "missing column", "wrong type", "empty response",
    "identical chosen and rejected", "prompt differs", "special-token text", "chat template", "empty prompt",
    "boundary", "empty response after truncation", "identical after truncation",
]  # fmt: skip
Change = Literal["special-token text read as text", "prompt cut", "response cut", "boundary moved"]


@final
class BadRow(Exception):
    """A row that cannot be used: one of the reasons, and what exactly is wrong."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@final
@dataclass
class Tally:
    """Counts of rows read, dropped (by reason) and kept with a change, each with its first lines `file:line: what`."""

    source: str
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return self.rows - self.dropped.total()

    @property
    def share(self) -> float:
        """Dropped rows over rows read; 0 for a file without rows."""
        return self.dropped.total() / max(self.rows, 1)

    def drop(self, where: str, problem: BadRow) -> None:
        self.dropped[problem.reason] += 1
        self._remember(problem.reason, f"{where}: {problem.detail}")

    def change(self, where: str, what: Change) -> None:
        self.changed[what] += 1
        self._remember(what, where)

    def _remember(self, reason: str, line: str) -> None:
        lines = self.first.setdefault(reason, [])
        if len(lines) < FIRST:
            lines.append(line)

    def summary(self) -> str:
        """`7 of 100 rows dropped (7 %): 5 empty response, 2 broken JSON; first: a.jsonl:3: …`; "" if none was."""
        if not self.dropped:
            return ""
        counts = ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common())
        first = self.first[self.dropped.most_common(1)[0][0]][0]
        return (
            f"{self.dropped.total()} of {self.rows} rows dropped ({100 * self.share:.3g} %): {counts}; first: {first}"
        )

    def verdict(self, *, max_dropped: float) -> str | None:
        """The line that refuses the file, or None when enough of it can be used."""
        if self.rows == 0:
            return f"{self.source} has no rows: give a file with at least one"
        if self.kept == 0 or self.share > max_dropped:
            allowed = f"more than --max-dropped {max_dropped:g} allows" if self.kept else "nothing is left"
            return f"{self.source}: {self.summary()}; {allowed}"
        return None

    def refuse(self, *, max_dropped: float) -> None:
        """Raise one line when the file has no rows, none that can be used, or too many that cannot."""
        if line := self.verdict(max_dropped=max_dropped):
            raise InputError(line)
