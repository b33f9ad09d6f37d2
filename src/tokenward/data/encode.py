"""Text as token ids, and what training must know of a tokenizer. Data are never read as control tokens.

Control tokens (`<s>`, `<|im_start|>` …) come from the tokenizer's own frame and its chat template alone. Their names
inside data become ordinary text tokens; a row where that cannot be done is refused by name (BadRow).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenward.data.rows import Text
from tokenward.data.tally import BadRow
from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Encoded:
    """Ids of a text and the characters [start, end) that each stands for."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True)
class Encoder:
    """A tokenizer with what training must know of it.

    `label` is its name in messages · `bos` is what it puts before a text (often one id, or nothing) · `eos` ends a
    complete response · `pad` fills rows · `control` are its special ids (not the unknown token: unknown characters are
    ordinary text) · `names` their texts · `as_text` and `as_template` are copies of its engine: the first reads the
    name of a control token as text, the second as the control token.
    """

    tokenizer: PreTrainedTokenizerBase
    label: str
    bos: tuple[int, ...]
    eos: int
    pad: int
    control: frozenset[int]
    names: tuple[str, ...]
    as_text: Tokenizer = field(repr=False)
    as_template: Tokenizer = field(repr=False)

    def text(self, text: str) -> Encoded:
        """Ids of a text, all of it taken as text; without BOS."""
        found = _encoded(self.as_text, text)
        if control := self.control & set(found.ids):
            name = self.tokenizer.convert_ids_to_tokens(min(control))
            raise BadRow("special-token text", f"this tokenizer cannot write {name!r} as text")
        return found

    def template(self, text: str) -> Encoded:
        """Ids of a text written by the chat template: names of control tokens become control tokens."""
        return _encoded(self.as_template, text)


def _encoded(engine: Tokenizer, text: str) -> Encoded:
    found = engine.encode(text, add_special_tokens=False)
    return Encoded(text, tuple(found.ids), tuple(found.offsets))


def _engine(tokenizer: Any, *, special: Literal["text", "control"]) -> Tokenizer:
    """A copy of the tokenizer's engine, reading names of control tokens so; the tokenizer itself is left as it is."""
    engine = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = special == "text"
    return engine


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """What training must know of a tokenizer, or one line why it cannot be used."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer {name} cannot say which characters a token stands for: it needs a tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise InputError(f"tokenizer {name} has no eos_token: set one, a response must be able to end")
    eos, bos = int(tokenizer.eos_token_id), tokenizer.bos_token_id
    control = set(tokenizer.all_special_ids)
    control |= {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    control -= _unknown(tokenizer) - {eos, bos}
    return Encoder(
        tokenizer=tokenizer,
        label=name,
        bos=_prefix(tokenizer),
        eos=eos,
        pad=eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        control=frozenset(control),
        names=tuple(tokenizer.convert_ids_to_tokens(sorted(control))),
        as_text=_engine(tokenizer, special="text"),
        as_template=_engine(tokenizer, special="control"),
    )


def _unknown(tokenizer: Any) -> set[int | None]:
    """The ids that stand for unknown characters or words, by the tokenizer's word and by its model's."""
    name = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    return {tokenizer.unk_token_id, None if name is None else tokenizer.backend_tokenizer.token_to_id(name)}


def _prefix(tokenizer: Any) -> tuple[int, ...]:
    """The ids that the tokenizer puts before a text."""
    for text in ("a", ".", "0"):
        alone = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        framed = list(tokenizer(text)["input_ids"])
        for start in range(len(framed) - len(alone) + 1) if alone else ():
            if framed[start : start + len(alone)] == alone:
                return tuple(framed[:start])
    framed = list(tokenizer("")["input_ids"])
    return tuple(framed[:1]) if framed[:1] == [tokenizer.bos_token_id] else ()


def names_control(encoder: Encoder, text: Text) -> bool:
    """Whether the name of a control token stands in the data."""
    contents = (text,) if isinstance(text, str) else tuple(message.content for message in text)
    return any(name in content for content in contents for name in encoder.names)
