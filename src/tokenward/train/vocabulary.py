"""Models beside the policy read its token ids: another tokenizer is refused before any weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenward.errors import InputError
from tokenward.models import load
from tokenward.train.config import RunConfig

ROLES = ("ref", "partner", "partner_ref", "guide", "guide_ref", "critic")
_WORDS = (None, "shared", "own", "copy", "adapter", "cached")


def models(config: RunConfig) -> dict[str, str]:
    """The models that a run reads, directories and hub names, by their settings."""
    named = {name: getattr(config, name) for name in ("model", *ROLES)}
    return {name: path for name, path in named.items() if path not in _WORDS}


def tokenizer(config: RunConfig) -> Any:
    """The run's tokenizer; every model is there, and those that hold a tokenizer hold the same."""
    for name, path in models(config).items():
        with naming(name, path):
            load.located(path)
    with naming("tokenizer" if config.tokenizer else "model", config.tokenizer or config.model):
        ours = load.tokenizer(config.tokenizer or config.model)
    for name, path in models(config).items():
        if name not in ROLES or path == (config.tokenizer or config.model) or not load.holds_tokenizer(path):
            continue
        with naming(name, path):
            _same(load.tokenizer(path).get_vocab(), ours.get_vocab())
    return ours


@contextmanager
def naming(name: str, value: str) -> Iterator[None]:
    """Put the setting that gave a path before what is wrong with it, where it is not named yet."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(name):
            raise
        raise InputError(f"{name} = {value}: {error}") from error


def _same(theirs: dict[str, int], ours: dict[str, int]) -> None:
    different = len(theirs.items() ^ ours.items())
    if different:
        raise InputError(
            f"another tokenizer than the policy's ({different} entries differ), and it reads the policy's token ids: "
            "give a model that was trained from the same base"
        )
