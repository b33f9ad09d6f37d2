"""Which tokens end a sentence, and the sentences of a batch's rows.

A token ends a sentence if its text, spaces at its end left out, ends with one of the characters given. Control tokens
have no text: an end token behind a full stop is a sentence of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tokenward.data.encode import Encoder
from tokenward.errors import InputError
from tokenward.masking import spans
from tokenward.types import Batch


def sentence_ends(encoder: Encoder, *, characters: str) -> frozenset[int]:
    """The ids whose text ends with one of the characters; none for "": then spans break at foreign tokens alone.

    Every id is decoded alone, once for a run.
    """
    engine = encoder.tokenizer.backend_tokenizer
    ids = range(engine.get_vocab_size(with_added_tokens=True))
    texts = engine.decode_batch([[i] for i in ids], skip_special_tokens=False)
    marks = tuple(characters)
    found = frozenset(i for i, text in zip(ids, texts, strict=True) if marks and text.rstrip(" ").endswith(marks))
    found = found - encoder.control
    if characters and not found:
        raise InputError(
            f"no token of {encoder.label} ends with one of {characters!r}, so no sentence would end: "
            'give --sentence-ends with other characters, or "" for one sentence a turn'
        )
    return found


def with_sentences(batch: Batch, *, ends: frozenset[int] | None) -> Batch:
    """The batch with `segment`: sentences, which break at tokens the model did not write, too; as it is for None."""
    if ends is None:
        return batch
    known = torch.tensor(sorted(ends), dtype=torch.long, device=batch.tokens.device)
    return replace(batch, segment=spans(batch.mask, torch.isin(batch.tokens, known)))
