"""Files of texts seen token by token: one JSON object per text, which pages and tables read without a model.

`docs/lens.md` describes the format. A key that is absent says that nothing is known, never 0.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from tokenward.errors import InputError, RunError

Number = float | None


@final
@dataclass(frozen=True)
class Meaning:
    """What a number of a token is: a short name, its unit, its formula."""

    label: str
    unit: str
    formula: str


MEANINGS: dict[str, Meaning] = {
    "credit": Meaning("credit", "reward", "β·(log π(y_t|s_t) − log π_ref(y_t|s_t)): the implicit advantage"),
    "ratio": Meaning("log-ratio", "nats", "log π(y_t|s_t) − log π_ref(y_t|s_t)"),
    "logp": Meaning("log π", "nats", "log π(y_t|s_t)"),
    "ref_logp": Meaning("log π_ref", "nats", "log π_ref(y_t|s_t)"),
    "kl": Meaning("KL", "nats", "KL(π(·|s_t)‖π_ref(·|s_t)), over the whole vocabulary"),
    "entropy": Meaning("entropy", "nats", "−Σ_v π(v|s_t)·log π(v|s_t)"),
    "ref_entropy": Meaning("entropy of the reference", "nats", "−Σ_v π_ref(v|s_t)·log π_ref(v|s_t)"),
    "value": Meaning("value", "reward", "V(s_t): what the critic expects from here on"),
    "reward": Meaning("token reward", "reward", "what the recipe's signal steps give at token t, shaping included"),
    "advantage": Meaning("advantage", "reward", "what the recipe's signal steps make of rewards and values (GAE, …)"),
    "weight": Meaning("token weight", "loss", "−∂(N·loss)/∂log π(y_t|s_t), N pairs (or rows): a push, not credit"),
}


@final
@dataclass(frozen=True)
class Alternative:
    """A token that could have stood there; `ref_logp` is absent without a reference."""

    token: str
    logp: float
    ref_logp: Number = None


@final
@dataclass(frozen=True)
class TokenRow:
    """One text, token by token.

    `tokens` are pieces of the response that join to its text · `values` {name of MEANINGS: one number per token, None
    where there is none: a token that an environment wrote} · `totals` {name: number of the whole text} · `where` the
    text's place, such as `pairs.jsonl:12` · `pair` numbers the pair that the text is a `side` of · `wrong` names the
    error at a token, "" where there is none · `segment` numbers turns, sentences or steps from 0 · `actor` the model
    that wrote a token, from 0, −1 for none · `alternatives` the likeliest tokens at each place under either model.
    """

    prompt: str
    tokens: tuple[str, ...]
    values: dict[str, tuple[Number, ...]]
    totals: dict[str, float] = field(default_factory=dict)
    where: str | None = None
    pair: int | None = None
    side: Literal["chosen", "rejected"] | None = None
    wrong: tuple[str, ...] | None = None
    segment: tuple[int, ...] | None = None
    actor: tuple[int, ...] | None = None
    alternatives: tuple[tuple[Alternative, ...], ...] | None = None

    def __post_init__(self) -> None:
        columns = {"wrong": self.wrong, "segment": self.segment, "actor": self.actor, "alternatives": self.alternatives}
        for name, column in {**self.values, **columns}.items():
            if column is not None and len(column) != len(self.tokens):
                raise InputError(f"a row has {len(self.tokens)} tokens and {len(column)} of {name}: give one each")

    def as_json(self) -> dict[str, Any]:
        """The row as an object of JSON, absent fields left out."""
        plain = {name: value for name, value in vars(self).items() if value is not None and value != {}}
        if self.alternatives is not None:
            plain["alternatives"] = [
                [[a.token, a.logp] if a.ref_logp is None else [a.token, a.logp, a.ref_logp] for a in place]
                for place in self.alternatives
            ]
        return plain


def write_rows(path: Path, rows: Iterable[TokenRow]) -> int:
    """One JSON object per text, written as the rows come; the file appears when it is whole. How many there were.

    A half character (of a file's name that is no UTF-8) is written as JSON's escape of it.
    """
    draft, count = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0
    with writing(path):
        try:
            with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                for row in rows:
                    file.write(_line(row))
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return count


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while a file or directory is written, as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def read_rows(path: Path) -> list[TokenRow]:
    """The rows of such a file; the first that is none is named by its line."""
    with path.open("rb") as file:  # bytes: of a line that is not UTF-8 the number is known as well
        return [_read(line, f"{path}:{number}") for number, line in enumerate(file, start=1) if line.strip()]


def _read(line: bytes, where: str) -> TokenRow:
    try:
        return _row(json.loads(line.decode("utf-8")))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: not a text token by token (prompt, tokens, values): {error}") from error


def _line(row: TokenRow) -> str:
    """The row as one line; a number that is not finite is refused by its place."""
    try:
        return json.dumps(row.as_json(), ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        bad = [name for name, column in row.values.items() if not all(x is None or math.isfinite(x) for x in column)]
        bad += [name for name, total in row.totals.items() if not math.isfinite(total)]
        raise RunError(f"{row.where or 'a text'}: {', '.join(bad) or 'a number'} is NaN or infinite") from error


def _row(plain: Any) -> TokenRow:
    known = _of(plain, dict, "an object", "a row")
    values, totals = known["values"], known.get("totals", {})
    return TokenRow(
        prompt=_text(known["prompt"], "prompt"),
        tokens=_column(known["tokens"], "tokens", _text),
        values={
            name: _column(column, name, lambda value, name: None if value is None else _number(value, name))
            for name, column in _of(values, dict, "an object", "values").items()
        },
        totals={name: _number(value, name) for name, value in _of(totals, dict, "an object", "totals").items()},
        where=_known(known, "where", _text),
        pair=_known(known, "pair", _count),
        side=_known(known, "side", _side),
        wrong=_known(known, "wrong", lambda column, name: _column(column, name, _text)),
        segment=_known(known, "segment", lambda column, name: _column(column, name, _whole)),
        actor=_known(known, "actor", lambda column, name: _column(column, name, _whole)),
        alternatives=_known(known, "alternatives", lambda column, name: _column(column, name, _place)),
    )


def _known(plain: dict[str, Any], name: str, read: Callable[[Any, str], Any]) -> Any:
    value = plain.get(name)
    return None if value is None else read(value, name)


def _of(value: Any, kind: type, wanted: str, name: str) -> Any:
    """The value if it is exactly of that type (True is no number); otherwise what was given, in a few characters."""
    if type(value) is not kind:
        raise ValueError(f"{name} must be {wanted}, got {reprlib.repr(value)}")
    return value


def _text(value: Any, name: str) -> str:
    return str(_of(value, str, "text", name))


def _whole(value: Any, name: str) -> int:
    return int(_of(value, int, "a whole number", name))


def _count(value: Any, name: str) -> int:
    if _whole(value, name) < 0:
        raise ValueError(f"{name} must be 0 or more, got {reprlib.repr(value)}")
    return int(value)


def _side(value: Any, name: str) -> str:
    if value not in ("chosen", "rejected"):
        raise ValueError(f'{name} must be "chosen" or "rejected", got {reprlib.repr(value)}')
    return str(value)


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{name} must hold numbers, got {reprlib.repr(value)}")
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{name}: {value} is not a finite number")
    return found


def _column(value: Any, name: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    return tuple(read(item, name) for item in _of(value, list, "a list", name))


def _place(value: Any, name: str) -> tuple[Alternative, ...]:
    return tuple(_alternative(one, name) for one in _of(value, list, "a list", name))


def _alternative(plain: Any, name: str) -> Alternative:
    if len(_of(plain, list, "a list", name)) not in (2, 3):
        raise ValueError(f"one of {name} is [text, log π] or [text, log π, log π_ref], got {reprlib.repr(plain)}")
    token, *logps = plain
    return Alternative(_text(token, name), *(_number(logp, name) for logp in logps))
