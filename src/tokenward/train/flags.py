"""`--key value` words of the command line, and the help that lists every key."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from tokenward.errors import InputError
from tokenward.train.config import GROUPS, OPTIONS, RunConfig, describe, flag
from tokenward.train.settings import keyword_types

SWITCHES = frozenset({"json", "all", "help", "rate"})


def read_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(words that stand alone, value of each --key); `--key value` and `--key=value`, dashes as underscores.

    >>> read_words(["dpo", "--beta", "0.2", "--top-p=.9"])
    (['dpo'], {'beta': '0.2', 'top_p': '.9'})
    """
    alone: list[str] = []
    found: dict[str, str] = {}
    wrong: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            alone.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        key = name.replace("-", "_")
        if not equals and key not in SWITCHES:
            if not rest or rest[0].startswith("--"):
                wrong.append(f"--{name} needs a value")
                continue
            value = rest.pop(0)
        if key in found:
            wrong.append(f"--{name} stands twice: keep one")
        found[key] = value
    if wrong:
        raise InputError("\n".join(wrong))
    return alone, found


def options_help() -> str:
    """Every key of RunConfig by group: its flag, what it takes, what it is, its default."""
    hints = get_type_hints(RunConfig)
    lines: list[str] = []
    for group in GROUPS:
        lines.append(f"\n{group}:")
        for name, field in OPTIONS.items():
            if field.metadata["group"] == group:
                only = {"offline": "; not on-policy", "rollouts": "; on-policy only"}.get(field.metadata["used"], "")
                lines += _entry(name, hints[name], field.metadata["help"] + only, field.default)
    return "\n".join(lines)


def keywords_help(function: Callable[..., object], *, title: str) -> str:
    """A function's docstring, and its keywords as flags."""
    lines = [inspect.cleandoc(function.__doc__ or function.__name__), f"\n{title}:"]
    for name, annotation in keyword_types(function).items():
        lines += _entry(name, annotation, "", inspect.signature(function).parameters[name].default)
    return "\n".join(lines)


def _entry(name: str, annotation: Any, text: str, default: object) -> list[str]:
    """One flag: `--name  what it is (what it takes) [default]`."""
    takes = describe(annotation).removesuffix(" or null").replace(" or ", " | ")
    words = [text] if text else []
    words += [f"({takes})"] if takes != "text" or not text else []
    words += [f"[{'required' if default is inspect.Parameter.empty else default}]"] if default not in (None, "") else []
    body = textwrap.wrap(" ".join(words), width=88, break_on_hyphens=False)
    head = f"  --{flag(name)}"
    return [f"{head:<28}{line}" if i == 0 else f"{'':<28}{line}" for i, line in enumerate(body)]
