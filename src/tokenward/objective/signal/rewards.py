"""Stage one, first half: what each token is rewarded for.

A signal step is `(Batch, TokenStats, Signal) -> Signal`, run once per batch of whole groups, without gradient. Rewards
are always per token `[B T]`; a scalar score is the special case of a reward at the last trainable token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.masking import keep, last
from tokenward.objective.fields import ask
from tokenward.objective.signal.placement import EachToken, Placement
from tokenward.types import Batch, Signal, TokenStats


@runtime_checkable
class SignalStep(Protocol):
    """One step of stage one: what it reads from outside (`needs`), reads from and writes to the Signal."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def makes(self) -> frozenset[str]: ...
    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal: ...


def _add(signal: Signal, batch: Batch, reward: Float[Tensor, "B T"]) -> Signal:
    total = keep(reward, batch.mask)
    return replace(signal, reward=total if signal.reward is None else signal.reward + total)


@final
@dataclass(frozen=True)
class Outcome:
    """r_t += coef·(reward_t + score·1[t last]): token rewards, if any, and the score at the last trainable token.

    A token reward that stands on a token the model did not write (an environment's answer) goes to the model's last
    token before it; before its first token it is dropped.
    """

    coef: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        score = ask(batch, "score", by=self)
        column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        reward = torch.zeros_like(batch.mask, dtype=score.dtype)
        if batch.reward is not None:
            owner = torch.where(batch.mask, column, -1).cummax(-1).values
            given = keep(batch.reward, (column < batch.length[:, None]) & (owner >= 0)).to(score.dtype)
            reward = reward.scatter_add(-1, owner.clamp(min=0), given)
        at_end = column == last(batch.mask)[:, None]
        reward = reward + torch.where(at_end, score[:, None], torch.zeros_like(reward))
        return _add(signal, batch, self.coef * reward)


@final
@dataclass(frozen=True)
class KLPenalty:
    """r_t −= coef·log(π_old/π_ref)(y_t): the k1 estimate of the KL, inside the reward.

    With the full return-to-go its fixed point is π_ref·exp(r/coef)/Z. Source: Stiennon et al. 2020; Schulman 2020.
    """

    coef: float
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "ref_logp"})
    reads: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        ratio = ask(stats, "old_logp", by=self) - ask(stats, "ref_logp", by=self)
        return _add(signal, batch, -self.coef * ratio)


@final
@dataclass(frozen=True)
class Guide:
    """r_t += coef·log(π_guide/π_guide_ref)(y_t), clipped to ±clip if given (reward units), then placed.

    RTO's dense reward with a DPO policy as guide. The clip is in the authors' script, not in their equation: it ends
    the telescoping of the sum and moves the optimum, unless the clipped sum is taken back. Source: Zhong et al. 2024,
    Eq. 4.7.
    """

    coef: float
    clip: float | None = None
    placement: Placement = EachToken()
    reads: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"guide_logp", "guide_ref_logp"}) | self.placement.needs

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        reward = self.coef * (ask(stats, "guide_logp", by=self) - ask(stats, "guide_ref_logp", by=self))
        reward = reward if self.clip is None else reward.clamp(-self.clip, self.clip)
        return _add(signal, batch, self.placement(reward, batch))
