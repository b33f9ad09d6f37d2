"""Demonstrations beside rollouts: one batch of both, for recipes with a stream of each (PPO-ptx)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenward.data import dataset
from tokenward.data.sources import OfflineSource
from tokenward.data.tokenize import Limits
from tokenward.models.forward import Scorer
from tokenward.objective.recipe import Recipe
from tokenward.rollout.source import RolloutSource
from tokenward.train.config import RunConfig
from tokenward.types import STOP, Batch, present


@final
class Beside:
    """Batches of rollouts with the next demonstrations after them, as rows of origin `stream`.

    Groups of demonstrations are numbered after those of the rollouts. Passes over either file go on by themselves.
    """

    def __init__(self, rollouts: RolloutSource, demos: OfflineSource, *, stream: int) -> None:
        self.rollouts, self.demos, self.stream = rollouts, demos, stream
        self._first = 0  # number of the first group of demonstrations in the last batch

    @property
    def batches_per_pass(self) -> int:
        return self.rollouts.batches_per_pass

    def next(self) -> Batch:
        """Sample the next rollouts, and add the demonstrations that their updates take."""
        rollouts, demos = self.rollouts.next(), self.demos.next()
        self._first = int(rollouts.group.max()) + 1
        return joined(rollouts, replace(demos, group=demos.group + self._first), stream=self.stream)

    def update(self, policy: Scorer) -> None:
        self.rollouts.update(policy)

    def metrics(self) -> dict[str, float]:
        """Those of the rollouts, and passes over the demonstrations so far."""
        return self.rollouts.metrics() | {"demos/epoch": self.demos.metrics()["epoch"]}

    def where(self, group: int) -> str:
        return self.rollouts.where(group) if group < self._first else self.demos.where(group - self._first)

    def state(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts.state(), "demos": self.demos.state(), "first": self._first}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rollouts.load_state(state["rollouts"])
        self.demos.load_state(state["demos"])
        self._first = int(state["first"])


def with_demos(
    rollouts: RolloutSource, recipe: Recipe, config: RunConfig, *, tokenizer: Any, context: int | None
) -> RolloutSource | Beside:
    """The rollouts, with the file of demonstrations beside them where a stream of the recipe asks for it."""
    stream = next((place for place, one in enumerate(recipe.streams) if one.kind == "demos"), None)
    if stream is None or config.demos is None:
        return rollouts
    longest = min([n for n in (config.max_tokens, context) if n is not None], default=None)
    data = dataset.load(
        config.demos,
        tokenizer=tokenizer,
        kind="demos",
        asked_by=recipe.name,
        split=config.split,
        limits=Limits(max_tokens=longest, max_prompt_tokens=config.max_prompt_tokens),
        max_dropped=config.max_dropped,
    )
    rows = config.demo_rows * updates_per_batch(config)
    return Beside(
        rollouts, OfflineSource(data, rows_per_update=rows, order=config.order, seed=config.seed), stream=stream
    )


def without_demos(recipe: Recipe, config: RunConfig) -> list[str]:
    """One line where a recipe takes demonstrations beside rollouts and no file of them is given."""
    if config.demos is not None or all(stream.kind != "demos" for stream in recipe.streams):
        return []
    return [f"{recipe.name} learns from demonstrations beside rollouts: give --demos FILE, or set ptx_coef = 0"]


def updates_per_batch(config: RunConfig) -> int:
    """Updates that one batch of completions is used for."""
    return config.epochs * math.ceil(config.rollout_rows / (config.mini_rows or config.rollout_rows))


def joined(rollouts: Batch, demos: Batch, *, stream: int) -> Batch:
    """The rows of both, demonstrations last; what only rollouts have (score, law of the sampler) is 0 on the others."""
    width = max(rollouts.tokens.shape[1], demos.tokens.shape[1])
    ours, theirs = present(rollouts), present(demos)
    origin = rollouts.origin if rollouts.origin is not None else torch.zeros_like(rollouts.length)
    found: dict[str, Any] = {"origin": torch.cat([origin, torch.full_like(demos.length, stream)])}
    for name, value in ours.items():
        if name.startswith("pair") or name == "origin":
            continue  # pairs are of rollouts, whose rows keep their numbers
        other = theirs.get(name)
        if other is None:
            other = value.new_full((demos.rows, *demos.tokens.shape[1:][: value.ndim - 1]), STOP * (name == "finish"))
        found[name] = torch.cat([_wide(value, width), _wide(other.to(value.dtype), width)])
    return replace(rollouts, **found)


def _wide(value: Tensor, width: int) -> Tensor:
    """Padded on the right to the width, where there is one."""
    return value if value.ndim == 1 else pad(value, (0, width - value.shape[1]))
