"""AUC and average precision of scores for many draws of the texts at once.

The bootstrap draws whole texts again, since tokens of one text are not independent: a draw is a number of copies of
each text. The same draws serve every score, so that differences of two scores on the same tokens are paired.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.measures.intervals import copies_drawn, tails
from tokenward.errors import InputError


def redrawn(clusters: int, *, draws: int, seed: int) -> Float[Tensor, "D C"]:
    """Each cluster once, then `draws` rows of how often each was drawn when as many were drawn with replacement."""
    if clusters < 2:
        raise InputError(f"an interval over texts needs two of them at least, got {clusters}")
    return copies_drawn(clusters, draws=draws, random=torch.Generator().manual_seed(seed))


def ends(values: Float[Tensor, " D"], *, level: float) -> Interval:
    """The first value and the percentile interval of the others; draws in which a label was missing are left out."""
    return Interval(float(values[0]), *tails(values[1:], level=level))
