"""Steps with a history, and the clips that go with them: reward scaling, reward clipping, an adaptive pull.

The order of the steps is the meaning: scaled before `KLPenalty`, the score alone is divided, and the temperature of the
optimum in score units is β·σ; after it, score and KL are divided alike, and only the size of the step changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.masking import keep, last, row_sum
from tokenward.objective.fields import ask
from tokenward.objective.signal.memory import Memory, number
from tokenward.objective.signal.rewards import KLPenalty
from tokenward.types import Batch, Signal, TokenStats

_NOTHING: frozenset[str] = frozenset()
_REWARD = frozenset({"reward"})


def _sum(x: Float[Tensor, " B"], weight: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Σ w x in float64 over the rows that have a weight."""
    return torch.where(weight > 0, weight.double() * x.double(), 0.0).sum()


@final
@dataclass(frozen=True)
class RunningScale:
    """r_t /= σ, σ the population std of all rewards R = Σ_t r_t of past rows and of this batch's.

    center "mean" first takes their mean r̄ off each row, at its last trainable token: (R − r̄)/σ. No spread yet: σ = 1.
    Sources: "none" after the reward scaling of Engstrom et al. 2020, where σ is that of a running discounted return
    (ours: of whole responses), "mean" Zheng et al. 2023 (reward normalization). Rows count alike for ever; no window.
    """

    center: Literal["none", "mean"] = "none"
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _REWARD
    makes: ClassVar[frozenset[str]] = _REWARD

    def initial(self) -> Memory:
        return {"rows": number(0.0), "sum": number(0.0), "squares": number(0.0)}

    def statistics(self, batch: Batch, stats: TokenStats, signal: Signal) -> Memory:
        total = row_sum(ask(signal, "reward", by=self), batch.mask)
        parts = {"rows": torch.ones_like(total), "sum": total, "squares": total.double().square()}
        return {name: _sum(part, batch.weight) for name, part in parts.items()}

    def updated(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Memory:
        return {name: memory[name] + statistics[name] for name in memory}

    def moments(self, memory: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean and population std of what is remembered; a std within rounding of 0 is 0."""
        rows = memory["rows"].clamp(min=torch.finfo(torch.float64).tiny)
        mean = memory["sum"] / rows
        std = (memory["squares"] / rows - mean**2).clamp(min=0).sqrt()
        return mean, torch.where(std <= 1e-7 * mean.abs(), torch.zeros_like(std), std)

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal, memory: Mapping[str, Tensor]) -> Signal:
        reward = ask(signal, "reward", by=self)
        mean, std = (part.to(reward) for part in self.moments(memory))
        if self.center == "mean":
            column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
            reward = torch.where(column == last(batch.mask)[:, None], reward - mean, reward)
        return replace(signal, reward=keep(reward / torch.where(std > 0, std, torch.ones_like(std)), batch.mask))


@final
@dataclass(frozen=True)
class ClipReward:
    """r_t = clip(r_t, ±limit), of each token's reward so far (reward units, after whatever scaled it).

    Answers beyond the limit become alike: the optimum is that of the clipped reward. Source: Engstrom et al. 2020.
    """

    limit: float
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = _REWARD
    makes: ClassVar[frozenset[str]] = _REWARD

    def __post_init__(self) -> None:
        _above_zero("ClipReward", limit=self.limit)

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        return replace(signal, reward=ask(signal, "reward", by=self).clamp(-self.limit, self.limit))


@final
@dataclass(frozen=True)
class AdvantageClip:
    """A_t = clip(A_t, ±limit): in units of the batch's std if it stands after `Whiten`. Source: Zheng et al. 2023."""

    limit: float
    needs: ClassVar[frozenset[str]] = _NOTHING
    reads: ClassVar[frozenset[str]] = frozenset({"advantage"})
    makes: ClassVar[frozenset[str]] = frozenset({"advantage"})

    def __post_init__(self) -> None:
        _above_zero("AdvantageClip", limit=self.limit)

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        return replace(signal, advantage=ask(signal, "advantage", by=self).clamp(-self.limit, self.limit))


@final
@dataclass(frozen=True)
class AdaptiveKL:
    """r_t −= β·log(π_old/π_ref)(y_t) with β ← β(1 + clip(KL/target − 1, ±.2)·n/horizon) after each batch.

    KL: row mean of Σ_t log π_old/π_ref (nats a response); n: rows of the batch (their weight). A batch is charged with
    the β from before it. Where it comes to rest, KL = target. Source: Ziegler et al. 2019, §2.2, in the form of TRL
    0.11; verl takes the mean over tokens, so its target is per token.
    """

    initial_coef: float
    target: float
    horizon: float = 10_000.0
    needs: ClassVar[frozenset[str]] = KLPenalty.needs
    reads: ClassVar[frozenset[str]] = _NOTHING
    makes: ClassVar[frozenset[str]] = _REWARD

    def __post_init__(self) -> None:
        _above_zero("AdaptiveKL", initial_coef=self.initial_coef, target=self.target, horizon=self.horizon)

    def initial(self) -> Memory:
        return {"coef": number(self.initial_coef), "next": number(self.initial_coef)}

    def statistics(self, batch: Batch, stats: TokenStats, signal: Signal) -> Memory:
        ratio = row_sum(ask(stats, "old_logp", by=self) - ask(stats, "ref_logp", by=self), batch.mask)
        return {"kl": _sum(ratio, batch.weight), "rows": _sum(torch.ones_like(ratio), batch.weight)}

    def updated(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Memory:
        rows = statistics["rows"]
        kl = statistics["kl"] / rows.clamp(min=torch.finfo(torch.float64).tiny)
        error = (kl / self.target - 1).clamp(-0.2, 0.2)
        return {"coef": memory["next"], "next": memory["next"] * (1 + error * rows / self.horizon).clamp(min=0.1)}

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal, memory: Mapping[str, Tensor]) -> Signal:
        return KLPenalty(float(memory["coef"]))(batch, stats, signal)


def _above_zero(part: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"{part}: {name} must be above 0, got {value:g}")
