"""The keys of a world file that say which responses are compared and who wins: `pairs` and `labels`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError, nearest
from tokenward.lab.worlds.json_values import SUMS_TO_ONE, json_object, known_keys, number, short, vector, whole
from tokenward.lab.worlds.world import Labels, Listed

_KINDS = {
    "bradley-terry": ("kind", "temperature", "noise"),
    "deterministic": ("kind",),
    "matrix": ("kind", "p"),
    "oriented": ("kind", "joint"),
}


def parse_pairs(given: object, where: str, *, leaves: int) -> Literal["uniform", "sampler"] | Listed:
    """Either word, or a list of [i, j, weight]."""
    if given == "uniform" or given == "sampler":
        return "uniform" if given == "uniform" else "sampler"
    if not isinstance(given, list) or not given:
        raise InputError(f'{where} must be "uniform", "sampler" or a list of [i, j, weight], got {short(given)}')
    pairs, weight = _weighted(given, where, entry="pair", value="weight", leaves=leaves)
    return Listed(pairs, weight / weight.sum())


def parse_labels(given: object, where: str, *, leaves: int) -> tuple[Labels, Listed | None]:
    """The labels, and for oriented ones the pairs that come with them."""
    found = json_object(given, where)
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(f'"{name}"' for name in _KINDS)
        close = nearest(kind, _KINDS) if isinstance(kind, str) else ""
        raise InputError(f"{where}: kind must be one of {known}, got {short(kind)}.{close}".removesuffix("."))
    known_keys(found, _KINDS[kind], where)
    if kind == "oriented":
        return _oriented(found.get("joint"), f"{where}: joint", leaves=leaves)
    if kind == "deterministic":
        return Labels(kind="deterministic"), None
    if kind == "matrix":
        return Labels(matrix=_matrix(found.get("p"), where, leaves=leaves)), None
    noise = number(found.get("noise", 0), f"{where}: noise")
    if not 0 <= noise <= 0.5:
        raise InputError(f"{where}: noise is the probability of a flipped label, between 0 and 0.5, got {noise:g}")
    return Labels(number(found.get("temperature", 1), f"{where}: temperature", above=0.0), noise), None


def posterior(joint: Float[Tensor, "L L"]) -> tuple[Labels, Listed]:
    """A joint law q(winner, loser) as pairs and labels: weights q_ij + q_ji, P(i wins) = q_ij/(q_ij + q_ji).

    The labels of pairs that never occur are ½. Derived here.
    """
    both = joint + joint.T
    p = torch.where(both > 0, joint / torch.where(both > 0, both, 1.0), 0.5)
    pairs = torch.triu(both > 0).nonzero()
    weight = both[pairs[:, 0], pairs[:, 1]] * torch.where(pairs[:, 0] == pairs[:, 1], 0.5, 1.0)
    return Labels(matrix=p), Listed(pairs, weight / weight.sum())


def _matrix(rows: object, where: str, *, leaves: int) -> Float[Tensor, "L L"]:
    if not isinstance(rows, list) or len(rows) != leaves:
        raise InputError(f"{where}: p must have {leaves} rows, one per leaf, each of {leaves} probabilities")
    p = torch.stack([vector(row, f"{where}: p[{i}]", leaves=leaves) for i, row in enumerate(rows)])
    off = ((p + p.T - 1).abs() > SUMS_TO_ONE) & ~torch.eye(len(p), dtype=torch.bool)
    if bool(((p < 0) | (p > 1)).any()) or bool(off.any()):
        raise InputError(f"{where}: p[i][j] is the probability that i wins: between 0 and 1, and 1 − p[j][i]")
    return p


def _oriented(given: object, where: str, *, leaves: int) -> tuple[Labels, Listed]:
    if not isinstance(given, list) or not given:
        raise InputError(f"{where} must be a list of [winner, loser, q], got {short(given)}")
    pairs, q = _weighted(given, where, entry="entry", value="q", leaves=leaves)
    joint = torch.zeros(leaves, leaves, dtype=torch.float64).index_put((pairs[:, 0], pairs[:, 1]), q, accumulate=True)
    return posterior(joint)


def _weighted(given: list[Any], where: str, *, entry: str, value: str, leaves: int) -> tuple[Tensor, Tensor]:
    """[i, j, number of 0 or more] of each entry, not all 0."""
    form = "[i, j, weight]" if entry == "pair" else "[winner, loser, q]"
    pairs, weights = [], []
    for one in given:
        if not isinstance(one, list) or len(one) != 3:
            raise InputError(f"{where}: each {entry} is {form}, got {short(one)}")
        pair = [whole(leaf, f"{where}: leaf") for leaf in one[:2]]
        if not all(0 <= leaf < leaves for leaf in pair):
            raise InputError(f"{where}: {short(one)} names a leaf outside 0 … {leaves - 1}")
        pairs.append(pair)
        weights.append(number(one[2], f"{where}: {value}", least=0.0))
    weight = torch.tensor(weights, dtype=torch.float64)
    if not float(weight.sum()) > 0:
        raise InputError(f"{where}: all {value}s are 0; give at least one {entry} a {value} above 0")
    return torch.tensor(pairs), weight
