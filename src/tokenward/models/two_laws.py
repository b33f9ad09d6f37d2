"""Two models about the same tokens: log-probs, entropies, both KLs and ranks from one pass of each; no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.models.adapters import adapters_off, has_adapters
from tokenward.models.divergence import mean_under
from tokenward.models.forward import Scorer
from tokenward.models.frozen import pieces
from tokenward.types import Batch, present, take

COLUMNS = ("logp", "ref_logp", "entropy", "ref_entropy", "kl", "back", "rank")


@final
@dataclass(frozen=True)
class TwoLaws:
    """What policy and reference say of each trainable token, float64, nats, 0 elsewhere.

    `logp`, `ref_logp` of the token · `entropy`, `ref_entropy` of the laws at its state · over the whole vocabulary of
    the state: `kl` = KL(π‖π_ref), `back` = KL(π_ref‖π) · `rank`: how many tokens π_ref holds likelier than this one.
    """

    logp: Float[Tensor, "B T"]
    ref_logp: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    ref_entropy: Float[Tensor, "B T"]
    kl: Float[Tensor, "B T"]
    back: Float[Tensor, "B T"]
    rank: Float[Tensor, "B T"]


@torch.no_grad()
def two_laws(
    policy: Scorer, reference: Scorer, batch: Batch, *, temperature: float = 1.0, micro_tokens: int = 16384
) -> TwoLaws:
    """The laws softmax(logits / temperature) of both models at the trainable tokens of a batch.

    `reference` is another model, or `policy` itself for its adapters switched off.
    """
    if reference is policy and not has_adapters(policy):
        raise InputError("the reference is the policy itself, but it has no adapters to switch off")
    same_vocabulary(policy, reference)
    found = torch.zeros(len(COLUMNS), *batch.tokens.shape, dtype=torch.float64)
    for rows in pieces(batch.length, micro_tokens=micro_tokens):
        part = _on(policy.device, take(batch, rows, width=max(int(batch.length[rows].max()), 1)))
        row, column = part.mask.nonzero(as_tuple=True)
        token = part.tokens[row, column]
        size = max(1, policy.chunk_floats // max(1, policy.vocabulary))
        with policy.autocast():
            ours = policy.hidden(part)[row, column - 1].split(size)
        with _as_reference(reference, of=policy):
            theirs = reference.hidden(part)[row, column - 1].split(size)
        values = []
        for mine, other, own in zip(ours, theirs, token.split(size), strict=True):
            with policy.autocast():
                law = policy.logits(mine) / temperature
            with _as_reference(reference, of=policy):
                values.append(_compare(law, reference.logits(other) / temperature, own))
        if values:
            found[:, rows.cpu()[row.cpu()], column.cpu()] = torch.cat(values, dim=1).double().cpu()
    return TwoLaws(*found)


def same_vocabulary(policy: Scorer, reference: Scorer) -> None:
    """Refuse two models whose laws are not over the same number of tokens."""
    if policy.vocabulary != reference.vocabulary:
        raise InputError(
            f"the policy has {policy.vocabulary} tokens and the reference {reference.vocabulary}: "
            "they must share a vocabulary"
        )


def _on(device: torch.device, batch: Batch) -> Batch:
    there: dict[str, Any] = {name: value.to(device) for name, value in present(batch).items()}
    return replace(batch, **there)


@contextmanager
def _as_reference(reference: Scorer, *, of: Scorer) -> Iterator[None]:
    """In the reference's own precision; a policy that is its own reference goes without its adapters."""
    with adapters_off(of) if reference is of else nullcontext(), reference.autocast():
        yield


def _compare(
    ours: Float[Tensor, "N V"], theirs: Float[Tensor, "N V"], token: Int[Tensor, " N"]
) -> Float[Tensor, "7 N"]:
    """The columns of `TwoLaws` from the logits of both."""
    law, ref = ours.log_softmax(-1), theirs.log_softmax(-1)
    here = token.unsqueeze(-1)
    logp, ref_logp = law.gather(-1, here), ref.gather(-1, here)
    columns = (
        logp.squeeze(-1),
        ref_logp.squeeze(-1),
        -mean_under(law, law),
        -mean_under(ref, ref),
        mean_under(law, law - ref),
        mean_under(ref, ref - law),
        (ref > ref_logp).sum(-1).to(law.dtype),
    )
    return torch.stack(columns)
