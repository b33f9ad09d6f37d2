"""AUC and average precision of scores for many draws of the texts at once.

The bootstrap draws whole texts again, since tokens of one text are not independent: a draw is a number of copies of
each text. The same draws serve every score, so that differences of two scores on the same tokens are paired.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.measures.intervals import copies_drawn, tails
from tokenward.errors import InputError
from tokenward.lab.theory.ranking import ranked


def average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Σ_k (R_k − R_{k−1})·P_k over the thresholds k (`ranked`); equal scores are one threshold.

    >>> average_precision([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    0.8333333333333333
    """
    positive = torch.tensor(list(map(bool, labels)), dtype=torch.bool)
    column = torch.tensor(list(map(float, scores)), dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    return float(ranked(column, positive=positive, owner=torch.zeros(len(column), dtype=torch.long), copies=one)[1][0])


def redrawn(clusters: int, *, draws: int, seed: int) -> Float[Tensor, "D C"]:
    """Each cluster once, then `draws` rows of how often each was drawn when as many were drawn with replacement."""
    if clusters < 2:
        raise InputError(f"an interval over texts needs two of them at least, got {clusters}")
    return copies_drawn(clusters, draws=draws, random=torch.Generator().manual_seed(seed))


def ends(values: Float[Tensor, " D"], *, level: float) -> Interval:
    """The first value and the percentile interval of the others; draws in which a label was missing are left out."""
    return Interval(float(values[0]), *tails(values[1:], level=level))
