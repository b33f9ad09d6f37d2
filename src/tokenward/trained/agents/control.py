"""A negative control: PPO whose credit ends at observations. It is a known fault of multi-turn trainers; not a method.

    tokenward train control.py:cut_ppo --environment …

A recursion that multiplies the running return by the mask loses at every observation what later turns earned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from tokenward.objective.fields import ask
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GAE
from tokenward.recipes.ppo import ppo
from tokenward.types import Batch, Signal, TokenStats


@final
@dataclass(frozen=True)
class TurnGAE:
    """GAE of each turn alone: nothing earned after an observation reaches what was written before it.

    Rewards 0, 0, 0, 0, 1 with mask 1, 1, 0, 1, 1 (γ = λ = 1, V = 0) give 0, 0, –, 1, 1 where GAE gives 1, 1, –, 1, 1.
    """

    gamma: float = 1.0
    lam: float = 0.95
    needs: ClassVar[frozenset[str]] = frozenset({"old_value"})
    reads: ClassVar[frozenset[str]] = frozenset({"reward"})
    makes: ClassVar[frozenset[str]] = frozenset({"advantage", "returns"})

    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal) -> Signal:
        whole = GAE(gamma=self.gamma, lam=self.lam)
        if batch.segment is None:  # no observations: one turn
            return whole(batch, stats, signal)
        advantage = returns = torch.zeros_like(ask(signal, "reward", by=self))
        for turn in range(int(batch.segment.max()) + 1):
            alone = whole(replace(batch, mask=batch.mask & (batch.segment == turn)), stats, signal)
            advantage = advantage + ask(alone, "advantage", by=self)
            returns = returns + ask(alone, "returns", by=self)
        return replace(signal, advantage=advantage, returns=returns)


def cut_ppo(*, beta_kl: float = 0.05) -> Recipe:
    """PPO with TurnGAE in the place of GAE; everything else as it is."""
    whole = ppo(beta_kl=beta_kl)
    steps = tuple(TurnGAE(gamma=s.gamma, lam=s.lam) if isinstance(s, GAE) else s for s in whole.steps)
    return replace(whole, name="cut_ppo", steps=steps)
