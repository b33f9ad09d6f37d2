"""`tokenward data check` and `tokenward data show`: one function each, its keywords are the flags."""

from __future__ import annotations

from collections.abc import Iterator

from tokenward.data.dataset import Dataset, survey
from tokenward.data.formats import Kind
from tokenward.data.tokenize import Limits
from tokenward.data.view import Check, ShownRow, check, show
from tokenward.errors import InputError
from tokenward.models import load


def check_file(
    file: str,
    *,
    tokenizer: str,
    kind: Kind | None = None,
    split: str = "train",
    max_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    max_dropped: float = 0.05,
) -> Check:
    """Schema, usable rows, reasons of the others with their first lines, lengths, and whether a run would refuse it."""
    data = _read(file, tokenizer, kind=kind, split=split, limits=Limits(max_tokens, max_prompt_tokens))
    return check(data, max_dropped=max_dropped)


def show_file(
    file: str,
    *,
    tokenizer: str,
    kind: Kind | None = None,
    split: str = "train",
    max_tokens: int | None = None,
    max_prompt_tokens: int | None = None,
    first: int = 0,
    count: int = 1,
) -> Iterator[ShownRow]:
    """Ids, mask and text of `count` usable examples from number `first` on, counted from 0."""
    data = _read(file, tokenizer, kind=kind, split=split, limits=Limits(max_tokens, max_prompt_tokens))
    if not 0 <= first < len(data.examples):
        raise InputError(f"{file} has usable examples 0 to {len(data.examples) - 1}, asked for {first}")
    for index in range(first, min(first + count, len(data.examples))):
        yield from show(data, index)


def _read(file: str, tokenizer: str, *, kind: Kind | None, split: str, limits: Limits) -> Dataset:
    return survey(file, tokenizer=load.tokenizer(tokenizer), kind=kind, asked_by="data", split=split, limits=limits)
