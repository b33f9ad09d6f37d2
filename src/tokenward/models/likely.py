"""The likeliest tokens of a model, and of its reference, at each place of a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokenward.models.forward import Scorer
from tokenward.types import Batch

Candidate = tuple[int, float, float | None]  # token, log π, log π_ref


@torch.no_grad()
def likely(
    policy: Scorer, batch: Batch, *, top: int, reference: Scorer | None = None, temperature: float = 1.0
) -> list[list[list[Candidate]]]:
    """For each row, for each of its trainable places in order: the `top` tokens of either model, likeliest first.

    "Likeliest" under the policy; the reference's own favorites stand among them. One row passes at a time, its logits
    in chunks as in training, so no [B, T, V] exists.
    """
    return [list(_row(policy, batch, row, top, reference, temperature)) for row in range(batch.rows)]


def _row(
    policy: Scorer, batch: Batch, row: int, top: int, reference: Scorer | None, temperature: float
) -> Iterator[list[Candidate]]:
    places = batch.mask[row].nonzero().squeeze(-1)
    ours, theirs = (None if who is None else _states(who, batch, row, places) for who in (policy, reference))
    assert ours is not None  # the policy's
    size = max(1, policy.chunk_floats // policy.vocabulary)
    for start in range(0, len(places), size):
        law = _law(policy, ours[start : start + size], temperature)
        anchor = (
            None if theirs is None or reference is None else _law(reference, theirs[start : start + size], temperature)
        )
        yield from _chosen(law, anchor, min(top, law.shape[-1]))


def _states(who: Scorer, batch: Batch, row: int, places: Tensor) -> Tensor:
    one = Batch(
        tokens=batch.tokens[row : row + 1, : int(batch.length[row])].to(who.device),
        length=batch.length[row : row + 1].to(who.device),
        mask=batch.mask[row : row + 1, : int(batch.length[row])].to(who.device),
        group=batch.group[row : row + 1].to(who.device),
        weight=batch.weight[row : row + 1].to(who.device),
    )
    with who.autocast():
        return who.hidden(one)[0, places.to(who.device) - 1]


def _law(who: Scorer, states: Tensor, temperature: float) -> Tensor:
    with who.autocast():
        return (who.logits(states) / temperature).log_softmax(-1).cpu()


def _chosen(law: Tensor, anchor: Tensor | None, top: int) -> Iterator[list[Candidate]]:
    own = law.topk(top, dim=-1).indices
    other = own if anchor is None else anchor.topk(top, dim=-1).indices
    for place in range(len(law)):
        tokens = torch.tensor(sorted({*own[place].tolist(), *other[place].tolist()}))
        logp = law[place, tokens]
        order = torch.argsort(logp, descending=True, stable=True)
        tokens, logp = tokens[order], logp[order]
        ref = [None] * len(tokens) if anchor is None else anchor[place, tokens].tolist()
        yield list(zip(tokens.tolist(), logp.tolist(), ref, strict=True))
