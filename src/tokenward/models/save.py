"""Scorers out to transformers directories, written beside and renamed into place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from tokenward.errors import InputError
from tokenward.folders import replaced
from tokenward.models.adapters import merged
from tokenward.models.forward import Scorer
from tokenward.models.quiet import quiet


def save_policy(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, out: Path, *, adapter: str = "adapter") -> Path:
    """Write a directory that AutoModelForCausalLM loads; with LoRA the merged model, and the adapter beside it.

    The adapter is not put inside `out`: transformers would load the directory as an adapter. Merging happens on a
    copy, so training can go on. A value head on the shared trunk is not part of the language model and stays out.
    """
    model: Any = scorer.causal_lm
    if model is None:
        raise InputError(f"cannot save {out}: this model has no language-model head")
    if scorer.peft is not None:
        peft: Any = scorer.peft
        with _in_place(out.with_name(adapter)) as folder:
            peft.save_pretrained(str(folder), save_embedding_layers=False)
        model = merged(scorer.peft)
    with _in_place(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


def save_reward_model(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """Write a directory that AutoModelForSequenceClassification loads with the same scores (`score.weight`).

    transformers reads the score at the last token that is not the padding token. Where padding and end token are
    the same, that would be the token before the end: there the padding id is left out of the configuration, so that
    transformers scores single rows rightly and refuses batches, instead of being silently wrong.
    """
    if scorer.value_head is None:
        raise InputError(f"cannot save {out} as a reward model: this model has no value head")
    backbone: Any = scorer.backbone
    if scorer.peft is not None:
        backbone = merged(scorer.peft).base_model
    config = type(backbone.config).from_dict(backbone.config.to_dict())
    config.num_labels = 1
    text = config.get_text_config()
    text.pad_token_id = None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise InputError(f"transformers has no sequence classifier for {type(backbone).__name__}") from error
    setattr(model, model.base_model_prefix, backbone)
    model.score = scorer.value_head
    with _in_place(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


@contextmanager
def _in_place(out: Path) -> Iterator[Path]:
    """A fresh folder that becomes `out` only when everything in it is written."""
    with replaced(out) as folder, quiet():
        yield folder
