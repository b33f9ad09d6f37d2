"""Means with standard errors, where samples of one prompt are not independent; and areas under ROC curves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (NaN from a single cluster), and how many values in how many clusters made it."""

    mean: float
    se: float
    count: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"


def estimate(values: Sequence[float], *, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """The mean of all values; s.e.² = C/(C−1) · Σ_c (Σ_{i∈c} (x_i − x̄))² / n² over C clusters (Liang and Zeger 1986).

    Without clusters every value is its own, and this is the usual s/√n.

    >>> print(estimate([1.0, 3.0]))
    2.000 ± 1.000
    >>> print(estimate([1.0, 3.0, 1.0, 3.0], clusters=["a", "b", "a", "b"]))
    2.000 ± 1.000
    """
    count = len(values)
    if not count:
        raise InputError("a mean needs at least one value")
    mean = math.fsum(values) / count
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(range(count) if clusters is None else clusters, values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + (value - mean)
    number = len(sums)
    if number < 2:
        return Estimate(mean, math.nan, count, number)
    spread = math.fsum(total**2 for total in sums.values())
    return Estimate(mean, math.sqrt(number / (number - 1) * spread) / count, count, number)


@final
@dataclass(frozen=True)
class Area:
    """Area under the ROC curve with a bootstrap interval; `positives` and `negatives` are counts of scores."""

    auc: float
    low: float
    high: float
    positives: int
    negatives: int


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal): the Mann–Whitney statistic; NaN where one is missing.

    >>> auc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    n, m = len(positives), len(negatives)
    if not n or not m:
        return math.nan
    scores = torch.tensor([*positives, *negatives], dtype=torch.float64)
    _, place, size = torch.unique(scores, return_inverse=True, return_counts=True)
    rank = size.cumsum(0).double() - (size.double() - 1) / 2  # mean rank of the scores that are equal
    return float((rank[place[:n]].sum() - n * (n + 1) / 2) / (n * m))


def area(
    scores: Sequence[float],
    labels: Sequence[bool],
    *,
    clusters: Sequence[Hashable] | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Area:
    """AUC of the scores for the labels; the interval draws whole clusters (texts) again, with replacement."""
    owners = list(range(len(scores)) if clusters is None else clusters)
    rows: dict[Hashable, list[tuple[float, bool]]] = {}
    for owner, score, label in zip(owners, scores, labels, strict=True):
        rows.setdefault(owner, []).append((float(score), bool(label)))
    groups = list(rows.values())
    whole = _split(groups)
    random = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(draws if groups else 0):
        chosen = torch.randint(len(groups), (len(groups),), generator=random).tolist()
        value = auc(*_split([groups[i] for i in chosen]))
        drawn += [] if math.isnan(value) else [value]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    nothing = torch.tensor([math.nan])
    low, high = torch.tensor(drawn, dtype=torch.float64).quantile(tails).tolist() if drawn else (*nothing.tolist() * 2,)
    return Area(auc(*whole), low, high, len(whole[0]), len(whole[1]))


def _split(groups: list[list[tuple[float, bool]]]) -> tuple[list[float], list[float]]:
    """Scores of positives and of negatives."""
    flat = [row for group in groups for row in group]
    return [score for score, label in flat if label], [score for score, label in flat if not label]
