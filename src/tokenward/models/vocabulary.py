"""Models beside the policy read its token ids: another tokenizer is refused before any weights are read."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from tokenward.errors import InputError
from tokenward.models import load

WRAP = "it reads token ids; wrap it in a function of texts (--reward file.py:function)"
SAME_BASE = "it reads the policy's token ids: give a model that was trained from the same base"


def same_tokens(path: str, tokenizer: PreTrainedTokenizerBase, *, what: str, remedy: str) -> None:
    """Refuse a model that reads other ids than the policy writes, with what its caller can do about it.

    A directory of weights alone reads the policy's. A path that is no model raises InputError, as loading it would.
    """
    if not load.holds_tokenizer(load.located(path)):
        return
    theirs, ours = load.tokenizer(path).get_vocab(), tokenizer.get_vocab()
    different = len(theirs.items() ^ ours.items())
    if different:
        raise InputError(f"{what} {path} has another tokenizer than the policy ({different} entries differ): {remedy}")
