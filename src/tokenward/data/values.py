"""One value of a row: text, a number or token ids, or what is wrong with it."""

from __future__ import annotations

import math
from typing import Any

from tokenward.data.tally import BadRow


def unicode_text(value: str, name: str) -> str:
    """The text, where UTF-8 can hold it."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow("not UTF-8", f"{name} holds half of a surrogate pair at character {error.start + 1}") from error
    return value


def token_ids(value: Any, name: str) -> tuple[int, ...] | None:
    """A list of token ids; None where there is none."""
    if value is None:
        return None
    good = isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value)
    if not good:
        raise BadRow("wrong type", f"{name} must be a list of token ids, got {shown(value)}")
    return tuple(value)


def number(columns: dict[str, Any], name: str, *, least: float = -math.inf, most: float = math.inf) -> float | None:
    """A finite number of a column within a range; None where there is none."""
    value = columns.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise BadRow("wrong type", f"{name} must be a finite number, got {shown(value)}")
    if not least <= value <= most:
        raise BadRow("wrong type", f"{name} must be in [{least:g}, {most:g}], got {value:g}")
    return float(value)


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of JSON that no float holds
        return False


def shown(value: Any) -> str:
    """A value of the wrong kind, cut to what fits in a line."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '…'}"
