"""Reading a field that a part needs, or saying in one line who asked and what gives it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.masking import row_sum
from tokenward.types import Batch, Signal, TokenStats

GIVEN_BY: dict[str, str] = {
    "logp": "the policy's forward pass gives it",
    "old_logp": "the policy's own log-probabilities from before the update give it",
    "ref_logp": "give a reference with --ref",
    "guide_logp": "give a guide (a DPO policy) with --guide",
    "guide_ref_logp": "give the guide's reference with --guide-ref",
    "value": "give a critic with --critic",
    "old_value": "give a critic with --critic",
    "model_score": "train a model with a reward head (tokenward train reward_model)",
    "kl_ref": "give a reference that is a model in the pass, with --ref adapter, copy or a directory",
    "kl_old": "the policy as it was when the batch was made gives it",
    "entropy": "the policy's forward pass gives it",
    "score": "give --reward (file.py:function or a reward model) or --environment, or a score column in the data",
    "label": "give data with the columns prompt, completion, label",
    "pairs": "give data with the columns prompt, chosen, rejected",
    "pair_target": "give a target column: the probability that chosen is preferred",
    "sampler_logp": "the sampler gives it, and the lab for every sampler; a data file has none",
    "segment": "give a tokenizer with tokens that end a sentence (--sentence-ends), or Batch.segment",
    "normalizer": "give β log Z of each prompt in Batch.normalizer, or take normalizer='learned'",
    "point": "add mismatched rows to the batch (origin PROBE), or pass Signal(point=…)",
    "advantage": "put an advantage step before it",
    "returns": "put advantages.GAE before it",
    "reward": "put a reward step before it",
}
TRAINED = frozenset({"logp", "value", "model_score", "entropy", "kl_ref", "kl_old"})  # what carries gradient

POLICY_FIELDS = TRAINED - {"value", "model_score"}  # what moves the policy


def whole_score(batch: Batch, *, by: object) -> Float[Tensor, " B"]:
    """The reward of each row as a whole: its score, and the token rewards up to its end where the batch has any."""
    score = ask(batch, "score", by=by)
    if batch.reward is None:
        return score
    column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return score + row_sum(batch.reward, column < batch.length[:, None]).to(score.dtype)


def ask(record: Batch | TokenStats | Signal, field: str, *, by: object) -> Tensor:
    """The field, or an InputError naming the part that asked and the way to get it."""
    value: Tensor | None = getattr(record, field)
    if value is None:
        raise InputError(
            f"{type(by).__name__} needs {field} in {type(record).__name__}, which is absent: {GIVEN_BY[field]}"
        )
    return value
