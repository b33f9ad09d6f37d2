"""The frontier of each method of a sweep: what its places of the grid reach together, with a bootstrap band.

KL is to the model that a job begins with. Where a sweep begins with several, each method's policies of one of them are
a frontier of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenward.diagnose.measures.frontier import Band, Measured, band
from tokenward.studies.study import Figure, Series
from tokenward.sweep.plan import START
from tokenward.sweep.results import Record, by_label, table


def measured(records: Sequence[Record]) -> dict[str, list[Measured]]:
    """The policies of each method (and start model, if it has several) with two or more; the start is one of them."""
    several = any(one["method"] == START and one["point"] for one in records)
    starts: dict[str | None, list[Measured]] = {}
    found: dict[tuple[str, str | None], list[Measured]] = {}
    for same in by_label(records).values():
        model = str(same[0]["settings"]["model"]) if several else None
        point = Measured(table(same, "reward"), table(same, "kl"))
        if same[0]["method"] == START:
            starts.setdefault(model, [point])
        else:
            found.setdefault((same[0]["method"], model), []).append(point)
    models = Counter(method for method, _ in found)
    return {
        f"{method} model={model}" if models[method] > 1 else method: starts.get(model, []) + points
        for (method, model), points in found.items()
        if len(points) > 1
    }


def bands(records: Sequence[Record]) -> dict[str, Band]:
    """The frontier of each method, each as far as its own KL."""
    return {method: band(points) for method, points in measured(records).items()}


def titled(words: str, series: Sequence[Series]) -> str:
    """A figure's title; it names a line that is alone, as that gets no legend."""
    return f"{words}: {series[0].name}" if len(series) == 1 else words


def figure(records: Sequence[Record]) -> Figure:
    """The bands over KL; nothing to draw where no method has two places."""
    series = [
        Series(name.replace("_", " "), one.kl, one.reward, low=one.low, high=one.high)
        for name, one in bands(records).items()
    ]
    caption = (
        "The largest reward at KL ≤ k on a chord between policies of a method (start model included): what a coin "
        "between two of them reaches at least. Bands: 95 % bootstrap over prompts and seeds."
    )
    title = titled("Frontier by method", series)
    return Figure("bands", title, "KL (nats)", "reward", tuple(series), caption)
