"""Figures of studies: a figure's record as SVG text and as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from matplotlib import figure as canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tokenward.report.figures import COLORS, MARKERS, STYLES, plain
from tokenward.studies.study import Figure, Series

SIZE = (6.4, 4.0)  # inches
MOST_UPRIGHT = 6  # names under bars that stand side by side


def svg(figure: Figure) -> str:
    """SVG text with letters as outlines; the same record gives the same text."""
    buffer = io.StringIO()
    drawn(figure).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The picture in 150 dots per inch."""
    buffer = io.BytesIO()
    drawn(figure).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def drawn(figure: Figure) -> canvas.Figure:
    """The figure as matplotlib draws it: lines, points and bars with their intervals."""
    sheet = canvas.Figure(figsize=SIZE, layout="constrained")
    axes = sheet.subplots()
    axes.set_title(plain(figure.title), fontsize=11, loc="left")
    axes.set_xlabel(plain(figure.x_label), fontsize=10)
    axes.set_ylabel(plain(figure.y_label), fontsize=10)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    bars = [one for one in figure.series if one.style == "bars"]
    for index, one in enumerate(figure.series):
        color = COLORS[index % len(COLORS)]
        if one.style == "bars":
            _bars(axes, one, place=bars.index(one), count=len(bars), color=color)
        else:
            _curve(axes, one, index=index, color=color)
    if not bars:
        axes.set_xscale(figure.x_scale)
        if figure.x_scale == "log":
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(FuncFormatter(_minor(axes.get_xlim())))
        elif figure.x_label.startswith("update"):
            axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axes.set_yscale(figure.y_scale)
    if len(figure.series) > 1 and bars:  # beside the bars, not over them
        sheet.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=len(bars))
    elif len(figure.series) > 1:
        axes.legend(fontsize=8.5, frameon=False)
    return sheet


def _minor(limits: tuple[float, float]) -> Callable[[float, object], str]:
    """Labels of 2 and 5 between the powers of ten, where the axis is shorter than two of them."""
    if limits[1] > 100 * limits[0]:
        return lambda *_: ""
    return lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _curve(axes: Any, one: Series, *, index: int, color: str) -> None:
    marker = MARKERS[index % len(MARKERS)]
    if one.style == "points":
        errors = None
        if one.low is not None and one.high is not None:
            errors = [[y - a for y, a in zip(one.y, one.low)], [b - y for y, b in zip(one.y, one.high)]]
        axes.errorbar(
            one.x, one.y, yerr=errors, fmt=marker, color=color, markersize=5, capsize=2, label=plain(one.name)
        )
        return
    style = STYLES[index // len(COLORS) % len(STYLES)]
    axes.plot(one.x, one.y, color=color, linestyle=style, linewidth=1.7, label=plain(one.name))
    if one.low is not None and one.high is not None:
        axes.fill_between(one.x, one.low, one.high, color=color, alpha=0.18, linewidth=0)


def _bars(axes: Any, one: Series, *, place: int, count: int, color: str) -> None:
    width = 0.8 / count
    at = [i + (place - (count - 1) / 2) * width for i in range(len(one.x))]
    errors = None
    if one.low is not None and one.high is not None:
        errors = [[y - a for y, a in zip(one.y, one.low)], [b - y for y, b in zip(one.y, one.high)]]
    axes.bar(at, one.y, width=width, color=color, label=plain(one.name), yerr=errors, capsize=2)
    slanted = {"rotation": 60, "ha": "right"} if len(one.x) > MOST_UPRIGHT else {}
    axes.set_xticks(range(len(one.x)), [plain(str(name)) for name in one.x], fontsize=8.5, **slanted)
