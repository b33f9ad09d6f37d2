"""Figures as SVG text: learning curves, reward against KL. The colors are Okabe and Ito's, for the color-blind too."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tokenward.report.records import RunRecord, number

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", "-.", ":")

# metric: what it is, in words; curves appear in this order
METRICS: dict[str, str] = {
    "score": "score of samples (reward units)",
    "kl": "KL to the reference on samples (nats)",
    "rewards/accuracies": "pairs ranked as labeled (share)",
    "rewards/margins": "reward margin of pairs",
    "entropy": "entropy (nats per token)",
    "completions/length": "length of samples (tokens)",
    "critic/vf_explained_var": "variance explained by the critic (share)",
    "rewards/chosen": "β·Σ log π/π_ref of chosen (reward units)",
    "reference/log_ratio": "Σ log π/π_ref of texts of the reference (nats)",
    "reference/kl": "KL of the reference to the policy (nats)",
    "logps/chosen": "Σ log π of chosen (nats)",
    "logps/rejected": "Σ log π of rejected (nats)",
}
ROLLOUTS_ONLY = ("score", "kl", "completions/length", "entropy", "critic/vf_explained_var")  # else of the data
WIDTH, HEIGHT = 4.6, 2.9  # inches of one panel

matplotlib.rcParams["svg.hashsalt"] = "tokenward"  # the same figure is the same text


def panels(runs: Sequence[RunRecord]) -> dict[str, tuple[str, list[RunRecord]]]:
    """{title: (metric, runs that logged it)}: losses by recipe, as losses of two recipes cannot be compared."""
    found: dict[str, tuple[str, list[RunRecord]]] = {}
    for metric, title in METRICS.items():
        have = [run for run in runs if tells(run, metric)]
        if have:
            found[title] = (metric, have)
    for recipe in dict.fromkeys(run.recipe for run in runs):
        have = [run for run in runs if run.recipe == recipe and run.series("loss")[1]]
        if have:
            found[f"loss of {recipe}"] = ("loss", have)
    return found


def tells(run: RunRecord, metric: str) -> bool:
    """Whether the run logged the metric, and it is what its name says: of samples, where it is for samples alone."""
    return bool(run.series(metric)[1]) and (metric not in ROLLOUTS_ONLY or run.sampled)


def curves(runs: Sequence[RunRecord], *, metric: str, title: str, order: Sequence[str]) -> str:
    """One metric over updates, a line per run: the mean over a window, the values themselves faint behind it.

    `order` are the names of all runs of the page: a run keeps its color from figure to figure.
    """
    figure, axes = _panel(title, "update")
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    for run in runs:
        places, values = run.series(metric)
        index = order.index(run.name)
        color, style = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
        window = max(1, len(values) // 30)
        if window > 1:
            axes.plot(places, values, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(places, smooth(values, window), color=color, linestyle=style, linewidth=1.6, label=plain(run.name))
    if len(order) > 1:  # with several runs on the page a line is named though it is alone
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def frontier(
    methods: Mapping[str, Mapping[str, Any]],
    *,
    ceiling: Sequence[Mapping[str, Any]] = (),
    search: Mapping[str, Mapping[str, Any]] | None = None,
    order: Sequence[str] = (),
) -> str:
    """True reward against KL to the reference, ± 2 s.e., under the Gibbs ceiling where it is drawn; searches hollow.

    `order` as in `curves`: a method that is a run of the page has the run's color.
    """
    figure, axes = _panel("", "KL to the SFT policy (nats)", width=7.2, height=4.4)
    axes.set_ylabel("true reward", fontsize=9)
    if ceiling:
        kl, reward, error = ([float(point[key]) for point in ceiling] for key in ("kl", "reward", "reward_se"))
        axes.plot(kl, reward, color="#555555", linewidth=1.4, label="ceiling: π_sft·exp(r/β)/Z")
        low, high = ([r + sign * 2 * e for r, e in zip(reward, error, strict=True)] for sign in (-1, 1))
        axes.fill_between(kl, low, high, color="#555555", alpha=0.15, linewidth=0)
    known = list(dict.fromkeys([*order, *methods, *(search or {})]))
    for index, (name, row) in enumerate([*methods.items(), *(search or {}).items()]):
        x, y = number(row.get("kl")), number(row.get("reward"))
        if x is None or y is None:
            continue
        axes.errorbar(
            x, y, xerr=2 * (number(row.get("kl_se")) or 0.0), yerr=2 * (number(row.get("reward_se")) or 0.0),
            fmt=MARKERS[index % len(MARKERS)], color=COLORS[known.index(name) % len(COLORS)], markersize=6, capsize=2,
            markerfacecolor="white" if name in (search or {}) else None, label=plain(label(name, row)),
        )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return _svg(figure)


def plain(text: str) -> str:
    r"""Text as matplotlib draws it letter by letter: no formula between dollar signs, no name hidden by a first "_".

    >>> plain("a $x$"), plain("_b")
    ('a \\$x\\$', ' _b')
    """
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def label(name: str, row: Mapping[str, Any]) -> str:
    """How a row of a summary is called: by its `label`, or by its key."""
    return str(row.get("label", name.replace("_", " ")))


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of the last `window` values at each place (fewer at the beginning).

    >>> smooth([1.0, 3.0, 5.0], 2)
    [1.0, 2.0, 4.0]
    """
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def data_uri(svg: str) -> str:
    """The figure as the address of an image that lies in the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _panel(title: str, below: str, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(plain(title), fontsize=10, loc="left")
    axes.set_xlabel(plain(below), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Figure) -> str:
    """SVG text with letters as outlines: it looks the same wherever it is opened."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
