"""One self-contained HTML page of texts token by token: colors, exact numbers, pairs aligned, thousands of rows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from tokenward.diagnose.lens.rows import TokenRow, read_rows
from tokenward.errors import InputError
from tokenward.report.lens.pack import MOST_ALTERNATIVES, pack
from tokenward.runlog import write_text

MOST_BYTES = 15_000_000
# In this order they are one script.
SCRIPTS = ("table.js", "numbers.js", "align.js", "items.js", "draw.js", "panel.js", "list.js", "wire.js", "lens.js")


def write_lens(
    rows: Iterable[TokenRow] | Path, out: Path, *, title: str, notes: Sequence[str] = (), most_bytes: int = MOST_BYTES
) -> Path:
    """Write the page of some rows, or of a file of rows, and return its path.

    A page of more than `most_bytes` keeps as many of the first rows as fit, and says so.
    """
    every = read_rows(rows) if isinstance(rows, Path) else list(rows)
    path = Path(out)
    kept: Sequence[TokenRow] = every
    text = page(kept, title=title, notes=notes)
    while len(text.encode()) > most_bytes and len(kept) > 1:
        kept = first(kept, int(len(kept) * 0.95 * most_bytes / len(text.encode())))
        lost = f"The page shows the first {len(kept):,} of {len(every):,} texts: more would make it too large."
        text = page(kept, title=title, notes=[*notes, lost])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: the page cannot be written: {error.strerror}") from error
    return path


def first(rows: Sequence[TokenRow], count: int) -> Sequence[TokenRow]:
    """The first rows, at least one; the texts of a pair that stand next to each other stay together."""
    count = max(1, count)
    while 1 < count < len(rows) and rows[count].pair is not None and rows[count].pair == rows[count - 1].pair:
        count -= 1
    return rows[:count]


def page(rows: Sequence[TokenRow], *, title: str, notes: Sequence[str] = ()) -> str:
    """The whole page as text."""
    have = sum(row.alternatives is not None for row in rows)
    facts = [*notes]
    if have > MOST_ALTERNATIVES:
        facts.append(
            f"The likeliest tokens are kept for the first {MOST_ALTERNATIVES} of the {have:,} texts that have them."
        )
    style, script = _read("lens.css"), '"use strict";\n(() => {\n' + "".join(map(_read, SCRIPTS)) + "})();\n"
    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Template(_read("lens.html")).substitute(
        policy=escape(policy),
        title=escape(_writable(title)),
        notes="".join(f"<p>{escape(_writable(note))}</p>" for note in facts),
        style=style,
        script=script,
        blob=base64.b64encode(pack(rows)).decode("ascii"),
    )


def digest(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows exactly this inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _writable(text: str) -> str:
    """The text with half characters (of file names that are no UTF-8) as question marks."""
    return text.encode("utf-8", "replace").decode()


def _read(name: str) -> str:
    return files("tokenward.report.lens").joinpath(name).read_text(encoding="utf-8")
