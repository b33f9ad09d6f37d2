"""What stage one did to a batch, as numbers: read off the steps and their memory. All that has a name:

reward/running_std, /running_mean   of all rewards so far, after this batch (RunningScale)
reward/clipped_share                share of rows with a reward that ClipReward cuts
advantage/clipped_share             share of tokens whose advantage AdvantageClip cuts
kl/coef                             the β of this batch's pull to the reference (AdaptiveKL)

A clip's input is made again from the steps before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tokenward.masking import keep
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.memory import act, own
from tokenward.objective.signal.remembered import AdaptiveKL, AdvantageClip, ClipReward, RunningScale
from tokenward.types import Batch, Signal, TokenStats, stream_weight

_CLIPS = (ClipReward, AdvantageClip)


def stage_metrics(
    recipe: Recipe, batch: Batch, frozen: TokenStats, memory: Mapping[str, Tensor], start: Signal | None = None
) -> dict[str, float]:
    """The numbers of a batch whose statistics are in the memory already; {} for a recipe without such steps."""
    found: dict[str, float] = {}
    last = max((place for place, step in enumerate(recipe.steps) if isinstance(step, _CLIPS)), default=-1)
    signal, stats = start or Signal(), frozen.masked(batch.mask)
    first = replace(batch, weight=stream_weight(batch, 0))
    with torch.no_grad():
        for place, step in enumerate(recipe.steps):
            if isinstance(step, RunningScale):
                mean, std = step.moments(own(memory, place))
                found |= {"reward/running_mean": float(mean), "reward/running_std": float(std)}
            if isinstance(step, AdaptiveKL):
                found["kl/coef"] = float(own(memory, place)["coef"])
            if isinstance(step, _CLIPS):
                found |= _cut(step, first, signal)
            if place < last:  # what a clip sees is made again: stage one keeps its last signal alone
                signal = act(step, place, batch, stats, signal, memory=memory)
    return found


def _cut(step: ClipReward | AdvantageClip, batch: Batch, signal: Signal) -> dict[str, float]:
    """Which share of a clip's input lies beyond its limit."""
    rows = batch.weight > 0
    if isinstance(step, ClipReward) and signal.reward is not None:
        beyond = keep(signal.reward.abs() - step.limit, batch.mask).amax(-1) > 0
        return {"reward/clipped_share": float(beyond[rows].double().mean())} if bool(rows.any()) else {}
    if isinstance(step, AdvantageClip) and signal.advantage is not None:
        tokens = batch.mask & rows[:, None]
        share = (signal.advantage.abs() > step.limit)[tokens].double().mean()
        return {"advantage/clipped_share": float(share)} if bool(tokens.any()) else {}
    return {}
