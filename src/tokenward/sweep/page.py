"""The page of a sweep: reward over √KL with bands, curves of the training batches, the table; nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from tokenward import __version__
from tokenward.report.figures import COLORS, data_uri
from tokenward.report.page import POLICY, STYLE
from tokenward.report.study_figures import svg
from tokenward.runlog import write_text
from tokenward.studies.study import Figure, Series
from tokenward.sweep import frontier as bands
from tokenward.sweep.results import NUMBERS, Record, Row, by_label

MOST_CURVES = len(COLORS)
HEADINGS = ("method", "seeds", "reward", "KL (nats)", "tokens")


def write_page(records: Sequence[Record], found: Sequence[Row], *, sweep: str, path: Path) -> Path:
    """Write the page; its path."""
    write_text(path, page(records, found, sweep=sweep))
    return path


def page(records: Sequence[Record], found: Sequence[Row], *, sweep: str) -> str:
    """The whole page as text; `sweep` is the text of the sweep's file."""
    body = ["<h1>tokenward sweep</h1>", f"<p>tokenward {escape(__version__)}; {_counts(records)}.</p>"]
    for figure in (frontier(found), bands.figure(records), *learning(records)):
        if figure.series:
            image = data_uri(svg(figure))
            words = f"<figcaption>{escape(figure.caption)}</figcaption>"
            body.append(f'<figure><img src="{image}" alt="{escape(figure.title)}">{words}</figure>')
    body += ["<h2>Held-out prompts</h2>", _table(found)]
    failed = [one for one in records if one["status"] == "failed"]
    if failed:
        body.append("<h2>Failed jobs</h2><ul>")
        body += [f"<li>{escape(one['job'])}: {escape(str(one['error']))}</li>" for one in failed]
        body.append("</ul>")
    body.append(f"<details><summary>the sweep's file</summary><pre>{escape(sweep)}</pre></details>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tokenward sweep</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def frontier(found: Sequence[Row]) -> Figure:
    """Reward over √KL: a line per method through the places of its grid, in the order of their KL."""
    whole = [row for row in found if row.group is None]
    series = []
    for method in dict.fromkeys(row.method for row in whole):
        line = sorted((row for row in whole if row.method == method), key=lambda row: row.kl.value)
        series.append(
            Series(
                _plain(method),
                [max(row.kl.value, 0.0) ** 0.5 for row in line],
                [row.reward.value for row in line],
                style="line" if len(line) > 1 else "points",
                low=[row.reward.low for row in line],
                high=[row.reward.high for row in line],
            )
        )
    caption = "Held-out prompts; 95 % bootstrap intervals of the reward over seeds and prompts. KL to the start model."
    title = bands.titled("Reward against KL", series)
    return Figure("frontier", title, "√KL (√nats)", "reward", tuple(series), caption)


def learning(records: Sequence[Record]) -> list[Figure]:
    """Reward and KL of the training batches over updates, mean and range over seeds; none for too many lines."""
    groups = {name: same for name, same in by_label(records).items() if same[0]["training"].get("reward")}
    if not groups or len(groups) > MOST_CURVES:
        return []
    figures = []
    for number, words in (("reward", "reward of the training batches"), ("kl", "KL of the training batches (nats)")):
        series = []
        for name, same in groups.items():
            columns = [one["training"].get(number, []) for one in same]
            places = list(zip(*columns, strict=False))
            if places and all(value is not None for place in places for value in place):
                at = [float(place) for place in same[0]["training"]["update"][: len(places)]]
                mean = [fmean(place) for place in places]
                low, high = ([pick(place) for place in places] for pick in (min, max))
                series.append(Series(_plain(name), at, mean, low=low, high=high))
        caption = "Mean over seeds; the band is their range."
        title = bands.titled(words[0].upper() + words[1:], series)
        figures.append(Figure(number, title, "update", number, tuple(series), caption))
    return figures


def _plain(name: str) -> str:
    """A name as figures call it: spaces for dashes below."""
    return name.replace("_", " ")


def _counts(records: Sequence[Record]) -> str:
    states = [one["status"] for one in records]
    return ", ".join(f"{states.count(state)} jobs {state}" for state in dict.fromkeys(states))


def _table(found: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    lines = []
    for row in found:
        name = row.label + (f" [{row.group}]" if row.group else "")
        intervals = [getattr(row, number) for number in NUMBERS]
        cells = [f"{i.value:.2f} <span class='se'>({i.low:.2f} to {i.high:.2f})</span>" for i in intervals]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in [escape(name), str(row.seeds), *cells]) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
