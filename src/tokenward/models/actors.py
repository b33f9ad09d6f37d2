"""Who says what about rows of several models: each row is asked of the model that wrote it, its actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from tokenward.errors import InputError
from tokenward.types import Batch, TokenStats, actor_of, present, take

Answer = Callable[[Batch], TokenStats]  # what one model says about its rows
Named = Callable[[Batch], Mapping[str, Tensor]]  # the same by name, whatever the names


def by_actor(batch: Batch, answers: Sequence[Answer]) -> TokenStats:
    """answers[a] of the rows of actor a, in one record; 0 beyond the longest row of a model, gradient kept.

    A model whose rows the batch lacks is not asked. A batch without actors is the first model's.
    """
    return TokenStats(**merged(batch, [partial(_named, answer=answer) for answer in answers]))


def _named(batch: Batch, *, answer: Answer) -> Mapping[str, Tensor]:
    return present(answer(batch))


def merged(batch: Batch, answers: Sequence[Named]) -> dict[str, Tensor]:
    """The same for numbers of any name."""
    if batch.actor is None:
        return dict(answers[0](batch))
    actor = actor_of(batch)
    most = int(actor.max()) if batch.rows else 0
    if most >= len(answers):
        raise InputError(f"rows of actor {most}, and the run has {len(answers)} model: give the other with --partner")
    if len(answers) == 1:
        return dict(answers[0](batch))
    found: dict[str, Tensor] = {}
    for number, answer in enumerate(answers):
        rows = (actor == number).nonzero().squeeze(-1)
        if not len(rows):
            continue
        width = max(int(batch.length[rows].max()), 1)
        for name, value in answer(take(batch, rows, width=width)).items():
            shape = (batch.rows, batch.tokens.shape[1])[: value.ndim]
            whole = found.get(name, torch.zeros(shape, dtype=value.dtype, device=value.device))
            wide = torch.nn.functional.pad(value, (0, shape[1] - width)) if value.ndim == 2 else value
            found[name] = whole.index_copy(0, rows, wide)
    return found
