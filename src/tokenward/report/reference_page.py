"""The page of reference diagnostics: verdict and findings first, the identity, drift by place, every number below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.numbers import DEEP, NORMAL, RARE
from tokenward.diagnose.reference.record import OF_REFERENCE, Finding, Measured, ReferenceReport
from tokenward.errors import InputError
from tokenward.report.figures import data_uri
from tokenward.report.page import POLICY, STYLE
from tokenward.report.study_figures import svg
from tokenward.runlog import write_text
from tokenward.studies.study import Figure, Series, Style

MORE_STYLE = """
.finding { border-left: 4px solid #009E73; padding: .1rem .9rem; margin: .8rem 0; max-width: 48rem; }
.finding p { margin: .2rem 0; } .finding.note { border-color: #0072B2; } .finding.warning { border-color: #E69F00; }
.finding.damage { border-color: #D55E00; } .severity { font-weight: 600; }
.measured { color: #555; font-size: .9rem; }
.wide th, .wide td { white-space: normal; } .wide .se { white-space: nowrap; } .wide td:first-child { min-width: 9rem; }
"""
ERRORS = (
    "± is one standard error (texts of one prompt count as one); figures show 95 % intervals, 1.96 of them each way."
)
VERDICTS = {
    "unmoved": "Nothing is trained yet: what is said is about data and reference.",
    "expected": "The chosen answers fell, as they do when a policy leaves its reference; no sign of damage.",
    "rising": "The chosen answers rose; no sign of damage.",
    "unclear": "Neither a rise nor an explained fall of the chosen answers is established.",
    "damage": "There are signs of damage: read the first findings.",
}
NO_ANSWERS = "The data hold no answers that training should raise, so no rise or fall is judged."
ROWS = {  # field of Numbers: (what it is, digits, factor)
    "ratio": ("Σ log π/π_ref a text, nats", 3, 1), "kl": ("Σ KL(π‖π_ref) a text", 3, 1),
    "back": ("Σ KL(π_ref‖π) a text", 3, 1), "token_ratio": ("log π/π_ref a token", 4, 1),
    "token_ref_logp": ("log π_ref a token", 3, 1), "surprise": ("−log π_ref − entropy of π_ref, a token", 3, 1),
    "rare": (f"tokens with π_ref < {RARE:g}, %", 2, 100),
    "deep": (f"tokens with {DEEP} likelier ones under π_ref, %", 2, 100),
    "likeliest": ("tokens that are π_ref's likeliest, %", 1, 100), "entropy": ("entropy of π, a token", 3, 1),
    "ref_entropy": ("entropy of π_ref, a token", 3, 1), "length": ("tokens a text", 1, 1),
    "cut": ("texts without an end, %", 1, 100), "repetition": ("trigrams said before, %", 1, 100),
}  # fmt: skip


def write_reference_page(found: ReferenceReport, folder: Path) -> Path:
    """DIR/reference.html; its path."""
    path = folder / "reference.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Half characters (of a file's name that is no UTF-8) become question marks.
        write_text(path, reference_page(found).encode(errors="replace").decode())
    except OSError as error:
        raise InputError(f"out = {folder} cannot be written: {error.strerror}") from error
    return path


def reference_page(found: ReferenceReport) -> str:
    """The whole page as text: no script, every text escaped."""
    title = "Policy, reference and data"
    about = " · ".join(f"{key.replace('_', ' ')}: {value}" for key, value in found.about.items())
    measured = found.measured
    verdict = NO_ANSWERS if found.verdict == "unclear" and measured.data is None else VERDICTS[found.verdict]
    body = [
        f"<h1>{title}</h1>",
        f'<p class="measured">{escape(about)}</p>',
        f"<p><b>{escape(verdict)}</b></p>",
        *(_finding(one) for one in found.findings),
        "<h2>The identity of fresh samples</h2>",
        "<ul>" + "".join(f"<li>{escape(one.line())}</li>" for one in measured.identities) + "</ul>",
        f'<p class="measured">{ERRORS}</p>',
        _image(identity_figure(measured)),
        "<h2>Drift by place</h2>",
        _image(places_figure(measured)),
        *_mass(measured),
        "<h2>Every number</h2>",
        f'<p class="measured">{ERRORS}</p>',
        _numbers(measured),
        *_against(measured),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{MORE_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def identity_figure(found: Measured) -> Figure:
    """Mean log-ratio of each set of texts with its interval; both KLs where they must meet the samples' log-ratios."""
    names = list(found.sets)
    values = [found.sets[name].ratio for name in names]
    asked = {f"{one.of} samples": one.kl for one in found.identities}
    nothing = Estimate(math.nan, math.nan, 0, 0)
    return Figure(
        "identity", "Mean log π/π_ref of each kind of text", "", "nats a text",
        (
            _bars("log π/π_ref", names, values),
            _bars("what the identity asks for", names, [asked.get(name, nothing) for name in names]),
        ),
        "95 % intervals. For the reference's samples the identity asks for −KL(π_ref‖π), for the policy's KL(π‖π_ref), "
        "each from exact KLs of the states; chosen and rejected answers are tied to nothing.",
    )  # fmt: skip


def places_figure(found: Measured) -> Figure:
    """Mean log-ratio of a token by its place in the response, for each set of texts."""
    series = []
    for name, one in found.sets.items():
        middle = [(place.first + place.last) / 2 + 1 for place in one.places]
        series.append(Series(name, middle, *_intervals([place.ratio for place in one.places], "line")))
    return Figure(
        "places", "log π/π_ref of a token by its place", "place in the response (tokens, from 1)", "nats a token",
        tuple(series), "Places are grouped 1, 2, 3–4, 5–8, …; bands are 95 % intervals.", x_scale="log",
    )  # fmt: skip


def _bars(name: str, labels: Sequence[str], values: Sequence[Estimate]) -> Series:
    return Series(name, list(labels), *_intervals(values, "bars"))


def _intervals(values: Sequence[Estimate], style: Style) -> tuple[list[float], Style, list[float], list[float]]:
    """Means, how they are drawn, and the ends of the 95 % intervals; NaN, a gap, where a mean is not finite."""
    reach = [NORMAL * one.se if math.isfinite(one.se) else 0.0 for one in values]
    mean = [one.mean if math.isfinite(one.mean) else math.nan for one in values]
    low, high = ([m + sign * r for m, r in zip(mean, reach, strict=True)] for sign in (-1, 1))
    return mean, style, low, high


def _finding(one: Finding) -> str:
    remedy = f"<p>{escape(one.remedy)}</p>" if one.remedy else ""
    measured = f"{one.rule}: {one.number:.3g}, threshold {one.threshold:.3g}"
    return (
        f'<div class="finding {escape(one.severity)}"><p><span class="severity">{escape(one.severity)}</span> '
        f'{escape(one.text)}</p>{remedy}<p class="measured">{escape(measured)}</p></div>'
    )


def _mass(found: Measured) -> list[str]:
    if found.mass is None:
        return []
    mass = found.mass
    rows: list[list[str]] = []
    for name in mass.before:
        rows.append([escape(name), *(_small(part[name]) for part in (mass.before, mass.after, mass.sampled))])
    rows.append(["elsewhere", "the rest", "the rest", _small(mass.sampled["elsewhere"])])
    rows.append(["cut, so not known", "", "", _small(mass.sampled["cut"])])
    told = ""
    if mass.new is not None:
        own = found.sets[OF_REFERENCE]
        told = (
            f"<p>The policy's texts elsewhere: log π_ref of a token {_cell(mass.new['token_ref_logp'], 2, 1)} "
            f"(the reference's own texts {_cell(own.token_ref_logp, 2, 1)}), "
            f"{_cell(mass.new['length'], 1, 1)} tokens (the reference's {_cell(own.length, 1, 1)}).</p>"
        )
    head = ("texts of the data", "probability under π_ref", "probability under π", "share of the policy's samples")
    return ["<h2>Where the mass went</h2>", _table(head, rows), told]


def _numbers(found: Measured) -> str:
    rows = [
        [escape(label), *(_cell(getattr(one, key), digits, factor) for one in found.sets.values())]
        for key, (label, digits, factor) in ROWS.items()
    ]
    rows.insert(5, ["perplexity under π_ref", *(f"{one.perplexity:.2f}" for one in found.sets.values())])
    return _table(("", *(f"{name} ({one.texts})" for name, one in found.sets.items())), rows)


def _against(found: Measured) -> list[str]:
    if not found.against:
        return []
    words = {
        "ref_logp": "log π_ref a text", "token_ref_logp": "log π_ref a token", "ratio": "log π/π_ref a text",
        "token_ratio": "log π/π_ref a token",
    }  # fmt: skip
    rows = [[word, *(_cell(one[key], 3, 1) for one in found.against.values())] for key, word in words.items()]
    of = f" (first {found.limit} tokens)" if found.beyond > 0 else ""
    return [
        f"<h2>Data{of} minus the reference's own texts, prompt by prompt</h2>",
        _table(("nats", *found.against), rows),
    ]


def _cell(value: Estimate, digits: int, factor: int) -> str:
    return _written(value, lambda number: f"{factor * number:.{digits}f}")


def _small(value: Estimate) -> str:
    """A probability of whole texts, which may be as small as 1e-200."""
    return _written(value, lambda number: f"{number:.3f}" if number >= 0.001 else f"{number:.1e}" if number else "0")


def _written(value: Estimate, form: Callable[[float], str]) -> str:
    if not math.isfinite(value.mean):
        return "not finite"
    return form(value.mean) + (f' <span class="se">± {form(value.se)}</span>' if value.se > 0 else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _image(figure: Figure) -> str:
    return (
        f'<figure><img src="{data_uri(svg(figure))}" alt="{escape(figure.title)}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )
