"""An episode as turns: roles, texts and ids, as the data formats of trajectories read them back."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenward.types import Rollout


def turns(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, *, role: str = "user") -> list[dict[str, Any]]:
    """[{"role", "content", "tokens"} …]: the model's turns are the assistant's, what came in between is `role`'s.

    The ids are the rollout's own, so that training on these turns sees what was sampled; `content` leaves special
    tokens out and is for reading. A last observation that the model never answered is left out.
    """
    found: list[dict[str, Any]] = []
    for wrote, run in groupby(zip(rollout.trainable, rollout.response_tokens, strict=True), key=lambda pair: pair[0]):
        ids = [token for _, token in run]
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found.append({"role": "assistant" if wrote else role, "content": str(text).strip(), "tokens": ids})
    return found if not found or found[-1]["role"] == "assistant" else found[:-1]
