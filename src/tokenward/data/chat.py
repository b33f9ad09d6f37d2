"""Messages through the tokenizer's chat template, with their contents kept as text.

The template's own control tokens are control tokens. A content that names one (`<|im_end|>`) is encoded as text: where
the contents stand in the rendered text is found by rendering marks in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from tokenward.data.encode import Encoded, Encoder, names_control
from tokenward.data.rows import Message
from tokenward.data.tally import BadRow
from tokenward.errors import InputError

Messages = tuple[Message, ...]
End = Literal["open", "closed"]  # open: the template goes on to where the assistant begins to speak
MARK = re.compile("\ue000(\\d+)\ue001")
CHANGES: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)  # what templates do to contents


def encode_chat(encoder: Encoder, messages: Messages, *, end: End) -> Encoded:
    """Ids of a conversation as the chat template writes it, its BOS included where it writes one."""
    if not encoder.tokenizer.chat_template:
        raise InputError(
            f"tokenizer {encoder.label} has no chat_template and the data hold messages: give a --tokenizer that has "
            "one, or text in the columns"
        )
    text = _render(encoder, messages, end=end)
    found = encoder.template(text)
    if not names_control(encoder, messages):
        plain = tuple(Message(m.role, "x" if m.content.strip() else m.content) for m in messages)
        frame = encoder.template(_render(encoder, plain, end=end))
        if _controls(encoder, found) == _controls(encoder, frame):
            return found
    return _contents_as_text(encoder, messages, text=text, end=end)


def _render(encoder: Encoder, messages: Messages, *, end: End) -> str:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return encoder.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=end == "open")
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise BadRow("chat template", f"it refuses the messages: {' '.join(str(error).split())[:100]}") from error


def _controls(encoder: Encoder, encoded: Encoded) -> list[int]:
    return [token for token in encoded.ids if token in encoder.control]


def _contents_as_text(encoder: Encoder, messages: Messages, *, text: str, end: End) -> Encoded:
    """The rendered text with control tokens where the template wrote them and nowhere else."""
    marked = tuple(Message(m.role, f"\ue000{i}\ue001" if m.content else "") for i, m in enumerate(messages))
    frame = MARK.split(_render(encoder, marked, end=end))  # template, number, template, number, … template
    for change in CHANGES:
        contents = [change(message.content) for message in messages]
        if _filled(frame, contents) == text:
            break
    else:
        raise BadRow("special-token text", "a message names a control token, and the chat template rewrites messages")
    # The pieces are encoded one by one. That this gives what the tokenizer gives for the whole is seen on the same
    # messages without the names.
    harmless = [_without_names(encoder, content) for content in contents]
    if _assembled(encoder, frame, harmless).ids != encoder.template(_filled(frame, harmless)).ids:
        raise BadRow("special-token text", "a message names a control token, and this tokenizer cannot keep it as text")
    return _assembled(encoder, frame, contents)


def _without_names(encoder: Encoder, content: str) -> str:
    for name in encoder.names:
        content = content.replace(name, "x")
    return content


def _filled(frame: list[str], contents: list[str]) -> str:
    return "".join(piece if place % 2 == 0 else contents[int(piece)] for place, piece in enumerate(frame))


def _assembled(encoder: Encoder, frame: list[str], contents: list[str]) -> Encoded:
    """Control tokens of the template pieces, and between them runs of text, each encoded as text."""
    text = ""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []

    def flush(run: str) -> None:
        nonlocal text
        part = encoder.text(run)
        ids.extend(part.ids)
        spans.extend((start + len(text), stop + len(text)) for start, stop in part.spans)
        text += run

    run = ""
    for piece, token in _pieces(encoder, frame, contents):
        if token is None:
            run += piece
            continue
        flush(run)
        run = ""
        ids.append(token)
        spans.append((len(text), len(text) + len(piece)))
        text += piece
    flush(run)
    return Encoded(text, tuple(ids), tuple(spans))


def _pieces(encoder: Encoder, frame: list[str], contents: list[str]) -> Iterable[tuple[str, int | None]]:
    """(text, its control token), or (text, None) for what is text."""
    for place, piece in enumerate(frame):
        if place % 2 == 1:
            yield contents[int(piece)], None
            continue
        found, done = encoder.template(piece), 0
        for token, (start, stop) in zip(found.ids, found.spans, strict=True):
            if token in encoder.control:
                yield piece[done:start], None
                yield piece[start:stop], token
                done = stop
        yield piece[done:], None
