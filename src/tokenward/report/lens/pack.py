"""Texts token by token as one compressed blob that the page's script reads: which column lies where, how it is rounded.

The blob is zlib-compressed: 4 bytes (little endian) with the length of a JSON header, the header, then the header's
columns, each padded to 8 bytes. A number of a token is m·10^e with m of four digits (int16) and e (int16); m = −32768
says that there is none. Sums of rows are 64-bit floats, made before rounding.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tokenward.diagnose.lens.rows import MEANINGS, Alternative, Meaning, TokenRow
from tokenward.errors import InputError

DIGITS = 4  # of every number of a token
MISSING = -32768
MOST_ALTERNATIVES = 200  # rows
SIDES = {None: 0, "chosen": 1, "rejected": 2}
AVERAGED = frozenset({"value", "entropy", "ref_entropy"})  # a sum over tokens says nothing: their mean is shown

Column = tuple[str, np.ndarray]


class Strings:
    """Each text once, by number."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """The number of a text."""
        return self.places.setdefault(text, len(self.places))


def pack(rows: Sequence[TokenRow]) -> bytes:
    """The blob of some rows."""
    names = value_names(rows)
    strings, kinds = Strings(), Strings()
    kinds.place("")
    columns = [*_places(rows, strings), *_marks(rows, kinds)]
    described, known = [], {}
    for name in names:
        flat, sums = _flat(rows, name)
        known[name] = sums
        m, e = digits(flat)
        columns += [(f"m:{name}", m), (f"e:{name}", e), (f"sum:{name}", sums)]
        described.append({**_named(name), **scale(flat)})
    totals = {name: _column([row.totals.get(name, math.nan) for row in rows], "<f8") for name in _total_names(rows)}
    # A total that is the sum of the tokens' numbers in every row is shown once.
    totals = {name: of for name, of in totals.items() if not (name in known and _equal(of, known[name]))}
    columns += [(f"total:{name}", of) for name, of in totals.items()]
    header = {
        "version": 1,
        "rows": len(rows),
        "names": described,
        "totals": [_named(name) for name in totals],
        "kinds": [*kinds.places],
        "alternatives": _alternatives(rows, strings),
        "strings": [*strings.places],
        "columns": [[name, str(values.dtype), len(values)] for name, values in columns],
    }
    head = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 4) % 8)
    parts = [struct.pack("<I", len(head)), head]
    for _, values in columns:
        raw = values.tobytes()
        parts.append(raw + b"\0" * (-len(raw) % 8))
    return zlib.compress(b"".join(parts), 6)


def value_names(rows: Iterable[TokenRow]) -> list[str]:
    """The names that any row has numbers of: those of MEANINGS in its order, then others as they come."""
    found = dict.fromkeys(name for row in rows for name in row.values)
    return [name for name in MEANINGS if name in found] + [name for name in found if name not in MEANINGS]


def digits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, e) with m·10^e the values to four significant digits; NaN is MISSING, and what is below 1e-300 is 0.

    >>> [part.tolist() for part in digits(np.array([0.5, -12.3456, 0.0, 99999.0, np.nan]))]
    [[5000, -1235, 0, 1000, -32768], [-4, -2, 0, 2, 0]]
    """
    size = np.abs(values)
    some = np.isfinite(values) & (size >= 1e-300)
    power = np.zeros(len(values), dtype=np.int64)
    power[some] = np.floor(np.log10(size[some])).astype(np.int64) - (DIGITS - 1)
    # Powers beyond the range of doubles are made in two steps.
    half = power // 2
    m = np.zeros(len(values))
    m[some] = np.rint(values[some] / 10.0 ** half[some] / 10.0 ** (power - half)[some])
    over = np.abs(m) >= 10**DIGITS
    m[over], power[over] = np.rint(m[over] / 10), power[over] + 1
    m[np.isnan(values)] = MISSING
    return m.astype("<i2"), power.astype("<i2")


def scale(values: np.ndarray) -> dict[str, Any]:
    """Where the colors of some numbers end: percentiles 5 and 95 of their sizes, and the signs that they have.

    Numbers of one sign whose sizes lie far from 0 begin where they begin, so that their differences show.
    """
    found = values[np.isfinite(values)]
    if not len(found):
        return {"sign": "both", "low": 0.0, "high": 0.0}
    sign = "plus" if found.min() >= 0 else "minus" if found.max() <= 0 else "both"
    low, high = (_four(float(end)) for end in np.percentile(np.abs(found), [5, 95], method="nearest"))
    if high == 0.0:  # nearly all are 0: the colors end at the largest
        high = _four(float(np.abs(found).max()))
    near = sign == "both" or low < high / 2 or low == high
    return {"sign": sign, "low": 0.0 if near else low, "high": high}


def _total_names(rows: Sequence[TokenRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.totals))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    # Rounded numbers of tokens add up to a total near 0 only as exactly as the largest totals are known.
    near = 1e-5 * float(np.nanmax(np.abs(one), initial=0.0))
    return bool(np.allclose(one, other, rtol=1e-5, atol=near, equal_nan=True))


def _named(name: str) -> dict[str, Any]:
    meaning = MEANINGS.get(name, Meaning(name, "", ""))
    return {
        "name": name,
        "label": meaning.label,
        "unit": meaning.unit,
        "formula": meaning.formula,
        "whole": "mean" if name in AVERAGED else "sum",
    }


def _places(rows: Sequence[TokenRow], strings: Strings) -> list[Column]:
    starts = np.cumsum([0, *(len(row.tokens) for row in rows)])
    tokens = [strings.place(token) for row in rows for token in row.tokens]
    where = [-1 if row.where is None else strings.place(row.where) for row in rows]
    return [
        ("start", _column(starts, "<i4")),
        ("token", _column(tokens, "<i4")),
        ("prompt", _column([strings.place(row.prompt) for row in rows], "<i4")),
        ("where", _column(where, "<i4")),
        ("pair", _column([math.nan if row.pair is None else row.pair for row in rows], "<f8")),
        ("side", _column([SIDES[row.side] for row in rows], "<i1")),
    ]


def _marks(rows: Sequence[TokenRow], kinds: Strings) -> list[Column]:
    """Columns of errors, segments and models, where any row has them."""
    found: list[Column] = []
    if any(row.wrong is not None for row in rows):
        marks = [kinds.place(kind) for row in rows for kind in (row.wrong or ("",) * len(row.tokens))]
        found.append(("wrong", _column(marks, "<i4")))
    if any(row.segment is not None for row in rows):
        parts = [part for row in rows for part in (row.segment or (0,) * len(row.tokens))]
        found.append(("segment", _column(parts, "<i4")))
    if any(row.actor is not None for row in rows):
        # A row that tells no model was written by one.
        actors = [actor for row in rows for actor in (row.actor or (0,) * len(row.tokens))]
        found.append(("actor", _column(actors, "<i4")))
    return found


def _flat(rows: Sequence[TokenRow], name: str) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of a name, row after row, and each row's sum (or mean); NaN where there is none."""
    flat: list[float] = []
    sums: list[float] = []
    for i, row in enumerate(rows):
        known = [value for value in row.values.get(name, ()) if value is not None]
        if not all(map(math.isfinite, known)):
            raise InputError(
                f"row {i + 1}: {name} holds a number that is not finite: leave it None where there is none"
            )
        try:
            whole = math.fsum(known) / (len(known) if name in AVERAGED and known else 1)
        except OverflowError as error:
            raise InputError(f"row {i + 1}: the sum of {name} is beyond the range of doubles: leave it out") from error
        sums.append(whole if known else math.nan)
        column = row.values.get(name, (None,) * len(row.tokens))
        flat += [math.nan if value is None else value for value in column]
    return np.array(flat, dtype=float), np.array(sums, dtype="<f8")


def _alternatives(rows: Sequence[TokenRow], strings: Strings) -> dict[str, Any]:
    """{row: per token [[token, log π, log π_ref] …]} of the first rows that have any."""
    have = [i for i, row in enumerate(rows) if row.alternatives is not None][:MOST_ALTERNATIVES]
    return {str(i): [[_alternative(a, strings) for a in place] for place in rows[i].alternatives or ()] for i in have}


def _alternative(one: Alternative, strings: Strings) -> list[Any]:
    parts: list[Any] = [strings.place(one.token)]
    for number in (one.logp, one.ref_logp):
        parts.append(None if number is None or not math.isfinite(number) else _four(number))
    return parts


def _four(number: float) -> float:
    return float(f"{number:.{DIGITS - 1}e}")


def _column(values: Any, kind: str) -> np.ndarray:
    try:
        return np.array(values, dtype=kind)
    except OverflowError as error:
        raise InputError(
            f"a row has a segment, model or pair number that is too large for the page: {error}"
        ) from error
