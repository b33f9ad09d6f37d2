"""The rows and pairs of a recipe's streams: all answers of each stream's law, and who is compared with whom.

The answers of several streams to one prompt are independent: the pairs of two streams weigh the product of their laws.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.lab.solving.groups import Rows, pairs_within, rows_of
from tokenward.lab.solving.reading import stream_kind
from tokenward.lab.worlds.tree import Tree
from tokenward.lab.worlds.world import Listed, World
from tokenward.objective.recipe import Recipe, Stream


def sampling_law(kind: str, world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """The law of single responses for a kind of stream, when the current policy's is `law`."""
    if kind == "rollouts":
        return law.detach()
    if kind == "demos":
        return world.demos
    laws = zip(world.prompts, law, world.target, strict=True)
    return torch.stack([prompt.sampler_law(own, target=target) for prompt, own, target in laws])


def stream_law(stream: Stream, world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """The law of a stream's answers, when the current policy's is `law`."""
    if stream.kind != "rollouts" or stream.own:
        return sampling_law(stream.kind, world, law)
    if stream.sampler == "reference":
        return world.ref
    if stream.sampler == "mixture":
        return mixture(world, law.detach(), share=stream.mixture or 0.0)
    leaf = greedy_leaf(world.tree, world.tree.conditional(law.detach()))
    return torch.nn.functional.one_hot(leaf, world.tree.leaves).to(law.dtype)


def mixture(world: World, law: Float[Tensor, "X L"], *, share: float) -> Float[Tensor, "X L"]:
    """∝ π^{1−c}·π_ref^c at each state, c = `share`: each token normalized by itself, as a sampler does it."""
    tree = world.tree
    logs = (1 - share) * tree.conditional(law) + share * tree.conditional(world.ref)
    return tree.leaf_sum(torch.log_softmax(logs, dim=-1)).exp()


def greedy_leaf(tree: Tree, table: Float[Tensor, "X S V"]) -> Int[Tensor, " X"]:
    """The leaf that the likeliest token of each state leads to; of equally likely ones the first."""
    best = table.argmax(-1)  # [X S]
    found = []
    for row in best.tolist():
        state, leaf = int(tree.levels[0][0]), -1
        while leaf < 0:
            token = row[state]
            leaf, state = int(tree.leaf[state, token]), int(tree.child[state, token])
        found.append(leaf)
    return torch.tensor(found)


def rows_played(recipe: Recipe, world: World, law: Float[Tensor, "X L"]) -> tuple[Rows, Int[Tensor, " B"] | None]:
    """The rows of every stream, one stream after another, and their stream; None with one stream."""
    own = rows_of(stream_kind(recipe), world, stream_law(recipe.streams[0], world, law))
    if recipe.streams[0].keep == "mixed":
        own = mixed(own, world)
    others = [rows_of(s.kind, world, stream_law(s, world, law)) for s in recipe.streams[1:]]
    if not others:
        return own, None
    every = [own, *others]
    rows = Rows(*(torch.cat([getattr(one, name) for one in every]) for name in Rows.__dataclass_fields__))
    return rows, torch.cat([torch.full_like(one.group, k) for k, one in enumerate(every)])


def mixed(rows: Rows, world: World) -> Rows:
    """The rows of groups whose rewards are not all equal; groups are drawn until one is mixed. All rows if none is."""
    reward, drawn = world.reward.flatten()[rows.place], rows.share > 0
    number = int(rows.group.max()) + 1
    low = torch.full((number,), torch.inf, dtype=reward.dtype)
    high = low.scatter_reduce(0, rows.group[drawn], -reward[drawn], "amin")
    low = low.scatter_reduce(0, rows.group[drawn], reward[drawn], "amin")
    kept = (low + high < 0)[rows.group]  # least reward + least of the negatives: 0 where all are equal
    _, first = torch.unique(rows.group[kept], return_inverse=True)
    if not bool(kept.any()):  # a run would stop here; in the lab equal rewards move nothing
        return rows
    chance, share = rows.chance[kept], rows.share[kept]
    return Rows(rows.place[kept], first, rows.size[kept], chance / (chance * share).sum(), share)


def pairs_played(recipe: Recipe, rows: Rows, origin: Int[Tensor, " B"] | None) -> Listed:
    """The pairs that the recipe's parts ask for, each two streams with a total weight of one."""
    if origin is None:
        return pairs_within(rows)
    found = []
    for low, high in sorted((min(pair), max(pair)) for pair in recipe.compared):
        first, second = (_of(rows, origin == k) for k in (low, high))
        if low == high:
            inner = pairs_within(first[0])
            found.append(Listed(first[1][inner.pairs], inner.weight))
        else:
            found.append(_between(first, second))
    return Listed(torch.cat([one.pairs for one in found]), torch.cat([one.weight for one in found]))


def _of(rows: Rows, here: Tensor) -> tuple[Rows, Int[Tensor, " N"]]:
    """The rows of one stream, and their places among all rows."""
    return Rows(*(getattr(rows, name)[here] for name in Rows.__dataclass_fields__)), here.nonzero().squeeze(-1)


def _between(one: tuple[Rows, Int[Tensor, " N"]], other: tuple[Rows, Int[Tensor, " M"]]) -> Listed:
    """Every row of one stream with every row of another that answers the same prompt (infinite groups)."""
    (rows, at), (others, there) = one, other
    seen = others.share > 0
    same = (rows.group[:, None] == others.group[seen]) & (rows.share[:, None] > 0)
    i, j = same.nonzero(as_tuple=True)
    weight = rows.weight[i] * others.share[seen][j]
    return Listed(torch.stack([at[i], there[seen][j]], dim=-1), weight)
