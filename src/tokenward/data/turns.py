"""Turns in tokens: what the model wrote is trained on, what an environment answered in between is not.

Token in, token out: turns that come with ids keep them; only turns given as text are encoded. An observation is encoded
alone, as what follows the model's end token, so that training on a file sees the ids that sampling saw.
"""

from __future__ import annotations

from tokenward.data import boundary
from tokenward.data.chat import encode_chat
from tokenward.data.encode import Encoded, Encoder
from tokenward.data.rows import Message, Text, Turns
from tokenward.data.tally import BadRow


def turns(
    encoder: Encoder, found: Turns, *, after: Encoded, to: Text
) -> tuple[tuple[int, ...], tuple[bool, ...], bool]:
    """(ids of the turns after a prompt, True where the model wrote, whether the first turn's boundary was moved).

    `after` is the encoded prompt, `to` the prompt itself.
    """
    ids: list[int] = []
    trainable: list[bool] = []
    moved = False
    for place, (message, known) in enumerate(zip(found.messages, found.tokens, strict=True)):
        if known is not None:
            part = _in_vocabulary(encoder, known, place)
        elif message.role != "assistant":
            part = observation(encoder, message, to=to)
        elif place and isinstance(to, str):
            part = (*boundary.continuation(encoder, message.content), encoder.eos)
        else:
            answer = message.content if isinstance(to, str) else (message,)
            part, moved_here = boundary.response(encoder, answer, after=after, to=to)
            moved |= moved_here
        ids += part
        trainable += [message.role == "assistant"] * len(part)
    return tuple(ids), tuple(trainable), moved


def observation(encoder: Encoder, message: Message, *, to: Text) -> tuple[int, ...]:
    """Ids of an observation that follow the end token of the model's turn, up to where the model speaks again.

    After a prompt of text: the text alone. After messages: what the chat template writes for this message after an
    answer, its frame included; a template that then rewrites what came before is refused.
    """
    if isinstance(to, str):
        ids = boundary.continuation(encoder, message.content)
    else:
        answered = (*to, Message("assistant", "x"))
        start = len(encode_chat(encoder, to, end="open").ids)
        closed = encode_chat(encoder, answered, end="closed").ids
        whole = encode_chat(encoder, (*answered, message), end="open").ids
        cut = closed.index(encoder.eos, start) + 1 if encoder.eos in closed[start:] else len(closed)
        if whole[:cut] != closed[:cut]:
            raise BadRow("chat template", "it rewrites what came before an observation: give the turns as one text")
        ids = whole[cut:]
    if not ids:
        raise BadRow("wrong type", f"an observation needs a token at least, {message.content!r} has none")
    return ids


def _in_vocabulary(encoder: Encoder, ids: tuple[int, ...], place: int) -> tuple[int, ...]:
    if max(ids) >= len(encoder.tokenizer):
        raise BadRow("wrong type", f"turn {place} has id {max(ids)}, the tokenizer has {len(encoder.tokenizer)} tokens")
    return ids
