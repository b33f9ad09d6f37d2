"""J-BOND: toward the best of two answers of the reference, from both sides of the KL (Sessa et al. 2024, 2407.14622).

The paper moves the anchor after the policy (an average of weights), so that best of 2 becomes best of 4, 8 …: a run has
one fixed reference, so this is the first stage alone. Start another run from the trained model to go on.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from tokenward.masking import keep, last
from tokenward.objective.fields import ask
from tokenward.objective.links import ScoreFunction
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import SequenceReturn, Whiten
from tokenward.objective.signal.rewards import KLPenalty
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import LogRatio, RowTerm
from tokenward.types import Batch, Signal, TokenStats, stream_weight


def beaten(batch: Batch, *, by: object) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: the share of its prompt's anchors that score higher, and the same, itself left out; how many."""
    score, anchors = ask(batch, "score", by=by), stream_weight(batch, 1)
    same = (batch.group[:, None] == batch.group[None]).to(score.dtype) * anchors
    own = anchors if batch.group_size is None else torch.zeros_like(anchors)  # the lab has answers without number
    total = (same.sum(-1) - own).clamp(min=torch.finfo(score.dtype).tiny)
    higher, ties = ((same * of).sum(-1) for of in (score > score[:, None], score == score[:, None]))
    return higher / total, (ties - own) / total, (same > 0).sum(-1).to(score.dtype)


@final
@dataclass(frozen=True)
class BelowBoth:
    """r = −log 16 at the last token of an answer worse than both anchors, so that its mean is log p at p = ½."""

    beside: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        share, _, n = beaten(batch, by=self)
        both = share**2 if batch.group_size is not None else share * (n * share - 1) / (n - 1).clamp(min=1)
        at_end = torch.arange(batch.mask.shape[1], device=both.device) == last(batch.mask)[:, None]
        return replace(signal, reward=keep(-math.log(16) * both[:, None] * at_end, batch.mask))


@final
@dataclass(frozen=True)
class BestOfTwo:
    """π_best/π_ref of an anchor's answer: 2·(share of the other anchors with a lower score, ½ for a tie)."""

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = frozenset()
    access: ClassVar[str] = "labels"
    scope: ClassVar[str] = "group"

    def rows(self, batch: Batch, stats: TokenStats, signal: Signal) -> Tensor:
        higher, ties, _ = beaten(batch, by=self)
        return 2 * (1 - higher - ties / 2)

    def tokens(self, batch: Batch, stats: TokenStats, signal: Signal) -> Tensor:
        return self.rows(batch, stats, signal)[:, None].expand(batch.mask.shape)


def bond(*, jeffreys: float = 0.5, beta_kl: float = 1.0) -> Recipe:
    """(1−j)·(−w log π(y_ref)) + j·(−A log π(y)): KL(π_best‖π) by its samples, KL(π‖π_best) as a policy gradient.

    A = R − log π_old/π_ref less the batch mean, R = −log 16 if worse than both anchors, else 0; the paper's log π/π_ref
    has the sign of a reward in print, and the opposite here (derived again). Its extra pull γ is beta_kl − 1.
    """
    steps = (BelowBoth(), KLPenalty(beta_kl), SequenceReturn(), Whiten(scale="none"))
    forward = RowTerm("forward", LogRatio(), ScoreFunction(), BestOfTwo(), coef=1 - jeffreys, stream=1)
    backward = RowTerm("backward", LogRatio(), ScoreFunction(), Advantage(), coef=jeffreys)
    streams = (Stream("rollouts"), Stream("rollouts", group=2, sampler="reference"))
    return Recipe("bond", (), streams, (forward, backward), steps=steps)
