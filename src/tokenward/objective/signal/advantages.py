"""Stage one, second half: from token rewards to advantages `[B T]` (reward units), without gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward import ranges
from tokenward.errors import InputError
from tokenward.masking import at, first, keep, last, row_sum
from tokenward.objective.fields import ask
from tokenward.objective.groups import group_mean, group_size
from tokenward.ranges import Range
from tokenward.types import PROBE, Batch, Signal, TokenStats

_NOTHING: frozenset[str] = frozenset()
_ADVANTAGE = frozenset({"advantage"})


@final
@dataclass(frozen=True)
class ReturnToGo:
    """A_t = Σ_{i≥t} γ^{i−t} r_i over trainable tokens; tokens in between that are not trainable cut nothing."""

    gamma: float = 1.0
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"reward"})
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        reward = ask(signal, "reward", by=self)
        zero = torch.zeros_like(reward)
        advantage, _ = _gae(reward, zero, batch.mask, gamma=self.gamma, lam=1.0)
        return replace(signal, advantage=advantage)


@final
@dataclass(frozen=True)
class SequenceReturn:
    """A_t = Σ_i r_i at every trainable t: the whole response is one action."""

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"reward"})
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        total = row_sum(ask(signal, "reward", by=self), batch.mask)
        return replace(signal, advantage=keep(total[:, None].expand(batch.mask.shape), batch.mask))


@final
@dataclass(frozen=True)
class LastToken:
    """A_T = Σ_i r_i at the last trainable token T, A_t = 0 before it: only the end of a response is credited.

    On responses of more than one token this is not the policy gradient of anything: no fixed point is known.
    """

    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"reward"})
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        total = row_sum(ask(signal, "reward", by=self), batch.mask)
        at_end = torch.arange(batch.mask.shape[1], device=total.device) == last(batch.mask)[:, None]
        return replace(signal, advantage=keep(total[:, None].expand(batch.mask.shape), batch.mask & at_end))


@final
@dataclass(frozen=True)
class GAE:
    """A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t; returns = A + V. V after the last token is 0.

    V is `old_value`, the critic when the batch was made; t+1 is the next *trainable* token. A response cut at the
    length limit ends there like any other (its score was given to what was written). Source: Schulman et al. 2016.
    """

    gamma: float = 1.0
    lam: float = 0.95
    needs: ClassVar[frozenset[str]] = frozenset({"old_value"})
    reads: ClassVar[frozenset[str]] = frozenset({"reward"})
    makes: ClassVar[frozenset[str]] = frozenset({"advantage", "returns"})

    def __post_init__(self) -> None:
        if wrong := Range(least=0, most=1).wrong("gamma", self.gamma) + ranges.wrong("lam", self.lam):
            raise InputError("\n".join(wrong))

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        value = ask(stats, "old_value", by=self)
        reward = ask(signal, "reward", by=self)
        advantage, returns = _gae(reward, value, batch.mask, gamma=self.gamma, lam=self.lam)
        return replace(signal, advantage=advantage, returns=returns)


@final
@dataclass(frozen=True)
class GroupBaseline:
    """A −= baseline of the row's group (the samples of one prompt), from the rows' total returns R_i.

    "mean": R̄ (GRPO, Dr. GRPO). "leave_one_out": the mean of the others, (G R̄ − R_i)/(G − 1) (RLOO), which is
    G/(G − 1) times R_i − R̄. R̄ is weighted by row weight; G is `group_size`, or the number of rows. G = ∞ (the lab)
    makes the two one. A prompt with a single answer has A = 0 by "mean", where verl leaves the raw reward, and is
    refused by "leave_one_out". A KL in the reward is part of R_i; OpenRLHF adds it after the baseline.
    """

    kind: Literal["mean", "leave_one_out"] = "leave_one_out"
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _ADVANTAGE
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        advantage = ask(signal, "advantage", by=self)
        total = at(advantage, first(batch.mask))
        groups, mean = group_mean(total, batch)
        baseline = mean[groups]
        if self.kind == "leave_one_out":
            size = group_size(batch, groups).to(total.dtype)
            if bool(((size < 2) & (batch.weight > 0)).any()):
                raise InputError("GroupBaseline('leave_one_out') needs two samples or more of each prompt: --group 2")
            baseline = total - (total - baseline) / (1 - 1 / size.clamp(min=2))
        return replace(signal, advantage=keep(advantage - baseline[:, None], batch.mask))


@final
@dataclass(frozen=True)
class GroupScale:
    """A /= std + eps of the group's total rewards; a group without spread, or of one answer, gets exactly 0.

    std "population" divides the squares by G, so |A| ≤ √(G−1); "unbiased" by G−1, as TRL, verl and OpenRLHF do, so
    |A| ≤ (G−1)/√G. eps: TRL's; verl has 1e-6, OpenRLHF 1e-9. With a KL in the loss, the temperature depends on the
    prompt (group size → ∞; derived here). Source: Shao et al. 2024, §4.1.2.
    """

    eps: float = 1e-4
    std: Literal["population", "unbiased"] = "population"
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _ADVANTAGE
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        advantage = ask(signal, "advantage", by=self)
        total = at(advantage, first(batch.mask))
        groups, mean = group_mean(total, batch)
        spread = (total - mean[groups]) ** 2
        variance = group_mean(spread, batch)[1][groups]
        if self.std == "unbiased":
            variance = variance / (1 - 1 / group_size(batch, groups).to(total.dtype).clamp(min=2))
        std = variance.sqrt()
        flat = std <= 1e-6 * (1 + total.abs())
        scaled = torch.where(flat[:, None], torch.zeros_like(advantage), advantage / (std + self.eps)[:, None])
        return replace(signal, advantage=keep(scaled, batch.mask))


@final
@dataclass(frozen=True)
class Whiten:
    """A = (A − mean) / (std + eps) over all trainable tokens of the batch, weighted by row weight; population std.

    OpenRLHF divides by √max(variance, 1e-8), verl by √(unbiased variance + 1e-8). scale "none" only centers. The scale
    is one positive number for the batch: it changes the step, not the fixed point.
    """

    scale: Literal["std", "none"] = "std"
    eps: float = 1e-8
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _ADVANTAGE
    makes: ClassVar[frozenset[str]] = _ADVANTAGE

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        advantage = ask(signal, "advantage", by=self)
        weight = keep(batch.weight[:, None].expand(batch.mask.shape).to(advantage.dtype), batch.mask)
        total = weight.sum().clamp(min=torch.finfo(advantage.dtype).tiny)
        centered = advantage - (weight * advantage).sum() / total
        if self.scale == "std":
            centered = centered / (((weight * centered**2).sum() / total).sqrt() + self.eps)
        return replace(signal, advantage=keep(centered, batch.mask))


@final
@dataclass(frozen=True)
class ProbePoint:
    """z₀ = max(0, mean log(π/π_ref) of the mismatched rows): KTO's reference point, in nats, one number for the batch.

    The rows of origin PROBE hold a prompt with the answer of another. Without any, a `point` already in the Signal is
    kept. Source: Ethayarajh et al. 2024, §4.1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "ref_logp"})
    reads: ClassVar[frozenset[str]] = _NOTHING
    makes: ClassVar[frozenset[str]] = frozenset({"point"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        ratio = row_sum(ask(stats, "old_logp", by=self) - ask(stats, "ref_logp", by=self), batch.mask)
        probe = batch.origin == PROBE if batch.origin is not None else torch.zeros_like(batch.length, dtype=torch.bool)
        if not bool(probe.any()):
            ask(signal, "point", by=self)
            return signal
        point = ratio[probe].mean().clamp(min=0)
        return replace(signal, point=point.expand(batch.rows).clone())


def _gae(
    reward: Float[Tensor, "B T"], value: Float[Tensor, "B T"], mask: Tensor, *, gamma: float, lam: float
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Advantages and returns, running backward over trainable tokens only."""
    advantage = torch.zeros_like(reward)
    ahead = next_value = torch.zeros_like(reward[:, 0])
    for t in range(reward.shape[1] - 1, -1, -1):
        delta = reward[:, t] + gamma * next_value - value[:, t]
        now = delta + gamma * lam * ahead
        advantage[:, t] = torch.where(mask[:, t], now, 0.0)
        ahead = torch.where(mask[:, t], now, ahead)
        next_value = torch.where(mask[:, t], value[:, t], next_value)
    return advantage, keep(advantage + value, mask)
