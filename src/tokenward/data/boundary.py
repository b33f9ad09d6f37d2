"""Where the prompt ends and the response begins, in tokens.

Prompt and response are encoded together. Where this gives the prompt's own ids followed by the response's, these are
taken. Where a token straddles the boundary (`ti|me`), the prompt keeps the ids it has alone, which are those that a
sampler sees, and the response is encoded as the continuation of other text; such rows are counted ("boundary moved").
Thus all responses to a prompt follow the same ids.
"""

from __future__ import annotations

from tokenward.data.chat import encode_chat
from tokenward.data.encode import Encoded, Encoder
from tokenward.data.rows import Text
from tokenward.data.tally import BadRow

ANCHORS = (".", "\n", "a", "0")  # texts after which a continuation is encoded; the first that merges with nothing


def prompt(encoder: Encoder, text: Text) -> Encoded:
    """Ids of a prompt with exactly one BOS (that of the chat template, if it writes one)."""
    found = encoder.text(text) if isinstance(text, str) else encode_chat(encoder, text, end="open")
    bos = _bos(encoder, found)
    if not bos + found.ids:
        raise BadRow("empty prompt", "prompt is empty and the tokenizer puts nothing before a text")
    return Encoded(found.text, bos + found.ids, ((0, 0),) * len(bos) + found.spans)


def response(encoder: Encoder, text: Text, *, after: Encoded, to: Text) -> tuple[tuple[int, ...], bool]:
    """(ids of a complete response that follow the ids of its prompt, with the end token last and once; was it moved).

    `after` is the encoded prompt, `to` the prompt itself.
    """
    joint = _joint(encoder, to, text)
    if not joint.text.startswith(after.text):
        raise BadRow("chat template", "the prompt that it writes is not the start of the whole conversation")
    ids = _rest(joint, head=after.ids[len(_bos(encoder, joint)) :], cut=len(after.text))
    moved = ids is None
    if ids is None:
        ids = _continued(encoder, joint, cut=len(after.text))
    # A template may write the end token itself, and a line break after it: nothing follows the end token.
    return (ids[: ids.index(encoder.eos) + 1] if encoder.eos in ids else (*ids, encoder.eos)), moved


def _joint(encoder: Encoder, to: Text, text: Text) -> Encoded:
    if isinstance(to, str) and isinstance(text, str):
        return encoder.text(to + text)
    assert not isinstance(to, str) and not isinstance(text, str)  # rows.py makes both text or both messages
    return encode_chat(encoder, to + text, end="closed")


def _bos(encoder: Encoder, found: Encoded) -> tuple[int, ...]:
    """What has to be put before these ids: the tokenizer's BOS, unless the chat template wrote it."""
    return () if found.ids[: len(encoder.bos)] == encoder.bos else encoder.bos


def _rest(joint: Encoded, *, head: tuple[int, ...], cut: int) -> tuple[int, ...] | None:
    """The ids after `head`, or None where the text begins with others or a token of the head reaches beyond `cut`."""
    n = len(head)
    parted = joint.ids[:n] == head and all(stop <= cut for _, stop in joint.spans[:n])
    return joint.ids[n:] if parted else None


def _continued(encoder: Encoder, joint: Encoded, *, cut: int) -> tuple[int, ...]:
    """Ids of joint.text[cut:] as the continuation of a text; control tokens (of the chat template) stay."""
    ids: list[int] = []
    place = cut
    for token, (start, stop) in zip(joint.ids, joint.spans, strict=True):
        if token in encoder.control and start >= cut:
            ids += [*continuation(encoder, joint.text[place:start]), token]
            place = stop
    return (*ids, *continuation(encoder, joint.text[place:]))


def continuation(encoder: Encoder, text: str) -> tuple[int, ...]:
    """Ids of a text as they are after other text: without the space that some tokenizers put before a text."""
    if not text:
        return ()
    for anchor in ANCHORS:
        ids = _rest(encoder.text(anchor + text), head=encoder.text(anchor).ids, cut=len(anchor))
        if ids is not None:
            return ids
    raise BadRow("boundary", "prompt and response share a token, and the response cannot be encoded apart from it")
