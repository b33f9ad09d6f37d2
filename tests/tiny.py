"""Tiny models, a tokenizer and batches that tests build on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenward.models.forward import Scorer
from tokenward.models.load import scorer
from tokenward.types import Batch

torch.set_num_threads(1)  # two threads fighting over busy cores make a tiny model a hundred times slower
VOCABULARY = 40
PAD, EOS, BOS = 0, 1, 2


def llama(*, seed: int = 0, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY, context: int = 64):
    """A random two-layer Llama; weights ten times the usual size, so that its law is far from uniform."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype).eval()


def tiny(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY, value_head: bool = False
) -> Scorer:
    """A Scorer around `llama`, with a random value head on request."""
    head = None
    if value_head:
        head = torch.nn.Linear(16, 1, bias=False, dtype=dtype)
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(seed + 1))
    return scorer(llama(seed=seed, dtype=dtype, vocabulary=vocabulary), value_head=head)


def laws(model: Scorer, tokens: list[int] | torch.Tensor, *, temperature: float = 1.0) -> np.ndarray:
    """log π over the vocabulary after each token of a row, or of each row, in numpy from the bare model's logits."""
    with torch.no_grad():
        logits = model.causal_lm(input_ids=torch.atleast_2d(torch.as_tensor(tokens)), use_cache=False).logits
    logits = logits.double().numpy() / temperature
    top = logits.max(-1, keepdims=True)
    return (logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))).reshape(*np.shape(tokens), -1)


def ruled_out(model: Scorer, token: int) -> Scorer:
    """The same model with a bias of −∞ on the logit of one token."""
    old = model.lm_head
    head = torch.nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
    bias = torch.zeros(old.out_features)
    bias[token] = -torch.inf
    head.load_state_dict({"weight": old.weight.detach(), "bias": bias})
    model.lm_head = head
    return model


def batch(*, lengths=(9, 5, 12, 7), prompts=(3, 2, 4, 7), seed: int = 0, vocabulary: int = VOCABULARY) -> Batch:
    """Random rows; a row's trainable tokens are those after its prompt (the last row has none)."""
    random = torch.Generator().manual_seed(seed)
    width = max(lengths)
    length, start = torch.tensor(lengths), torch.tensor(prompts)
    place = torch.arange(width)
    inside = place[None] < length[:, None]
    tokens = torch.randint(3, vocabulary, (len(lengths), width), generator=random)
    return Batch(
        tokens=torch.where(inside, tokens, PAD),
        length=length,
        mask=inside & (place[None] >= start[:, None]),
        group=torch.arange(len(lengths)),
        weight=torch.ones(len(lengths)),
    )


def word_tokenizer(*, pad: str = "<pad>", size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """One word, one id: <pad> <eos> <bos> w3 w4 …"""
    words = ["<pad>", "<eos>", "<bos>", *(f"w{i}" for i in range(3, size))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=pad, eos_token="<eos>", bos_token="<bos>")


def saved(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, words: int = VOCABULARY) -> Path:
    """A model directory with its tokenizer, which knows so many words."""
    llama(seed=seed, dtype=dtype).save_pretrained(folder)
    word_tokenizer(size=words).save_pretrained(folder)
    return folder
