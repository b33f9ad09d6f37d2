"""Steps of stage one that remember: what they take from a batch, and how their memory goes on from batch to batch.

A memory is a flat dict of float64 tensors; recipes hold none. Whoever trains keeps it, adds the statistics up over
ranks and writes it into checkpoints. Without a history (the lab, a single batch) a step uses the batch's own
statistics: its initial memory, updated once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tokenward.objective.signal.rewards import SignalStep
from tokenward.types import Batch, Signal, TokenStats, stream_weight

Memory = dict[str, Tensor]
Total = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@runtime_checkable
class RememberingStep(Protocol):
    """A signal step with a memory; a function of batch and memory, without state of its own.

    `initial`: the memory before the first batch · `statistics`: what a batch adds, additive over ranks, float64
    · `updated`: the memory after it · `__call__`: the step, with the memory that is already updated by this batch. A
    step that acts by what stood before keeps that in its memory, too.
    """

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def makes(self) -> frozenset[str]: ...
    def initial(self) -> Memory: ...
    def statistics(self, batch: Batch, stats: TokenStats, signal: Signal) -> Memory: ...
    def updated(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Memory: ...
    def __call__(self, batch: Batch, stats: TokenStats, signal: Signal, memory: Mapping[str, Tensor]) -> Signal: ...


Step = SignalStep | RememberingStep


def start(steps: tuple[Step, ...]) -> Memory:
    """The memory of all steps before the first batch; the step's place in the recipe stands before each name."""
    return {
        f"{place}.{name}": value
        for place, step in enumerate(steps)
        if isinstance(step, RememberingStep)
        for name, value in step.initial().items()
    }


def own(memory: Mapping[str, Tensor], place: int) -> Memory:
    """The memory of the step at a place."""
    head = f"{place}."
    return {name.removeprefix(head): value for name, value in memory.items() if name.startswith(head)}


def walk(
    steps: tuple[Step, ...],
    batch: Batch,
    stats: TokenStats,
    signal: Signal,
    *,
    memory: Mapping[str, Tensor],
    total: Total = dict,
) -> tuple[Signal, Memory]:
    """Every step in turn; the signal, and the memory for the next batch. `total` adds statistics up over ranks."""
    after = dict(memory)
    for place, step in enumerate(steps):
        if isinstance(step, RememberingStep):
            fresh = step.updated(own(memory, place), total(step.statistics(seen(step, batch), stats, signal)))
            after |= {f"{place}.{name}": value for name, value in fresh.items()}
        signal = act(step, place, batch, stats, signal, memory=after)
    return signal, after


def act(
    step: Step, place: int, batch: Batch, stats: TokenStats, signal: Signal, *, memory: Mapping[str, Tensor]
) -> Signal:
    """One step, with its own part of a memory that is up to date, on the rows that it may see."""
    batch = seen(step, batch)
    if isinstance(step, RememberingStep):
        return step(batch, stats, signal, own(memory, place))
    return step(batch, stats, signal)


def seen(step: Step, batch: Batch) -> Batch:
    """The batch with weight on rows of the first stream alone; a step with a field `beside` reads the others, too."""
    return batch if hasattr(step, "beside") else replace(batch, weight=stream_weight(batch, 0))


def number(value: float) -> Tensor:
    """A float64 scalar: what memories are made of."""
    return torch.tensor(value, dtype=torch.float64)
