"""Whose reward it is: the share of each reward step in what the tokens are rewarded for.

reward_share/NAME    E Σ_t |r_t| of one step ÷ the sum over steps; rows of the first stream, weighted alike
"""

from __future__ import annotations

import torch

from tokenward.masking import row_sum
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.rewards import Guide, KLPenalty, Outcome
from tokenward.types import Batch, Signal, TokenStats, stream_weight

_NAMES = {Outcome: "score", KLPenalty: "kl", Guide: "guide"}


def reward_shares(recipe: Recipe, batch: Batch, frozen: TokenStats) -> dict[str, float]:
    """The shares by name; {} for a recipe that has fewer than two such steps, and where nothing is rewarded."""
    steps = [step for step in recipe.steps if isinstance(step, (Outcome, KLPenalty, Guide))]
    if len(steps) < 2:
        return {}
    stats, rows = frozen.masked(batch.mask), stream_weight(batch, 0) > 0
    found: dict[str, float] = {}
    with torch.no_grad():
        for step in steps:
            reward = step(batch, stats, Signal()).reward
            assert reward is not None  # what these steps make
            size = float(row_sum(reward.abs(), batch.mask)[rows].double().sum())
            name = f"reward_share/{_NAMES[type(step)]}"
            found[name] = found.get(name, 0.0) + size
    total = sum(found.values())
    return {name: size / total for name, size in found.items()} if total > 0 else {}
