"""The models a run reads by their settings, and the one tokenizer that all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.vocabulary import SAME_BASE, same_tokens
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
        if name in ROLES and path != (config.tokenizer or config.model):
            with naming(name, path):
                same_tokens(path, ours, what=f"{name} =", remedy=SAME_BASE)
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
