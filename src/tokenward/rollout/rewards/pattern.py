"""Whether a pattern is found in a completion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, final

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Pattern:
    r"""1 where the pattern is (not) found, else 0: Python's `re.search`; `^…$` for the whole text, `(?is)` for flags.

    >>> Pattern(r"^\s*\d+$").check(" 72", Prompt(0, (), ""))
    (1.0, {})
    """

    pattern: str
    wanted: Literal["found", "absent"] = "found"

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"{self.pattern!r} is not a regular expression: {error}") from error

    def check(self, text: str, prompt: Prompt) -> tuple[float, dict[str, float]]:
        """(whether it is as wanted, nothing beside)."""
        return float((re.search(self.pattern, text) is not None) == (self.wanted == "found")), {}
