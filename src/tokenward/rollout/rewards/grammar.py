"""What `--reward` may say: one source, or several with weights.

    spec    =  part  or  part + part + …        (blanks around the +)
    part    =  [number *] source
    source  =  file.py:function  or  directory of a reward model  or  prefix:argument
    prefix  =  answer  regex  regex-not  lexicon  length  stop  implicit

A source, or what follows its prefix, may stand in '…' or "…" and then is taken as it is: a pattern with ` + ` in it, a
directory that begins like a weight.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import final

from tokenward.errors import InputError, nearest

PREFIXES = {  # what stands after the prefix, between |
    "answer": ("COLUMN",),
    "regex": ("PATTERN",),
    "regex-not": ("PATTERN",),
    "lexicon": ("FILE", "[mean or sum]"),
    "length": ("TOKENS", "[limit or target]"),
    "stop": ("PENALTY",),
    "implicit": ("POLICY", "REFERENCE", "BETA", "[sum or tokens]"),
}
_WHOLE = frozenset({"answer", "regex", "regex-not"})  # their argument is one text, whatever stands in it
_COUNTED = frozenset({"length", "stop"})  # theirs begins with a number
_PREFIX = rf"(?:{'|'.join(PREFIXES.keys() - _COUNTED)}):|(?:{'|'.join(_COUNTED)}):\s*[-+.]*\d"
_GLUED = re.compile(  # a + between parts, without its blanks; 1e+5 is a number
    rf"(?:\.py:\w+|:[-.]*\d[-.\deE]*)\s*\+(?!\d+(?:\||$))|\+\s*(?:{_PREFIX})"
)
_WEIGHT = re.compile(r"(?P<weight>[^\s*/:]+)\s*\*\s*(?P<rest>\S.*)", re.DOTALL)
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PART = re.compile(
    rf"""\s*(?:(?P<weight>{_NUMBER})\s*\*\s*)?
    (?:(?P<prefix>[A-Za-z][\w-]*):)?
    (?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<bare>.*?))
    \s*(?:(?P<more>\s\+(?:\s|$))|$)""",
    re.VERBOSE | re.DOTALL,
)


@final
@dataclass(frozen=True)
class Asked:
    """One part of a spec: its weight, what kind of source ("function", "model", or a prefix) with which arguments.

    `name` tells it from the others in logs; `text` is the source as it was written.
    """

    weight: float
    kind: str
    arguments: tuple[str, ...]
    name: str
    text: str


def parse(spec: str) -> tuple[Asked, ...]:
    """The parts of a spec; one line for what cannot be read.

    >>> [(p.weight, p.kind, p.arguments, p.name) for p in parse("0.7*runs/rm/model + 0.3*short.py:score")]
    [(0.7, 'model', ('runs/rm/model',), 'rm'), (0.3, 'function', ('short.py', 'score'), 'score')]
    """
    found = list(_parts(spec))
    names = Counter(part.name for part in found)
    seen: Counter[str] = Counter()
    named = []
    for part in found:
        seen[part.name] += 1
        named.append(replace(part, name=f"{part.name}_{seen[part.name]}") if names[part.name] > 1 else part)
    return tuple(named)


def described(spec: str) -> str:
    """The resolved reward in one line: weights, names, and what they are.

    >>> described("runs/rm/model + -0.5*stop:2")
    'reward = 1 × rm (model runs/rm/model) − 0.5 × stop (stop:2)'
    """
    words = ""
    for part in parse(spec):
        what = f"{part.kind} {part.text}" if part.kind in ("function", "model") else part.text
        sign = "− " if part.weight < 0 else "+ " if words else ""
        words += f" {sign}{abs(part.weight):g} × {part.name} ({what})"
    return f"reward ={words}"


def _parts(spec: str) -> Iterator[Asked]:
    start, number = 0, 0
    while True:
        number += 1
        found = _PART.match(spec, start)
        assert found is not None  # `bare` takes anything
        yield _asked(found, number=number, spec=spec)
        if found["more"] is None:
            return
        start = found.end()


def _asked(found: re.Match[str], *, number: int, spec: str) -> Asked:
    """One part as it was matched."""
    where = f"reward {spec!r}: part {number}"
    weight = 1.0 if found["weight"] is None else float(found["weight"])
    if not math.isfinite(weight) or weight == 0:
        raise InputError(
            f"{where} has the weight {found['weight']}: give a number that is not 0, or leave the part out"
        )
    quoted = next((found[name] for name in ("single", "double") if found[name] is not None), None)
    source = found["bare"] if quoted is None else quoted
    if quoted is None and source[:1] in ("'", '"'):
        raise InputError(
            f"{where} opens a quote {source[0]} that does not close at its end: quote it with the other sign"
        )
    prefix = found["prefix"]
    if quoted is None:
        _check_bare(found, source, where=where)
    if not source:
        wanted = f"{prefix}:{'|'.join(PREFIXES[prefix])}" if prefix in PREFIXES else "a source"
        raise InputError(f"{where} is empty: write {wanted}")
    if prefix is None:
        return _file_or_model(weight, source)
    if prefix not in PREFIXES:
        raise InputError(
            f"{where} has the unknown prefix {prefix + ':'!r}.{nearest(prefix, PREFIXES)} A path with a colon is quoted"
        )
    fields = PREFIXES[prefix]
    arguments = (source,) if prefix in _WHOLE else tuple(word.strip() for word in source.split("|"))
    least = sum(not field.startswith("[") for field in fields)
    if not least <= len(arguments) <= len(fields) or not all(arguments):
        raise InputError(
            f"{where} must be {prefix}:{'|'.join(fields)} (the last in brackets may be left out), got {source!r}"
        )
    return Asked(weight, prefix, arguments, prefix.replace("-", "_"), f"{prefix}:{source}")


def _check_bare(found: re.Match[str], source: str, *, where: str) -> None:
    """Refuse a + without its blanks, a second weight, and a weight that is no number, in what is not quoted."""
    prefix = found["prefix"]
    if prefix not in _WHOLE and _GLUED.search(f"{prefix}:{source}" if prefix else source):
        raise InputError(
            f"{where} has a + without blanks around it: write PART + PART, or quote what is one source, got {source!r}"
        )
    second = _WEIGHT.match(source) if prefix is None else None
    if second is None:
        return
    if found["weight"] is not None:
        raise InputError(f"{where} has two weights, {found['weight']} and {second['weight']}: give their product alone")
    raise InputError(
        f"{where} has the weight {second['weight']!r}: give a finite number before the *, or quote a path with a *"
    )


def _file_or_model(weight: float, source: str) -> Asked:
    file, colon, name = source.rpartition(":")
    if colon and file.endswith(".py"):
        return Asked(weight, "function", (file, name), name or "function", source)
    if source.endswith(".py"):
        raise InputError(f"reward {source} names no function; write {source}:function")
    words = [word for word in PurePath(source).parts if word not in ("model", ".", "..", "/")]
    return Asked(weight, "model", (source,), words[-1] if words else "model", source)
