"""The page of a study: the question, each claim with its source, check and verdict, the pictures, the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tokenward import __version__
from tokenward.errors import InputError
from tokenward.report.figures import data_uri
from tokenward.report.page import POLICY
from tokenward.report.study_figures import png, svg
from tokenward.runlog import write_text
from tokenward.studies.study import Cell, Claim, Study, Table, read

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
.question { font-size: 1.1rem; color: #333; max-width: 46rem; } .world, figcaption,
  .note { color: #555; font-size: .9rem; }
.claim { border-left: 4px solid #009E73; padding: .1rem .9rem; margin: 1rem 0; }
.claim.fails { border-color: #D55E00; }
.claim p { margin: .25rem 0; } .claim dl { margin: .25rem 0; font-size: .9rem; color: #444; display: grid;
  grid-template-columns: 5.5rem 1fr; } .claim dt { color: #777; } .claim dd { margin: 0; }
.verdict { font-weight: 600; color: #00694d; } .fails .verdict { color: #a34700; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #888; }
figure { margin: 1rem 0 1.6rem; } figcaption { max-width: 46rem; } img { max-width: 100%; height: auto; }
"""


def write_study(folder: Path) -> Path:
    """Draw the study whose records lie in `folder`/data.jsonl: figures as SVG and PNG, and index.html; its path."""
    study = read(folder / "data.jsonl")
    images = {figure.name: svg(figure) for figure in study.figures}
    try:
        for figure in study.figures:
            write_text(folder / f"{figure.name}.svg", images[figure.name])
            (folder / f"{figure.name}.png").write_bytes(png(figure))
        path = folder / "index.html"
        write_text(path, page(study, images))
    except OSError as error:
        raise InputError(f"study {study.name}: {folder} cannot be written: {error.strerror}") from error
    return path


def write_index(folder: Path, names: Sequence[str]) -> Path:
    """One page that links the studies of a folder, with how many of their claims held."""
    studies = [read(folder / name / "data.jsonl") for name in names]
    rows = tuple((study.title, f"{len(study.claims) - len(study.failed)} of {len(study.claims)}") for study in studies)
    table = _table(Table("", ("study", "claims that held"), rows), links=[f"{name}/index.html" for name in names])
    path = folder / "index.html"
    write_text(path, _document("Studies", [f"<h1>Studies</h1>{table}"]))
    return path


def page(study: Study, images: dict[str, str]) -> str:
    """The whole page as text; `images` are the figures' SVG by name."""
    body = [
        f"<h1>{escape(study.title)}</h1>",
        f'<p class="question">{escape(study.question)}</p>',
        f'<p class="world">Computed on: {escape(study.world)}. tokenward {escape(__version__)}.</p>',
        f"<h2>Claims: {len(study.claims) - len(study.failed)} of {len(study.claims)} hold</h2>",
        *(_claim(claim) for claim in study.claims),
    ]
    for figure in study.figures:
        source = data_uri(images[figure.name])
        body.append(
            f'<figure><img src="{source}" alt="{escape(figure.title)}">'
            f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        )
    for table in study.tables:
        note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
        body.append(f"<h2>{escape(table.title)}</h2>{_table(table)}{note}")
    body += [f'<p class="note">{escape(note)}</p>' for note in study.notes]
    return _document(study.title, body)


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _claim(claim: Claim) -> str:
    verdict, kind = ("holds", "claim") if claim.holds else ("does not hold", "claim fails")
    parts = [("measured", f"{shown(claim.measured)} (holds if {_bounds(claim)})"), ("check", claim.check)]
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in [*parts, ("source", claim.source)])
    return (
        f'<div class="{kind}"><p>{escape(claim.text)} <span class="verdict">{verdict}</span></p><dl>{rows}</dl></div>'
    )


def _bounds(claim: Claim) -> str:
    if claim.at_least is None:
        return f"at most {shown(claim.at_most)}"
    if claim.at_most is None:
        return f"at least {shown(claim.at_least)}"
    return f"between {shown(claim.at_least)} and {shown(claim.at_most)}"


def _table(table: Table, *, links: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = []
    for i, row in enumerate(table.rows):
        cells = [escape(shown(cell)) for cell in row]
        if links:
            cells[0] = f'<a href="{escape(links[i])}">{cells[0]}</a>'
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>' + "".join(rows) + "</tbody></table></div>"


def shown(cell: Cell) -> str:
    """A cell as text: numbers with four digits that count, whole ones whole.

    >>> shown(0.000123456), shown(12.0), shown(None), shown("dpo")
    ('0.0001235', '12', '–', 'dpo')
    """
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    whole = math.isfinite(cell) and cell == int(cell) and abs(cell) < 1e6
    return f"{cell:.0f}" if whole else f"{cell:.4g}"
