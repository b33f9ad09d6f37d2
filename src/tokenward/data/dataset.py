"""A data file as token examples of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from transformers import PreTrainedTokenizerBase

from tokenward.data.encode import Encoder, encoder
from tokenward.data.files import SPLIT, data_hash, is_name, raw_rows
from tokenward.data.formats import Kind, Schema, parse_rows
from tokenward.data.tally import Tally
from tokenward.data.tokenize import NO_LIMITS, Example, Limits, tokenize
from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Dataset:
    """The usable rows of a source as token examples, what became of the others, and the hash of the content."""

    source: str
    schema: Schema
    examples: tuple[Example, ...]
    tally: Tally
    encoder: Encoder
    data_hash: str


def load(
    source: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    asked_by: str = "this run",
    split: str = SPLIT,
    limits: Limits = NO_LIMITS,
    max_dropped: float = 0.05,
) -> Dataset:
    """Read and tokenize a file or a `datasets` name; refused in one line when more than `max_dropped` is unusable.

    A run has one `split` for all its data: it is of the `datasets` names among them, and files are read whole.
    """
    split = split if is_name(source) else SPLIT
    found = survey(source, tokenizer=tokenizer, kind=kind, asked_by=asked_by, split=split, limits=limits)
    found.tally.refuse(max_dropped=max_dropped)
    return found


def survey(
    source: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind | None = None,
    asked_by: str = "this command",
    split: str = SPLIT,
    limits: Limits = NO_LIMITS,
) -> Dataset:
    """The same without refusing bad rows, and with the kind taken from the columns where it is not given."""
    tally = Tally(source)
    known = encoder(tokenizer)
    schema, rows = parse_rows(raw_rows(source, split=split), tally=tally, kind=kind, asked_by=asked_by)
    if schema is None:
        list(rows)  # none is good: they are read for the tally
        raise InputError(tally.verdict(max_dropped=1.0) or f"{source}: no row can be read")
    examples = tuple(tokenize(rows, kind=kind or schema.kind, encoder=known, tally=tally, limits=limits))
    return Dataset(source, schema, examples, tally, known, data_hash(source, split=split))
