"""Which rows each update of a batch learns from, and at what learning rate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenward.objective.recipe import Recipe
from tokenward.train.config import RunConfig
from tokenward.types import PROBE, Batch, take


def minis(batch: Batch, *, recipe: Recipe, config: RunConfig, number: int) -> tuple[Int[Tensor, " R"], ...]:
    """The rows of each update of the number-th batch: one update offline, epochs of mini-batches on-policy."""
    if not any(stream.kind == "rollouts" for stream in recipe.streams):
        return whole(batch)
    given = [place for place, stream in enumerate(recipe.streams) if stream.kind == "demos"]
    if batch.origin is None:
        return epochs(batch, config=config, number=number)
    origin = batch.origin.cpu()
    if given:
        found = spread(batch, given=torch.isin(origin, torch.tensor(given)), config=config, number=number)
    else:
        found = epochs(batch, config=config, number=number)
    if recipe.scope in ("group", "batch"):  # a part reads whole groups
        return found
    read = torch.isin(origin, torch.tensor(sorted(recipe.learned)))  # ReMax's greedy answer has done its work
    return tuple(rows[read[rows]] for rows in found)


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Every group's own base rate times the share."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * share


def whole(batch: Batch) -> tuple[Int[Tensor, " R"], ...]:
    """One update on every row that is not a probe."""
    rows = torch.arange(batch.rows)
    return (rows if batch.origin is None else rows[batch.origin.cpu() != PROBE],)


def epochs(batch: Batch, *, config: RunConfig, number: int) -> tuple[Int[Tensor, " R"], ...]:
    """Epochs of mini-batches of whole groups, in an order drawn from (seed, number of the batch, epoch).

    `mini_rows` counts rows of the first stream; those of the others come along with their group.
    """
    group = batch.group.cpu()
    first = group if batch.origin is None else group[batch.origin.cpu() == 0]
    each = int(torch.unique_consecutive(first, return_counts=True)[1].max())
    prompts, sizes = torch.unique_consecutive(group, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    per_mini = max(1, (config.mini_rows or config.rollout_rows) // each)
    found = []
    for epoch in range(config.epochs):
        order = shuffled(len(prompts), config.seed, number, epoch)
        for part in order.split(per_mini):
            found.append(
                torch.cat([torch.arange(int(starts[g]), int(starts[g] + sizes[g])) for g in sorted(part.tolist())])
            )
    return tuple(found)


def spread(batch: Batch, *, given: Bool[Tensor, " B"], config: RunConfig, number: int) -> tuple[Int[Tensor, " R"], ...]:
    """Epochs of mini-batches of the rollouts, with the demonstrations (`given`, the last rows) spread evenly over them.

    Each demonstration is in one update; none is seen twice before the pass over the file ends.
    """
    demos = given.nonzero().squeeze(-1)
    rollouts = take(batch, (~given).nonzero().squeeze(-1), width=batch.tokens.shape[1])
    found = epochs(rollouts, config=config, number=number)
    return tuple(torch.cat(pair) for pair in zip(found, demos.tensor_split(len(found)), strict=True))


def shuffled(size: int, *key: int) -> Int[Tensor, " N"]:
    """A permutation that depends on the key alone, so that nothing need be remembered to draw it again."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % (2**63 - 1)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def rate(config: RunConfig, *, update: int, total: int) -> float:
    """Share of the learning rate at an update (counted from 0): warmup to 1, then the schedule down to its floor.

    >>> config = RunConfig(model="m", data="d", out="o", schedule="linear", warmup_updates=2)
    >>> [rate(config, update=u, total=6) for u in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    done = (update - config.warmup_updates) / max(1, total - config.warmup_updates)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[config.schedule]
    return config.learning_rate_floor + (1 - config.learning_rate_floor) * left
