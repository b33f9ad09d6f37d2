"""How well a score ranks events of two kinds: AUC and average precision, ties handled, for many weightings at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 1 << 20  # draws × events in one table (8 MiB)


def ranked(
    scores: Float[Tensor, " N"],
    *,
    positive: Bool[Tensor, " N"],
    owner: Int[Tensor, " N"],
    copies: Float[Tensor, "D C"],
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """(AUC, average precision) where the events of owner c count `copies[d, c]` times; NaN where a kind has no weight.

    AUC = P(score of a positive > score of a negative) + ½ P(equal), the Mann–Whitney statistic (Hanley, McNeil 1982):
    Σ_k (H_k − H_{k−1})·(F − (F_k + F_{k−1})/2) / (H·F) over thresholds k from the highest score down, H_k and F_k the
    weight of positives and of negatives with "score ≥ threshold k". Average precision = Σ_k (R_k − R_{k−1})·P_k, with
    precision P_k and recall R_k there; equal scores are one threshold, nothing is interpolated, as in scikit-learn's
    `average_precision_score`. Without ties it is the mean precision at the positives (Manning, Raghavan, Schütze 2008,
    §8.4). Scores that are all equal give ½ and the share of positives. Memory O(BLOCK + N), beside the arguments.

    >>> kinds = torch.tensor([True, True, False, False])
    >>> each = dict(positive=kinds, owner=torch.arange(4), copies=torch.ones(1, 4, dtype=torch.float64))
    >>> [round(float(x), 4) for x in ranked(torch.tensor([0.9, 0.5, 0.5, 0.1]), **each)]
    [0.875, 0.8333]
    """
    found = torch.full((2, len(copies)), torch.nan, dtype=torch.float64)
    if not bool(positive.any()):
        return found[0], found[1]
    order = torch.argsort(scores, descending=True, stable=True)
    cut = _cuts(scores[order], positive[order])
    owner, hit = owner[order], owner[order][positive[order]]
    rows = max(1, BLOCK // len(owner))
    for start in range(0, len(copies), rows):
        weight = copies[start : start + rows].double()
        events, hits = _summed(weight[:, owner]), _summed(weight[:, hit])
        ends = (events[:, cut.before], events[:, cut.until], hits[:, cut.hits_before], hits[:, cut.hits_until])
        found[:, start : start + rows] = torch.stack(_measures(*ends, total=events[:, -1:]))
    return found[0], found[1]


@final
@dataclass(frozen=True)
class _Cuts:
    """How many events, and positives, are above each score that a positive has, and how many are not below it."""

    before: Int[Tensor, " K"]
    until: Int[Tensor, " K"]
    hits_before: Int[Tensor, " K"]
    hits_until: Int[Tensor, " K"]


def _cuts(ordered: Float[Tensor, " N"], positive: Bool[Tensor, " N"]) -> _Cuts:
    new = ordered[1:] != ordered[:-1]
    threshold = torch.nn.functional.pad(new.cumsum(0), (1, 0))
    size = threshold.bincount()
    held, hits = threshold[positive].unique_consecutive(return_counts=True)
    until, hits_until = size.cumsum(0)[held], hits.cumsum(0)
    return _Cuts(until - size[held], until, hits_until - hits, hits_until)


def _summed(weight: Float[Tensor, "D M"]) -> Float[Tensor, "D M1"]:
    """The weight of the first 0, 1, … M of them."""
    return torch.nn.functional.pad(weight.cumsum(-1), (1, 0))


def _measures(
    before: Float[Tensor, "D K"],
    until: Float[Tensor, "D K"],
    hits_before: Float[Tensor, "D K"],
    hits_until: Float[Tensor, "D K"],
    *,
    total: Float[Tensor, "D 1"],
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """AUC and average precision from the weight of events and of positives above each threshold, and down to it."""
    step, positives = hits_until - hits_before, hits_until[:, -1:]
    lost = (before - hits_before + until - hits_until) / 2  # negatives above, and half of those at the threshold
    negatives = total - positives
    area = (step * (negatives - lost)).sum(-1) / (positives * negatives)[:, 0]
    average = (step * hits_until / until.clamp(min=1e-300)).sum(-1) / positives[:, 0]
    missing = ((positives <= 0) | (negatives <= 0))[:, 0]
    return area.masked_fill(missing, torch.nan), average.masked_fill(missing, torch.nan)
