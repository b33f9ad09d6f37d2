"""World files: one JSON object per world, checked field by field; whatever cannot be used is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.worlds.json_values import distinct_keys, json_object, known_keys, law, number, short, vector, whole
from tokenward.lab.worlds.tree import Tree, grow
from tokenward.lab.worlds.world import Optimizer, Prompt, Samples, World
from tokenward.lab.worlds.world_labels import parse_labels, parse_pairs

SAMPLERS = ("uniform", "reference", "policy", "policy-through", "target")
SHARED = (
    "pairs", "labels", "binary", "sampler", "guide", "group", "samples", "seed", "critic", "features", "demos",
    "optimizer", "weight", "ref", "reward",
)  # fmt: skip  # may stand in the world or in a prompt, whose own wins
WORLD = ("tau", "vocab", "horizon", "eos", "prompts", "delimiters")
LARGEST_REWARD = 1e100  # its square is a float64
LARGEST_TAU = 1e10
MOST_SAMPLES = 10_000_000
OPTIMIZERS: tuple[Optimizer, ...] = ("auto", "gradient", "adam")


def read_world(path: str | Path) -> World:
    """The world of a JSON file."""
    if not Path(path).exists():
        raise InputError(f"world: no file {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"world {path}: cannot be read as UTF-8 text: {error}") from None
    try:
        given = json.loads(text, object_pairs_hook=distinct_keys)
    except InputError as error:
        raise InputError(f"world {path}: {error}") from None
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
    found = json_object(given, where)
    known_keys(found, (*WORLD, *SHARED), where)
    for key in ("tau", "vocab", "horizon", "prompts"):
        if key not in found:
            raise InputError(f"{where}: {key} is missing")
    tau = number(found["tau"], f"{where}: tau", above=0.0)
    if tau > LARGEST_TAU:
        raise InputError(f"{where}: tau must be {LARGEST_TAU:g} or less, where every target is π_ref, got {tau:g}")
    vocab, horizon = (whole(found[key], f"{where}: {key}") for key in ("vocab", "horizon"))
    eos = None if found.get("eos") is None else whole(found["eos"], f"{where}: eos")
    try:
        tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    prompts = found["prompts"]
    if not isinstance(prompts, list) or not prompts:
        raise InputError(f"{where}: prompts must be a list of one object or more")
    shared = {key: found[key] for key in SHARED if key in found}
    merged = []
    for i, own in enumerate(prompts):
        known_keys(json_object(own, f"{where}: prompt {i}"), SHARED, f"{where}: prompt {i}")
        merged.append({**shared, **own})
    parsed = tuple(_prompt(one, tree, f"{where}: prompt {i}") for i, one in enumerate(merged))
    for i, prompt in enumerate(parsed):
        largest = float(prompt.reward.abs().max())
        if largest > LARGEST_REWARD or largest / tau > LARGEST_REWARD:
            raise InputError(
                f"{where}: prompt {i}: reward, and reward ÷ tau, must stay below {LARGEST_REWARD:g}, got {largest:g} "
                f"and tau {tau:g}"
            )
    _same_features(parsed, where)
    ends = _delimiters(found.get("delimiters", [0]), f"{where}: delimiters", vocab=vocab)
    return World(tau, tree, parsed, optimizer=_optimizer(merged, where), delimiters=ends)


def _prompt(found: Mapping[str, Any], tree: Tree, where: str) -> Prompt:
    for key in ("ref", "reward"):
        if key not in found:
            raise InputError(f"{where}: {key} is missing")
    critic, group = found.get("critic", "exact"), found.get("group")
    if critic not in ("exact", "zero"):
        raise InputError(f'{where}: critic must be "exact" or "zero", got {critic!r}')
    size = tree.leaves
    pairs = parse_pairs(found.get("pairs", "uniform"), f"{where}: pairs", leaves=size)
    labels, joint = parse_labels(found.get("labels", {"kind": "bradley-terry"}), f"{where}: labels", leaves=size)
    return Prompt(
        ref=law(found["ref"], f"{where}: ref", leaves=size, positive=True),
        reward=vector(found["reward"], f"{where}: reward", leaves=size),
        weight=number(found.get("weight", 1), f"{where}: weight", above=0.0),
        pairs=pairs if joint is None else joint,
        labels=labels,
        sampler=_sampler(found.get("sampler", "reference"), f"{where}: sampler", leaves=size),
        guide=_law_or_none(found, "guide", where, leaves=size, positive=True),
        critic=critic,
        binary=_binary(found.get("binary"), f"{where}: binary", leaves=size),
        demos=_law_or_none(found, "demos", where, leaves=size, positive=False),
        group=None if group is None else whole(group, f"{where}: group", least=1),
        samples=_samples(found, where),
        features=_features(found.get("features"), f"{where}: features", leaves=size),
    )


def _law_or_none(
    found: Mapping[str, Any], key: str, where: str, *, leaves: int, positive: bool
) -> Float[Tensor, " L"] | None:
    given = found.get(key)
    return None if given is None else law(given, f"{where}: {key}", leaves=leaves, positive=positive)


def _sampler(given: object, where: str, *, leaves: int) -> Any:
    if isinstance(given, list):
        return law(given, where, leaves=leaves, positive=False)
    if given not in SAMPLERS:
        known = ", ".join(f'"{name}"' for name in SAMPLERS)
        raise InputError(f"{where} must be {known} or a probability of each leaf, got {short(given)}")
    return given


def _binary(given: object, where: str, *, leaves: int) -> Float[Tensor, " L"] | None:
    if given is None:
        return None
    found = vector(given, where, leaves=leaves)
    outside = ((found < 0) | (found > 1)).nonzero()
    if len(outside):
        bad = int(outside[0])
        raise InputError(f"{where} of leaf {bad} is {float(found[bad]):g}; P(desirable) must be between 0 and 1")
    return found


def _samples(found: Mapping[str, Any], where: str) -> Samples | None:
    given, seed = found.get("samples"), found.get("seed")
    start = 0 if seed is None else whole(seed, f"{where}: seed", least=0, most=2**63 - 1)
    if given is None:
        return None
    return Samples(whole(given, f"{where}: samples", least=1, most=MOST_SAMPLES), start)


def _features(given: object, where: str, *, leaves: int) -> Float[Tensor, "L F"] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != leaves:
        have = f"{len(given)} rows" if isinstance(given, list) else short(given)
        raise InputError(f"{where} must have {leaves} rows, one per leaf, each a list of numbers, got {have}")
    for i, row in enumerate(given):
        if not isinstance(row, list) or not row or len(row) != len(given[0]):
            raise InputError(f"{where}[{i}] must be a list of as many numbers as the other rows, got {short(row)}")
    rows = [[number(x, f"{where}[{i}][{k}]") for k, x in enumerate(row)] for i, row in enumerate(given)]
    return torch.tensor(rows, dtype=torch.float64)


def _same_features(prompts: tuple[Prompt, ...], where: str) -> None:
    sizes = {None if prompt.features is None else prompt.features.shape[1] for prompt in prompts}
    if len(sizes) > 1:
        raise InputError(
            f"{where}: features must be given for every prompt, with as many numbers per leaf, or for none"
        )


def _delimiters(given: object, where: str, *, vocab: int) -> tuple[int, ...]:
    """The tokens that end a sentence."""
    if not isinstance(given, list):
        raise InputError(f"{where} must be a list of tokens, got {short(given)}")
    return tuple(whole(token, f"{where}[{i}]", most=vocab - 1) for i, token in enumerate(given))


def _optimizer(merged: list[dict[str, Any]], where: str) -> Optimizer:
    given = [one.get("optimizer", "auto") for one in merged]
    for one in given:
        if one not in OPTIMIZERS:
            raise InputError(f'{where}: optimizer must be "auto", "gradient" or "adam", got {short(one)}')
    if any(one != given[0] for one in given):
        raise InputError(f"{where}: optimizer must be the same for all prompts, which are solved together")
    return OPTIMIZERS[OPTIMIZERS.index(given[0])]
