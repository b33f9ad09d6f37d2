"""Checked values of a JSON object: numbers, vectors, laws. Whatever cannot be used is refused in one line by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError, nearest

LARGEST = sys.float_info.max
SUMS_TO_ONE = 1e-6  # how far the probabilities of a file may be from 1 before they are refused


def number(given: object, where: str, *, above: float | None = None, least: float | None = None) -> float:
    """A finite number, above or at least a bound."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not abs(given) <= LARGEST:  # NaN too
        raise InputError(f"{where} must be a finite number, got {short(given)}")
    if (above is not None and given <= above) or (least is not None and given < least):
        bound = f"above {above:g}" if above is not None else f"{least:g} or more"
        raise InputError(f"{where} must be {bound}, got {given:g}")
    return float(given)


def whole(given: object, where: str, *, least: int | None = None, most: int | None = None) -> int:
    """A whole number, at least and at most a bound."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"{where} must be a whole number, got {short(given)}")
    if least is not None and given < least:
        raise InputError(f"{where} must be {least} or more, got {short(given)}")
    if most is not None and given > most:
        raise InputError(f"{where} must be {most:,} or less, got {short(given)}")
    return given


def vector(given: object, where: str, *, leaves: int) -> Float[Tensor, " L"]:
    """One finite number of each leaf."""
    if not isinstance(given, list) or len(given) != leaves:
        have = f"{len(given)} values" if isinstance(given, list) else short(given)
        raise InputError(f"{where} must be a list of {leaves} numbers, one per leaf, got {have}")
    return torch.tensor([number(x, f"{where}[{i}]") for i, x in enumerate(given)], dtype=torch.float64)


def law(given: object, where: str, *, leaves: int, positive: bool) -> Float[Tensor, " L"]:
    """A probability of each leaf, normalized to the last digit; `positive`: none may be 0."""
    found = vector(given, where, leaves=leaves)
    if bool((found < 0).any()) or (positive and bool((found == 0).any())):
        bad = int((found <= 0).nonzero()[0])
        least = "above 0" if positive else "0 or more"
        raise InputError(f"{where} of leaf {bad} is {float(found[bad]):g}; every probability must be {least}")
    if abs(float(found.sum()) - 1) > SUMS_TO_ONE:
        raise InputError(f"{where} sums to {float(found.sum()):.6g}; probabilities of the leaves must sum to 1")
    return found / found.sum()


def json_object(given: object, where: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a JSON object, got {short(given)}")
    return given


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON reader's pairs; a key that stands twice is refused, as one of its values would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"key {key!r} stands twice in one object")
        found[key] = value
    return found


def known_keys(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse any other key, with the nearest one."""
    for key in found:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}.{nearest(key, known)}")


def short(given: object) -> str:
    """The value as JSON, cut to 60 characters."""
    text = json.dumps(given)
    return text if len(text) <= 60 else text[:57] + "…"
