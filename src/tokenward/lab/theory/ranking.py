"""How well a score ranks events of two kinds: AUC and average precision, ties handled, for many weightings at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ranked(
    scores: Float[Tensor, " N"],
    *,
    positive: Bool[Tensor, " N"],
    owner: Int[Tensor, " N"],
    copies: Float[Tensor, "D C"],
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """(AUC, average precision) where the events of owner c count `copies[d, c]` times; NaN where a kind has no weight.

    AUC = P(score of a positive > score of a negative) + ½ P(equal), the Mann–Whitney statistic (Hanley, McNeil 1982).
    It is bilinear in the copies, wᵀAw / (wᵀp · wᵀn) with A[c, e] = how often positives of c are above negatives of e.
    Average precision = Σ_k (R_k − R_{k−1})·P_k over thresholds k from the highest score down, P_k and R_k precision and
    recall of "score ≥ threshold k"; equal scores are one threshold, nothing is interpolated, as in scikit-learn's
    `average_precision_score`. Without ties it is the mean precision at the positives (Manning, Raghavan, Schütze 2008,
    §8.4). Scores that are all equal give ½ and the share of positives.

    >>> kinds = torch.tensor([True, True, False, False])
    >>> each = dict(positive=kinds, owner=torch.arange(4), copies=torch.ones(1, 4, dtype=torch.float64))
    >>> [round(float(x), 4) for x in ranked(torch.tensor([0.9, 0.5, 0.5, 0.1]), **each)]
    [0.875, 0.8333]
    """
    order = torch.argsort(scores, descending=True, stable=True)
    ordered, positive, owner = scores[order], positive[order], owner[order]
    if not len(ordered):
        return torch.full((len(copies),), torch.nan).double(), torch.full((len(copies),), torch.nan).double()
    until = torch.searchsorted(-ordered, -ordered, right=True) - 1  # the last event of the same score
    before = torch.searchsorted(-ordered, -ordered)  # the first one
    seen = torch.zeros(copies.shape[1], len(ordered) + 1)  # events of each owner among the first so many; exact to 2²⁴
    seen[owner, torch.arange(len(ordered)) + 1] = 1.0
    hits = seen.clone()
    hits[:, 1:] *= positive
    kept, hits = seen.cumsum(-1), hits.cumsum(-1)
    ends = [(found[:, -1].double() @ copies.T) for found in (hits, kept)]
    area = _area(hits, before, until, owner, ~positive, copies) / (ends[0] * (ends[1] - ends[0]))
    at = until[positive] + 1
    precision = (copies @ hits[:, at].double()) / (copies @ kept[:, at].double()).clamp(min=1e-300)
    average = (copies[:, owner[positive]] * precision).sum(-1) / ends[0]
    missing = (ends[0] <= 0) | (ends[1] - ends[0] <= 0)
    return area.masked_fill(missing, torch.nan), average.masked_fill(missing, torch.nan)


def _area(
    hits: Float[Tensor, "C N1"],
    before: Int[Tensor, " N"],
    until: Int[Tensor, " N"],
    owner: Int[Tensor, " N"],
    negative: Bool[Tensor, " N"],
    copies: Float[Tensor, "D C"],
) -> Float[Tensor, " D"]:
    """wᵀAw of each weighting: positives above each negative, those of equal score half."""
    above = (hits[:, before[negative]] + hits[:, until[negative] + 1]).double() / 2
    pairs = torch.zeros(len(hits), len(hits), dtype=torch.float64).index_add_(1, owner[negative], above)
    return ((copies @ pairs) * copies).sum(-1)
