"""The text that a response adds to its prompt, and where in it each token ends."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def completion_text(
    tokenizer: PreTrainedTokenizerBase, prompt_tokens: Sequence[int], response_tokens: Sequence[int]
) -> str:
    """What the response adds to the prompt's text, special tokens left out.

    decode(prompt + response) without decode(prompt): decoding a response alone loses a leading space with some
    tokenizers. A character whose bytes straddle the two belongs to the response.
    """
    before = _decode(tokenizer, prompt_tokens)
    whole = _decode(tokenizer, [*prompt_tokens, *response_tokens])
    return whole[_shared(before, whole) :]


def token_ends(
    tokenizer: PreTrainedTokenizerBase, prompt_tokens: Sequence[int], response_tokens: Sequence[int]
) -> list[int]:
    """For each response token, how many characters of `completion_text` are written once it stands.

    A character of several tokens is written by the last of them; a special token writes none. Decodes a few tokens at
    a time, and the whole row for every token where that does not give the completion's text.
    """
    text = completion_text(tokenizer, prompt_tokens, response_tokens)
    ids = [*prompt_tokens, *response_tokens]
    ends, written, known = [], "", len(prompt_tokens)
    for stop in range(len(prompt_tokens) + 1, len(ids) + 1):
        start = max(0, known - 4)  # a few tokens of context, so that no leading space is lost
        more = _decode(tokenizer, ids[start:stop])
        if not more.endswith("\ufffd"):
            written += more[len(_decode(tokenizer, ids[start:known])) :]
            known = stop
        ends.append(len(written))
    if written == text:
        return ends
    if known < len(ids) and text.startswith(written):  # the last bytes make no whole character
        return [*ends[:-1], len(text)]
    return _slow_ends(tokenizer, prompt_tokens, response_tokens, text=text)


def _slow_ends(
    tokenizer: PreTrainedTokenizerBase, prompt_tokens: Sequence[int], response_tokens: Sequence[int], *, text: str
) -> list[int]:
    ends, reached = [], 0
    for stop in range(1, len(response_tokens) + 1):
        part = completion_text(tokenizer, prompt_tokens, response_tokens[:stop])
        reached = max(reached, _shared(part, text))
        ends.append(reached)
    return [*ends[:-1], len(text)] if ends else []


def _shared(one: str, two: str) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
