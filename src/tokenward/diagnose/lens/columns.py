"""What models say of every token of a batch: credit, log-ratio, log-probabilities, KL, entropies, values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.models.actors import merged
from tokenward.models.forward import Scorer
from tokenward.models.frozen import score
from tokenward.models.two_laws import same_vocabulary, two_laws
from tokenward.types import Batch, present

Columns = dict[str, Float[Tensor, "B T"]]
COMPARED = frozenset({"credit", "ratio", "ref_logp", "kl", "ref_entropy"})  # what only a reference gives


@final
@dataclass(frozen=True)
class Models:
    """Who speaks about the texts: a policy; a reference to compare it with; a critic on a trunk of its own.

    Without `critic`, values come from the policy's own value head where it has one. `temperature` divides the logits of
    policy and reference: it redefines both. `micro_tokens`: padded tokens of one forward pass.
    """

    policy: Scorer
    reference: Scorer | None = None
    critic: Scorer | None = None
    temperature: float = 1.0
    micro_tokens: int = 16384

    def __post_init__(self) -> None:
        if self.reference is not None:
            same_vocabulary(self.policy, self.reference)

    @property
    def mute(self) -> frozenset[str]:
        """The names of `columns` that these models do not give, for want of a reference or of a critic."""
        alone = COMPARED if self.reference is None else frozenset()
        return alone if (self.critic or self.policy.value_head) is not None else alone | {"value"}


def columns(models: Models, batch: Batch, *, beta: float | None = None) -> Columns:
    """{name of MEANINGS: [B T]} at the trainable tokens of a batch, 0 elsewhere; on the CPU.

    logp, entropy; with a reference ref_logp, ref_entropy, ratio = log π − log π_ref, kl = Σ_v π (log π − log π_ref),
    and with β credit = β·ratio (Rafailov et al. 2024, Eq. 10: the optimal advantage if π is optimal); value with a
    critic. Rows of like length pass together; no more of [B, T, V] is held than one chunk of the head.
    """
    policy, reference = models.policy, models.reference
    if reference is None and beta is not None:
        raise InputError(f"beta = {beta:g} scales the log-ratio to a reference, and there is none: give a reference")
    there = bare(batch, policy)
    found: Columns = {}
    if reference is None:
        said = score(
            policy, there, frozenset({"logp", "entropy"}), temperature=models.temperature,
            micro_tokens=models.micro_tokens,
        )  # fmt: skip
        found |= present(said)
    else:
        laws = two_laws(
            policy, reference, there, temperature=models.temperature, micro_tokens=models.micro_tokens
        )  # fmt: skip
        found |= {name: getattr(laws, name) for name in ("logp", "ref_logp", "kl", "entropy", "ref_entropy")}
        found["ratio"] = found["logp"] - found["ref_logp"]
        found |= {} if beta is None else {"credit": beta * found["ratio"]}
    critic = models.critic or (policy if policy.value_head is not None else None)
    if critic is not None:
        seen = score(critic, bare(batch, critic), frozenset({"value"}), micro_tokens=models.micro_tokens)
        found |= present(seen)
    kind = torch.promote_types(next(policy.parameters()).dtype, torch.float32)
    return {name: value.to("cpu", kind) for name, value in found.items()}


def bare(batch: Batch, scorer: Scorer) -> Batch:
    """The fields that a forward pass reads, and no other, where the model is."""
    kept = ("tokens", "length", "mask", "group", "weight")
    return Batch(**{name: getattr(batch, name).to(scorer.device) for name in kept})


def columns_of(voices: Sequence[Models], batch: Batch, *, beta: float | None = None) -> Columns:
    """The same where several models wrote the rows: `actor` of the batch names the one that speaks about its row.

    What this one does not give, and another does, is 0 there: `mute` tells it apart.
    """
    return merged(batch, [partial(columns, models, beta=beta) for models in voices])
