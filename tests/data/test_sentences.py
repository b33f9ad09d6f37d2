"""Which tokens of a tokenizer end a sentence, and the sentences of rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tokenward.data.encode import encoder
from tokenward.data.sentences import sentence_ends, with_sentences
from tokenward.errors import InputError

PIECES = ["<eos>.", "a", ".", "Ġend.", "!Ċ", "3.5", "...", "Ġ", "ĊĊ", "?Ġ", "Ċa", '."', "ã"]


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level pieces: Ġ is a space, Ċ a line break; the name of the end token ends with a full stop."""
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>.", pad_token="<eos>.")


def test_tokens_end_a_sentence_by_the_end_of_their_text():
    """Not by a mark within ("3.5", a quote behind it), nor by the name of a control token."""
    found = {PIECES[i] for i in sentence_ends(encoder(byte_level()), characters=".!?\n")}
    assert found == {".", "Ġend.", "!Ċ", "...", "ĊĊ", "?Ġ"}
    assert {PIECES[i] for i in sentence_ends(encoder(byte_level()), characters="5")} == {"3.5"}


def test_no_characters_and_characters_that_end_nothing():
    known = encoder(tiny.word_tokenizer())
    assert sentence_ends(known, characters="") == frozenset()
    assert sentence_ends(known, characters="7") == {7, 17, 27, 37}
    with pytest.raises(InputError, match=r"no token of .* ends with one of '\.!\?\\n', .* give --sentence-ends"):
        sentence_ends(known, characters=".!?\n")


def test_rows_get_their_sentences_and_a_tools_answer_parts_them():
    batch = tiny.batch()
    tokens, mask = batch.tokens.clone(), batch.mask.clone()
    tokens[0, 3:9] = torch.tensor([10, 7, 10, 10, 17, 1])
    tokens[2, 4:12] = 10
    mask[2, 6] = False
    batch = replace(batch, tokens=tokens, mask=mask)
    assert with_sentences(batch, ends=None).segment is None
    segment = with_sentences(batch, ends=frozenset({7, 17})).segment
    assert segment[0].tolist()[3:9] == [0, 0, 1, 1, 1, 2]
    assert segment[2].tolist()[4:12] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert with_sentences(batch, ends=frozenset()).segment[0].tolist()[3:9] == [0] * 6
