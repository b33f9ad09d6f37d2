"""GSPO's token variant: the ratio of the whole response as the value at each token, the token's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from tokenward.masking import row_mean
from tokenward.objective.fields import ask
from tokenward.types import Batch, TokenStats


@final
@dataclass(frozen=True)
class SequenceRatio:
    """log s_t = sg[(1/|y|) Σ_i log π/π_old(y_i)] + log π(y_t) − sg[log π(y_t)], sg without gradient.

    The value is one number for the row, the geometric mean of its ratios; the gradient at token t is ∇ log π(y_t). With
    one advantage for the whole row and a mean over |y| it is `LogRatio("old_logp", pool="mean")` in value and gradient;
    with an advantage for each token it is another method. Source: Zheng et al. 2025, Eq. 14; verl's "gspo" is this one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logp", "old_logp"})

    def tokens(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]:
        logp = ask(stats, "logp", by=self)
        whole = row_mean(logp.detach() - ask(stats, "old_logp", by=self).detach(), batch.mask)
        return whole[:, None] + logp - logp.detach()
