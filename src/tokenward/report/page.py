"""One self-contained HTML page of runs and results: no script, nothing from outside, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tokenward.diagnose.lens.rows import TokenRow
from tokenward.errors import InputError
from tokenward.report import figures, health_section
from tokenward.report.lens.beside import Links, write_beside
from tokenward.report.records import ResultRecord, RunRecord, gather, number
from tokenward.runlog import write_text

MOST_TEXTS = 12  # of one file of token credit
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser itself refuses the rest
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
figcaption { color: #555; font-size: .9rem; max-width: 48rem; } ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #888; }
.se { color: #777; font-size: .85em; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
.text { border-left: 3px solid #ddd; margin: .7rem 0; padding: .1rem .8rem; }
.prompt { color: #555; font-size: .9rem; }
.tokens { font-family: ui-monospace, monospace; line-height: 2; white-space: pre-wrap; }
.tokens span { border-radius: 3px; padding: .12rem 0; }
.wrong { text-decoration: underline wavy #000 1.5px; text-underline-offset: 4px; }
.scale { display: inline-block; width: 9rem; height: .8rem; vertical-align: middle; margin: 0 .5rem;
  background: linear-gradient(90deg, rgb(213 94 0 / .75), rgb(213 94 0 / 0) 50%, rgb(0 114 178 / 0) 50%,
  rgb(0 114 178 / .75)); border: 1px solid #ccc; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .85rem; } summary { cursor: pointer; }
"""
METHOD_COLUMNS = {  # key of summary.json: (heading, key of its standard error, digits)
    "reward": ("true reward", "reward_se", 2),
    "kl": ("KL to SFT", "kl_se", 2),
    "error_rate": ("wrong tokens a text", None, 2),
    "length": ("tokens a text", None, 1),
    "tokens": ("tokens read", None, 0),
    "seconds": ("seconds", None, 0),
}


def write_page(folders: Sequence[str | Path], out: str | Path, *, title: str = "tokenward report") -> Path:
    """Read the directories and write the page; the path written."""
    if not folders:
        raise InputError("report needs at least one RUN_DIR")
    runs, results = gather(folders)
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page(runs, results, title=title, links=write_beside(path, results)))
    except OSError as error:
        raise InputError(f"report: {path} cannot be written: {error.strerror}") from error
    return path


def page(runs: Sequence[RunRecord], results: Sequence[ResultRecord], *, title: str, links: Sequence[Links]) -> str:
    """The whole page as text; `links` are, per result, the pages of all its texts token by token."""
    body = [f"<h1>{escape(title)}</h1>"]
    for result, lenses in zip(results, links, strict=True):
        body += _result(result, order=[run.name for run in runs], links=lenses)
    if runs:
        body += [*_curves(runs), *health_section.section(runs)]
        body += ["<h2>Runs</h2>", _table(*_run_rows(runs)), *(_details(run) for run in runs)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _result(result: ResultRecord, *, order: Sequence[str], links: Links) -> list[str]:
    """The sections of one result directory: table, frontier, search, credit."""
    summary = result.summary
    methods, search = _objects(summary.get("methods")), _objects(summary.get("search"))
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in summary.get("notes", []))
    body = [f"<ul>{lines}</ul>"] if lines else []
    if methods:
        body += ["<h2>Methods</h2>", _table(*_method_rows(methods))]
        points = [point for point in summary.get("ceiling", []) if isinstance(point, dict)]
        image = figures.data_uri(figures.frontier(methods, ceiling=points, search=search, order=order))
        caption = (
            "Mean ± 2 standard errors on held-out prompts. Gray: the best reward of any policy at that KL, from SFT "
            "samples alone, drawn only as far as every prompt keeps 50 effective samples."
            if points
            else "Mean ± 2 standard errors on held-out prompts."
        )
        body += ["<h2>Reward against KL</h2>", _figure(image, "true reward of each method against its KL", caption)]
    if search:
        body += ["<h2>Search with the DPO policy</h2>", _table(*_method_rows(search))]
    if result.credit:
        body.append("<h2>Credit token by token</h2>")
        body += _areas(summary)
        for name, rows in result.credit.items():
            body += _credit(name, rows, links[name])
    return body


def _areas(summary: Mapping[str, Any]) -> list[str]:
    """How well credit finds wrong tokens, with its negative control."""
    found = []
    labels = {"credit_auc": "true labels", "credit_auc_random_labels": "random labels"}
    for key, label in labels.items():
        value = number(summary.get(key))
        interval = summary.get(f"{key}_interval")
        if value is not None:
            span = (
                f" [{interval[0]:.2f}, {interval[1]:.2f}]" if isinstance(interval, list) and len(interval) == 2 else ""
            )
            found.append(f"{label} {value:.3f}{span}")
    if not found:
        return []
    return [f"<p>Area under the ROC curve for finding wrong tokens by low credit: {escape(' · '.join(found))}.</p>"]


def _credit(name: str, rows: Sequence[TokenRow], link: str) -> list[str]:
    """Texts whose tokens are colored by credit, on one scale for the file."""
    sizes = sorted(abs(value) for row in rows for value in row.values.get("credit", ()) if value is not None)
    top = sizes[int(0.95 * (len(sizes) - 1))] if sizes else 0.0
    legend = (
        f"<p>{escape(name.replace('_', ' '))}: −{top:.2f}"
        f'<span class="scale"></span>+{top:.2f} reward units a token (the exact value shows when the pointer rests '
        'on it); <span class="wrong">underlined</span>: a token that is wrong.</p>'
    )
    count = f"All {len(rows):,} texts" if len(rows) > MOST_TEXTS else "The texts"
    further = f'<p><a href="{escape(link)}">{count} with every number, search and order</a></p>'
    return [legend, further, *(_text(row, top or 1.0) for row in rows[:MOST_TEXTS])]


def _text(row: TokenRow, top: float) -> str:
    wrong = row.wrong or ("",) * len(row.tokens)
    credit = row.values.get("credit", (None,) * len(row.tokens))
    spans = []
    for token, value, kind in zip(row.tokens, credit, wrong, strict=True):
        told = [kind] if kind else []
        look = ' class="wrong"' if kind else ""
        if value is not None:
            color = "0 114 178" if value > 0 else "213 94 0"
            look += f' style="background:rgb({color} / {0.75 * min(1.0, abs(value) / top):.3f})"'
            told.insert(0, f"{value:+.4f}")
        title = f' title="{escape(" · ".join(told))}"' if told else ""
        spans.append(f"<span{look}{title}>{escape(token)}</span>")
    text = f'<div class="tokens">{"".join(spans)}</div>'
    return f'<div class="text"><div class="prompt">{escape(row.prompt)}</div>{text}</div>'


def _curves(runs: Sequence[RunRecord]) -> list[str]:
    order = [run.name for run in runs]
    drawn = [
        _figure(
            figures.data_uri(figures.curves(have, metric=metric, title=title, order=order)), f"{title} over updates", ""
        )
        for title, (metric, have) in figures.panels(runs).items()
    ]
    return ["<h2>Learning curves</h2>", f'<div class="figures">{"".join(drawn)}</div>'] if drawn else []


def _method_rows(methods: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    columns = [key for key in METHOD_COLUMNS if any(number(row.get(key)) is not None for row in methods.values())]
    rows = []
    for name, row in methods.items():
        cells = [escape(figures.label(name, row))]
        for key in columns:
            _, error, digits = METHOD_COLUMNS[key]
            cells.append(_cell(number(row.get(key)), number(row.get(error)) if error else None, digits))
        rows.append(cells)
    return ["", *(METHOD_COLUMNS[key][0] for key in columns)], rows


def _run_rows(runs: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """The mean of the last ten values of each metric, one line per run."""
    metrics = [m for m in ("loss", *figures.METRICS) if any(figures.tells(run, m) for run in runs)]
    rows = [
        [
            escape(run.name), escape(run.recipe), f"{len(run.updates)}", f"{run.seconds:.0f}",
            *(_cell(run.last(metric) if figures.tells(run, metric) else None, None, 3) for metric in metrics),
        ]
        for run in runs
    ]  # fmt: skip
    return ["run", "recipe", "updates", "seconds", *metrics], rows


def _cell(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" + ("" if error is None else f' <span class="se">± {error:.{digits}f}</span>')


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; headings are escaped here."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _figure(image: str, alt: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{image}" alt="{escape(alt)}">{below}</figure>'


def _details(run: RunRecord) -> str:
    settings = "\n".join(f"{key}: {value}" for key, value in run.settings.items() if value is not None)
    text = escape(f"{run.text.rstrip()}\n\n{settings}".strip())
    return f"<details><summary>{escape(run.name)}: recipe and settings</summary><pre>{text}</pre></details>"


def _objects(value: object) -> dict[str, dict[str, Any]]:
    """The members of a JSON object that are objects themselves."""
    return {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}
