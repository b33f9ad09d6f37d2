"""Files of token credit: one JSON object per text. Reports read them; no model is needed for that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from tokenward.errors import InputError
from tokenward.runlog import write_text


@final
@dataclass(frozen=True)
class Credited:
    """One text with the credit of each token; `wrong` names the error at a token (empty: none), where it is known."""

    prompt: str
    tokens: tuple[str, ...]
    credit: tuple[float, ...]
    wrong: tuple[str, ...] | None = None


def write_rows(path: Path, rows: Sequence[Credited]) -> None:
    """One JSON object per text: prompt, tokens, credit, wrong."""
    lines = [json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> list[Credited]:
    """The rows of such a file."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            wrong = row.get("wrong")
            found = Credited(
                str(row["prompt"]),
                tuple(map(str, row["tokens"])),
                tuple(map(float, row["credit"])),
                None if wrong is None else tuple(map(str, wrong)),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}:{number}: not a row of token credit (prompt, tokens, credit): {error}") from error
        if len(found.tokens) != len(found.credit) or (found.wrong and len(found.wrong) != len(found.tokens)):
            raise InputError(f"{path}:{number}: {len(found.tokens)} tokens, {len(found.credit)} credits")
        rows.append(found)
    return rows
