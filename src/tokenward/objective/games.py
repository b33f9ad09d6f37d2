"""Answers of several laws to one prompt: who wins against whom, and what an answer of another law is worth.

A step that names a stream `beside` the policy's own sees the rows of that stream with their weights; its results stand
on the policy's rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.masking import keep, last
from tokenward.objective.fields import ask, whole_score
from tokenward.objective.groups import group_mean
from tokenward.objective.targets import ScorePreference
from tokenward.types import Batch, Signal, TokenStats, pair_share

_NOTHING: frozenset[str] = frozenset()


@final
@dataclass(frozen=True)
class Judged:
    """P(first is preferred) as a judge says: `pair_target` where the batch has it, else σ((score − score′)/T).

    T = 0: 1 where it is above ½ (the higher score), ½ at ties, else 0. A judge of pairs need not agree with any score.
    """

    temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    access: ClassVar[str | None] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Float[Tensor, " P"]:
        if batch.pair_target is None or batch.score is None:
            return ScorePreference(self.temperature).pairs(batch, stats, signal)
        p = batch.pair_target
        return p if self.temperature else (torch.sign(p - 0.5) + 1) / 2


@final
@dataclass(frozen=True)
class WinRate:
    """r_t += (mean over the opponents y′ of P(y ≻ y′) − ½)·1[t last]: how often an answer beats those of a stream.

    The opponents are the answers of the stream `beside` to the same prompt; 0 is the stream of the answer itself, and
    then an answer is not its own opponent. Pair weights are those of the batch. Source: Munos et al. 2023 (Nash-MD).
    """

    beside: int = 1
    temperature: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"score", "pairs"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    makes: ClassVar[frozenset[str]] = frozenset({"reward"})
    access: ClassVar[str] = "labels"

    @property
    def streams(self) -> tuple[int, int]:
        return 0, self.beside

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        pairs = ask(batch, "pairs", by=self)
        excess = Judged(self.temperature).pairs(batch, stats, signal) - 0.5
        share = pair_share(batch, self.streams).to(excess.dtype)
        rows = torch.cat([pairs[:, 0], pairs[:, 1]])
        zero = torch.zeros(batch.rows, dtype=excess.dtype, device=excess.device)
        weight = zero.index_add(0, rows, torch.cat([share, share]))
        total = zero.index_add(0, rows, torch.cat([share * excess, -share * excess]))
        rate = total / weight.clamp(min=torch.finfo(excess.dtype).tiny)
        at_end = torch.arange(batch.mask.shape[1], device=batch.mask.device) == last(batch.mask)[:, None]
        reward = keep(torch.where(at_end, rate[:, None], torch.zeros_like(rate)[:, None]), batch.mask)
        return replace(signal, reward=reward if signal.reward is None else signal.reward + reward)


@final
@dataclass(frozen=True)
class StreamBaseline:
    """A_t −= mean score of the prompt's answers of the stream `beside`: ReMax's baseline, with one greedy answer there.

    It does not depend on the answer that it is subtracted from, hence no bias. Source: Li et al. 2023 (ReMax).
    """

    beside: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    reads: ClassVar[frozenset[str]] = frozenset({"advantage"})
    makes: ClassVar[frozenset[str]] = frozenset({"advantage"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        advantage, score = ask(signal, "advantage", by=self), whole_score(batch, by=self)
        groups, mean = group_mean(score, batch, stream=self.beside)
        return replace(signal, advantage=keep(advantage - mean[groups][:, None], batch.mask))
