"""A run as a checkpoint and back: weights, optimizer, generators, data position, and the batch in hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tokenward.errors import InputError
from tokenward.objective.signal.memory import Memory
from tokenward.train.checkpoint import Saved
from tokenward.train.runtime import rng_state, set_rng_state
from tokenward.train.update import Piece
from tokenward.types import Batch, Signal, TokenStats, present

Record = TypeVar("Record", Batch, TokenStats, Signal)


@dataclass
class Place:
    """Where a run stands: updates made, batches begun, updates on the batch in hand, that batch, the steps' memory."""

    update: int = 0
    batches: int = 0
    done: int = 0
    piece: Piece | None = None
    memory: Memory = field(default_factory=dict)


def capture(place: Place, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Saved:
    """Everything that the next update depends on, but the source's state, which its owner adds."""
    numbers, rng = rng_state()
    moments = {
        f"{name}/{key}": value
        for name, parameter in parameters(modules).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    tensors = {"weights": {n: p.data for n, p in parameters(modules).items()}, "optimizer": moments, "rng": rng}
    if place.piece is not None:
        parts = (place.piece.batch, place.piece.frozen, place.piece.signal)
        tensors["work"] = {f"{type(p).__name__}/{n}": v for p in parts for n, v in present(p).items()}
    if place.memory:
        tensors["memory"] = place.memory
    return Saved(place.update, {"batches": place.batches, "done": place.done, "numbers": numbers}, tensors)


def restore(
    saved: Saved, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, device: torch.device
) -> Place:
    """Put everything back where `capture` found it."""
    ours, theirs = parameters(modules), saved.tensors["weights"]
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise InputError(f"the checkpoint holds other weights than this run trains: {odd[0]} is on one side only")
    for name, parameter in ours.items():
        parameter.data.copy_(theirs[name])
    optimizer.state.clear()
    for key, value in saved.tensors["optimizer"].items():
        name, _, part = key.rpartition("/")
        parameter = ours[name]
        # AdamW counts its steps in a tensor that stays where it was made.
        optimizer.state[parameter][part] = value.to(parameter.device)
    set_rng_state(saved.state["numbers"], saved.tensors["rng"])
    work = {name: value.to(device) for name, value in saved.tensors.get("work", {}).items()}
    piece = Piece(_record(Batch, work), _record(TokenStats, work), _record(Signal, work)) if work else None
    remembered = dict(saved.tensors.get("memory", {}))
    return Place(saved.update, saved.state["batches"], saved.state["done"], piece, remembered)


def parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every trained parameter by its full name; one that two names share appears once."""
    return {
        f"{owner}.{name}": parameter
        for owner, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _record(kind: type[Record], work: Mapping[str, Tensor]) -> Record:
    found: dict[str, Any] = {f.name: work.get(f"{kind.__name__}/{f.name}") for f in fields(kind)}
    return kind(**found)
