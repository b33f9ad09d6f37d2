"""Means with standard errors, where samples of one prompt are not independent; and areas under ROC curves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.theory.ranking import ranked


@final
@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (NaN from a single cluster), and how many values in how many clusters made it."""

    mean: float
    se: float
    count: int
    clusters: int

    def __str__(self) -> str:
        if math.isfinite(self.se):
            return f"{self.mean:.3f} ± {self.se:.3f}"
        return f"{self.mean:.3f} ({'one prompt: ' if self.clusters < 2 else ''}no error)"


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
    mean = (math.fsum if all(map(math.isfinite, values)) else sum)(values) / count  # fsum refuses ∞ − ∞
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


def area(
    scores: Sequence[float],
    labels: Sequence[bool],
    *,
    clusters: Sequence[Hashable] | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Area:
    """AUC of the scores for the labels (`ranked`), NaN where a label is missing; the interval draws whole clusters.

    >>> area([0.9, 0.5, 0.5, 0.1], [True, True, False, False]).auc
    0.875
    """
    owner = numbered(range(len(scores)) if clusters is None else clusters)
    positive = torch.tensor(list(map(bool, labels)), dtype=torch.bool)
    column = torch.tensor(list(map(float, scores)), dtype=torch.float64)
    if not len(column) == len(positive) == len(owner):
        raise InputError(f"{len(column)} scores, {len(positive)} labels and {len(owner)} clusters: give each score one")
    number = int(owner.max()) + 1 if len(owner) else 0
    copies = copies_drawn(number, draws=draws, random=torch.Generator().manual_seed(seed))
    values, _ = ranked(column, positive=positive, owner=owner, copies=copies)
    return Area(float(values[0]), *tails(values[1:], level=level), int(positive.sum()), int((~positive).sum()))


def copies_drawn(count: int, *, draws: int, random: torch.Generator) -> Float[Tensor, "D C"]:
    """Each of `count` things once, then `draws` rows of how often each came when as many were drawn with replacement.

    Every bootstrap here draws in this way. One generator may serve several calls, one after the other.

    >>> copies_drawn(3, draws=2, random=torch.Generator().manual_seed(0)).sum(-1).tolist()
    [3.0, 3.0, 3.0]
    """
    copies = torch.ones(1 + draws, count, dtype=torch.float64)
    if count:
        picked = torch.randint(count, (draws, count), generator=random)
        copies[1:] = torch.zeros_like(copies[1:]).scatter_add(1, picked, torch.ones_like(copies[1:]))
    return copies


def tails(drawn: Float[Tensor, " D"], *, level: float) -> tuple[float, float]:
    """The percentile interval of bootstrap draws; those that are NaN are left out, NaN where none is left."""
    known = drawn[~drawn.isnan()]
    if not len(known):
        return math.nan, math.nan
    low, high = known.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def numbered(clusters: Sequence[Hashable]) -> Int[Tensor, " N"]:
    """Clusters as numbers from 0, in the order in which they come first."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([names[name] for name in clusters], dtype=torch.long)
