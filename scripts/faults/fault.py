"""What a planted fault is."""

from __future__ import annotations

from dataclasses import dataclass

LAWS = ("tests/objective",)
FORWARD = ("tests/models/test_forward.py",)


@dataclass(frozen=True)
class Fault:
    """`old` must stand exactly once in `file`; one of the fast tests in `tests` must fail once `new` stands there."""

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...] = LAWS
