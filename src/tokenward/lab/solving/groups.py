"""Finite groups, exactly: every multiset of G draws of a law, with its multinomial probability.

A group is the G answers sampled for one prompt. What a recipe does with it (a leave-one-out baseline, a division by
the group's std, a mean of exp(r/β)) depends on G; the lab takes the expectation over all groups instead of sampling
them. Each multiset is a group of rows, one for each different leaf in it, with weight P(multiset)·c/G for a leaf that
was drawn c times: group statistics are weighted by row weight, and `group_size` says G. The batch is that of infinitely
many groups, so statistics of the whole batch are those of the population.

`M` multisets · `R` their rows · `B` rows of the batch · `X` prompts · `L` leaves.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.worlds.world import Listed, World

MOST_MULTISETS = 1_000_000
GROUPED = frozenset({"rollouts", "scores"})  # kinds of streams whose rows come in groups


@final
@dataclass(frozen=True)
class Multisets:
    """All multisets of `size` things: of each, which things are in it and how often. One row per different thing."""

    size: int
    group: Int[Tensor, " R"]
    thing: Int[Tensor, " R"]
    count: Float[Tensor, " R"]
    log_ways: Float[Tensor, " M"]

    def chance(self, law: Float[Tensor, " N"]) -> Float[Tensor, " M"]:
        """G!/Π c! · Π π^c: the probability that G draws of the law are this multiset."""
        logs = torch.zeros_like(self.log_ways).index_add(0, self.group, torch.xlogy(self.count, law[self.thing]))
        return (self.log_ways + logs).exp()


@lru_cache(maxsize=4)
def multisets(things: int, size: int) -> Multisets:
    """Every multiset of `size` out of `things`, at most a million.

    >>> found = multisets(2, 2)
    >>> [round(p, 12) for p in found.chance(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()]
    [0.5625, 0.375, 0.0625]
    """
    number = math.comb(things + size - 1, size)
    if number > MOST_MULTISETS:
        raise InputError(
            f"group {size} of {things} leaves: {number:,} multisets are more than {MOST_MULTISETS:,}; "
            "make the group or the tree smaller, or take group null (infinite)"
        )
    # Stars and bars: choose the places of the fewer of the two.
    fewer = min(size, things - 1)
    chosen = array("q", chain.from_iterable(combinations(range(things + size - 1), fewer)))
    places = torch.frombuffer(chosen, dtype=torch.long) if chosen else torch.empty(0, dtype=torch.long)
    places = places.reshape(number, fewer)
    if fewer == size:
        drawn = places - torch.arange(size)
        keys, times = (torch.arange(number)[:, None] * things + drawn).flatten().unique_consecutive(return_counts=True)
        group, thing = keys // things, keys % things
    else:
        bars = torch.nn.functional.pad(places, (1, 0), value=-1)
        counts = torch.nn.functional.pad(bars, (0, 1), value=things + size - 1).diff(dim=-1) - 1
        group, thing = counts.nonzero().unbind(-1)
        times = counts[group, thing]
    count = times.to(torch.float64)
    repeats = torch.zeros(number, dtype=torch.float64).index_add(0, group, torch.lgamma(count + 1))
    return Multisets(size, group, thing, count, math.lgamma(size + 1) - repeats)


def is_grouped(kind: str, world: World) -> bool:
    """Whether rows of a stream of this kind come in groups of finite size."""
    return kind in GROUPED and any(prompt.group is not None for prompt in world.prompts)


def ungrouped(world: World) -> World:
    """The world with infinite groups."""
    return replace(world, prompts=tuple(replace(prompt, group=None) for prompt in world.prompts))


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a batch: `place` = prompt·L + leaf, the group, its size G, and what the row weighs.

    `chance` is P(group) × the prompt's weight, `share` the part of the group's draws that are this row (c/G; π where G
    is infinite). `batch.weight` is their product.
    """

    place: Int[Tensor, " B"]
    group: Int[Tensor, " B"]
    size: Float[Tensor, " B"]
    chance: Float[Tensor, " B"]
    share: Float[Tensor, " B"]

    @property
    def weight(self) -> Float[Tensor, " B"]:
        return self.chance * self.share


def rows_of(kind: str, world: World, laws: Float[Tensor, "X L"]) -> Rows:
    """Rows of a stream of this kind whose single answers have these laws; in groups where the prompt and kind say so.

    Leaves of probability 0 are in no group.
    """
    parts: list[Rows] = []
    groups, leaves = 0, world.tree.leaves
    for i, (prompt, law, weight) in enumerate(zip(world.prompts, laws, world.weight, strict=True)):
        size = prompt.group if kind in GROUPED else None
        if size is None:
            every = torch.arange(leaves)
            one = Rows(every, torch.zeros_like(every), torch.full_like(law, torch.inf), torch.ones_like(law), law)
        else:
            seen = (law > 0).nonzero().squeeze(-1)
            sets = multisets(len(seen), size)
            chance = sets.chance(law[seen])[sets.group]
            one = Rows(seen[sets.thing], sets.group, torch.full_like(sets.count, size), chance, sets.count / size)
        parts.append(Rows(one.place + i * leaves, one.group + groups, one.size, weight * one.chance, one.share))
        groups += int(one.group[-1]) + 1
    return Rows(*(torch.cat([getattr(part, name) for part in parts]) for name in Rows.__dataclass_fields__))


def pairs_within(rows: Rows) -> Listed:
    """All ordered pairs of two different draws of one group, each group counted once.

    The share of (i, j) is s_i (s_j − 1[i = j]/G)/(1 − 1/G): two independent draws where G is infinite.
    """
    if bool((rows.size < 2).any()):
        raise InputError("group 1: a pair needs two samples of each prompt; give the world group 2 or more")
    number = torch.bincount(rows.group)
    start = number.cumsum(0) - number
    each = number[rows.group]  # partners of each row
    first = torch.arange(len(rows.group)).repeat_interleave(each)
    within = torch.arange(len(first)) - (each.cumsum(0) - each)[first]
    second = start[rows.group[first]] + within
    same = (first == second).to(rows.share.dtype)
    share = rows.share[first] * (rows.share[second] - same / rows.size[first]) / (1 - 1 / rows.size[first])
    weight = rows.chance[first] * share
    kept = share.detach() > 0
    return Listed(torch.stack([first, second], dim=-1)[kept], weight[kept])
