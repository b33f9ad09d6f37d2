"""Words of a command as a call: flags to keywords, recipes by name, unknown flags refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenward.errors import InputError, nearest
from tokenward.train.config import flag
from tokenward.train.flags import keywords_help, read_words
from tokenward.train.settings import arguments


def call(work: Callable[..., Any], words: list[str], *, of: str) -> Any:
    """Call a function with its keywords from flags; its help instead, where that is asked."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(keywords_help(work, title=f"tokenward {of}"))
        return None
    if alone:
        raise InputError(f"{of} takes flags only, got {' '.join(alone)}")
    return work(**arguments(work, flags, of=of))


def recipe_maker(name: str) -> Callable[..., Any]:
    """The function of a recipe; the import waits until it is asked for."""
    from tokenward.recipes import maker

    return maker(name)


def only(flags: dict[str, str], known: tuple[str, ...], *, of: str) -> None:
    """Refuse flags that a command does not have."""
    typed = [flag(name) for name in (*known, "help")]
    wrong = [f"{of} has no flag --{flag(n)}.{nearest(flag(n), typed)}" for n in flags if n not in known]
    if wrong:
        raise InputError("\n".join(wrong))
