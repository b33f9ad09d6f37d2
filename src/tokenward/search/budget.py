"""How much a search may read or how long it may take, and what it has read so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from tokenward.errors import InputError

Progress = Callable[[str], None]


@final
@dataclass(frozen=True)
class Budget:
    """Limits of one call of a search, for all its prompts together: tokens that models read, seconds; None: no limit.

    A search looks at its budget before each round of reading. Once it is spent no alternative is opened any more: the
    text at hand is finished greedily, so that every prompt has an answer. What is read beyond the budget is therefore
    at most one round and one text of each prompt. Under a limit in seconds an answer depends on the machine.
    """

    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("seconds", self.seconds)):
            if value is not None and not value > 0:
                raise InputError(f"a budget's {name} must be above 0, got {value}")


@final
@dataclass
class Meter:
    """Counts what one call reads, and says so if asked."""

    budget: Budget = field(default_factory=Budget)
    tell: Progress | None = None
    forwarded: int = 0
    start: float = field(default_factory=time.monotonic)

    def read(self, tokens: int) -> None:
        """Count tokens that models read."""
        self.forwarded += tokens
        if self.tell is not None:
            self.tell(f"{self.forwarded:,} tokens read · {self.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def spent(self) -> bool:
        """Whether nothing may be opened any more."""
        over = self.budget.tokens is not None and self.forwarded >= self.budget.tokens
        return over or (self.budget.seconds is not None and self.seconds >= self.budget.seconds)
