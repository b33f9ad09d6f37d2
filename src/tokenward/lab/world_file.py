"""World files: one JSON object per world, checked field by field; whatever cannot be used is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError, nearest
from tokenward.lab.tree import Tree, grow
from tokenward.lab.world import Labels, Listed, Prompt, World

SAMPLERS = ("uniform", "reference", "policy", "policy-through", "target")
LATER = ("binary", "demos", "seed")  # named in the format, and without a meaning here
ONLY: dict[str, object] = {"group": None, "samples": None, "features": None, "optimizer": "auto"}
SHARED = ("pairs", "labels", "sampler", "guide", "critic")  # may stand in the world or in a prompt
WORLD = ("tau", "vocab", "horizon", "eos", "prompts")
PROMPT = ("weight", "ref", "reward")
LARGEST = sys.float_info.max
SUMS_TO_ONE = 1e-6  # how far the probabilities of a file may be from 1 before they are refused


def read_world(path: str | Path) -> World:
    """The world of a JSON file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"world {path}: cannot be read as UTF-8 text: {error}") from None
    try:
        given = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"world {path}: not JSON: {error}") from None
    return parse_world(given, name=str(path))


def parse_world(given: object, *, name: str = "given") -> World:
    """The world of a parsed JSON object; `name` stands in error messages.

    >>> parse_world({"tau": 1, "vocab": 2, "horizon": 1, "prompts": [{"ref": [0.5, 0.6], "reward": [0, 1]}]})
    Traceback (most recent call last):
        ...
    tokenward.errors.InputError: world given: prompt 0: ref sums to 1.1; probabilities of the leaves must sum to 1
    """
    where = f"world {name}"
    found = _object(given, where)
    _known(found, (*WORLD, *SHARED), where)
    for key in ("tau", "vocab", "horizon", "prompts"):
        if key not in found:
            raise InputError(f"{where}: {key} is missing")
    tau = _number(found["tau"], f"{where}: tau", above=0.0)
    vocab, horizon = (_whole(found[key], f"{where}: {key}") for key in ("vocab", "horizon"))
    eos = None if found.get("eos") is None else _whole(found["eos"], f"{where}: eos")
    try:
        tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    prompts = found["prompts"]
    if not isinstance(prompts, list) or not prompts:
        raise InputError(f"{where}: prompts must be a list of one object or more")
    shared = {key: found[key] for key in SHARED if key in found}
    return World(tau, tree, tuple(_prompt(p, shared, tree, f"{where}: prompt {i}") for i, p in enumerate(prompts)))


def _prompt(given: object, shared: Mapping[str, Any], tree: Tree, where: str) -> Prompt:
    own = _object(given, where)
    _known(own, (*PROMPT, *SHARED), where)
    found = {**shared, **own}
    for key in ("ref", "reward"):
        if key not in found:
            raise InputError(f"{where}: {key} is missing")
    guide, critic = found.get("guide"), found.get("critic", "exact")
    if critic not in ("exact", "zero"):
        raise InputError(f'{where}: critic must be "exact" or "zero", got {critic!r}')
    return Prompt(
        ref=_law(found["ref"], tree, f"{where}: ref", least="above 0"),
        reward=_vector(found["reward"], tree, f"{where}: reward"),
        weight=_number(found.get("weight", 1), f"{where}: weight", above=0.0),
        pairs=_pairs(found.get("pairs", "uniform"), tree, f"{where}: pairs"),
        labels=_labels(found.get("labels", {"kind": "bradley-terry"}), tree, f"{where}: labels"),
        sampler=_sampler(found.get("sampler", "reference"), tree, f"{where}: sampler"),
        guide=None if guide is None else _law(guide, tree, f"{where}: guide", least="above 0"),
        critic=critic,
    )


def _labels(given: object, tree: Tree, where: str) -> Labels:
    found = _object(given, where)
    kind = found.get("kind")
    allowed = {"bradley-terry": ("kind", "temperature", "noise"), "matrix": ("kind", "p")}
    if kind in ("deterministic", "oriented"):
        raise InputError(f'{where}: kind "{kind}" is not supported; give "bradley-terry" or "matrix"')
    if not isinstance(kind, str) or kind not in allowed:
        raise InputError(f'{where}: kind must be "bradley-terry" or "matrix", got {kind!r}')
    _known(found, allowed[kind], where)
    if kind == "bradley-terry":
        noise = _number(found.get("noise", 0), f"{where}: noise")
        if not 0 <= noise <= 0.5:
            raise InputError(f"{where}: noise is the probability of a flipped label, between 0 and 0.5, got {noise:g}")
        return Labels(_number(found.get("temperature", 1), f"{where}: temperature", above=0.0), noise)
    rows = found.get("p")
    if not isinstance(rows, list) or len(rows) != tree.leaves:
        raise InputError(f"{where}: p must have {tree.leaves} rows, one per leaf, each of {tree.leaves} probabilities")
    p = torch.stack([_vector(row, tree, f"{where}: p[{i}]") for i, row in enumerate(rows)])
    off = ((p + p.T - 1).abs() > SUMS_TO_ONE) & ~torch.eye(len(p), dtype=torch.bool)
    if bool(((p < 0) | (p > 1)).any()) or bool(off.any()):
        raise InputError(f"{where}: p[i][j] is the probability that i wins: between 0 and 1, and 1 − p[j][i]")
    return Labels(matrix=p)


def _pairs(given: object, tree: Tree, where: str) -> Any:
    if given in ("uniform", "sampler"):
        return given
    if not isinstance(given, list) or not given:
        raise InputError(f'{where} must be "uniform", "sampler" or a list of [i, j, weight], got {_short(given)}')
    pairs, weights = [], []
    for entry in given:
        if not isinstance(entry, list) or len(entry) != 3:
            raise InputError(f"{where}: each pair is [i, j, weight], got {_short(entry)}")
        pair = [_whole(leaf, f"{where}: leaf") for leaf in entry[:2]]
        if not all(0 <= leaf < tree.leaves for leaf in pair):
            raise InputError(f"{where}: {_short(entry)} names a leaf outside 0 … {tree.leaves - 1}")
        pairs.append(pair)
        weights.append(_number(entry[2], f"{where}: weight", least=0.0))
    weight = torch.tensor(weights, dtype=torch.float64)
    if not float(weight.sum()) > 0:
        raise InputError(f"{where}: all weights are 0; give at least one pair a weight")
    return Listed(torch.tensor(pairs), weight / weight.sum())


def _sampler(given: object, tree: Tree, where: str) -> Any:
    if isinstance(given, list):
        return _law(given, tree, where, least="0 or more")
    if given not in SAMPLERS:
        known = ", ".join(f'"{name}"' for name in SAMPLERS)
        raise InputError(f"{where} must be {known} or a probability of each leaf, got {_short(given)}")
    return given


def _law(given: object, tree: Tree, where: str, *, least: str) -> Float[Tensor, " L"]:
    law = _vector(given, tree, where)
    if bool((law < 0).any()) or (least == "above 0" and bool((law == 0).any())):
        bad = int((law <= 0).nonzero()[0])
        raise InputError(f"{where} of leaf {bad} is {float(law[bad]):g}; every probability must be {least}")
    if abs(float(law.sum()) - 1) > SUMS_TO_ONE:
        raise InputError(f"{where} sums to {float(law.sum()):.6g}; probabilities of the leaves must sum to 1")
    return law / law.sum()


def _vector(given: object, tree: Tree, where: str) -> Float[Tensor, " L"]:
    if not isinstance(given, list) or len(given) != tree.leaves:
        have = f"{len(given)} values" if isinstance(given, list) else _short(given)
        raise InputError(f"{where} must be a list of {tree.leaves} numbers, one per leaf, got {have}")
    return torch.tensor([_number(x, f"{where}[{i}]") for i, x in enumerate(given)], dtype=torch.float64)


def _number(given: object, where: str, *, above: float | None = None, least: float | None = None) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not abs(given) <= LARGEST:  # NaN too
        raise InputError(f"{where} must be a finite number, got {_short(given)}")
    if (above is not None and given <= above) or (least is not None and given < least):
        bound = f"above {above:g}" if above is not None else f"{least:g} or more"
        raise InputError(f"{where} must be {bound}, got {given:g}")
    return float(given)


def _whole(given: object, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"{where} must be a whole number, got {_short(given)}")
    return given


def _object(given: object, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a JSON object, got {_short(given)}")
    return given


def _known(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that are unknown, or known to the format but of no effect here."""
    for key, value in found.items():
        if key in LATER and value is not None:
            raise InputError(f"{where}: {key} is not supported; leave it out")
        if key in ONLY and key not in known:
            if value != ONLY[key]:
                only = "null" if ONLY[key] is None else f'"{ONLY[key]}"'
                raise InputError(f"{where}: {key} is not supported but as {only}, got {_short(value)}; leave it out")
        elif key not in (*known, *LATER):
            raise InputError(f"{where}: unknown key {key!r}.{nearest(key, known)}")


def _short(given: object) -> str:
    text = json.dumps(given)
    return text if len(text) <= 60 else text[:57] + "…"
