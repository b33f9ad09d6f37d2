"""A reward model as a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from transformers import PreTrainedTokenizerBase

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.frozen import score as score_rows
from tokenward.models.vocabulary import WRAP, same_tokens
from tokenward.rollout.rewards.protocol import give, place
from tokenward.types import Batch, Rollout


@final
class ModelReward:
    """A reward model's head at the last token of prompt + response, read on token ids (one tokenizer for both).

    The last token is known by position: the end token, or the token at which the completion was cut, whatever the
    padding id is.
    """

    def __init__(self, scorer: Scorer, *, name: str, micro_tokens: int = 16384) -> None:
        self.scorer, self.name, self.micro_tokens = scorer, name, micro_tokens

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add the model's scores; `prompts` names a row that has none, the rollouts carry their ids."""
        if not rollouts:
            return []
        batch = _rows(rollouts, device=self.scorer.device)
        fields = frozenset({"model_score"})
        scores = score_rows(self.scorer, batch, fields, micro_tokens=self.micro_tokens).model_score
        assert scores is not None  # asked for above
        values = scores.tolist()
        for row, (rollout, value) in enumerate(zip(rollouts, values, strict=True)):
            if not math.isfinite(value):
                where = f"row {row} (prompt {place(rollout, prompts)})"
                raise InputError(f"reward model {self.name} gives {value} to {where}")
        return [give(r, score=float(v)) for r, v in zip(rollouts, values, strict=True)]


def model_reward(
    path: str, *, tokenizer: PreTrainedTokenizerBase, dtype: str, device: str, micro_tokens: int
) -> ModelReward:
    """The reward model of a directory (hub name), which must share the policy's vocabulary."""
    scorer = load.reward_model(path, dtype=dtype, device=device)
    same_tokens(path, tokenizer, what="reward model", remedy=WRAP)
    return ModelReward(scorer, name=path, micro_tokens=micro_tokens)


def _rows(rollouts: Sequence[Rollout], *, device: torch.device) -> Batch:
    ids = [torch.tensor([*r.prompt_tokens, *r.response_tokens]) for r in rollouts]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    return Batch(
        tokens=tokens,
        length=torch.tensor([len(row) for row in ids], device=device),
        mask=torch.zeros(tokens.shape, dtype=torch.bool, device=device),
        group=torch.tensor([r.prompt_id for r in rollouts], device=device),
        weight=torch.ones(len(ids), device=device),
    )
