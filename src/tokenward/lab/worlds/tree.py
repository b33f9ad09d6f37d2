"""The finite token tree: every complete sequence of a small vocabulary, up to a horizon, with or without an end token.

`L` leaves (complete sequences, in lexicographic order of their tokens) · `S` states (prefixes that can go on) ·
`T` horizon · `V` vocabulary · `X` prompts. A law is a probability of each leaf `[X L]`; a table holds one number for
each token of each state `[X S V]`. Rows run prompt by prompt, leaf by leaf: `B` = X·L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenward.errors import InputError

MOST_LEAVES = 4096


@final
@dataclass(frozen=True)
class Tree:
    """All sequences: a sequence ends after `eos` (its length counts it) or after `horizon` tokens.

    `tokens`, `state` (the prefix before each token) and `mask` are 0 beyond a leaf's length. `child[s, a]` is the state
    after token a, `leaf[s, a]` the leaf that it completes; −1 where there is none. `levels`: states by depth.
    """

    vocab: int
    horizon: int
    eos: int | None
    tokens: Int[Tensor, "L T"]
    length: Int[Tensor, " L"]
    state: Int[Tensor, "L T"]
    child: Int[Tensor, "S V"]
    leaf: Int[Tensor, "S V"]
    levels: tuple[Int[Tensor, " _"], ...]

    @property
    def leaves(self) -> int:
        return len(self.length)

    @property
    def states(self) -> int:
        return len(self.child)

    @property
    def ragged(self) -> bool:
        """Whether two sequences differ in length."""
        return bool((self.length != self.length[0]).any())

    @property
    def mask(self) -> Bool[Tensor, "L T"]:
        return torch.arange(self.horizon) < self.length[:, None]

    def rows(self, table: Float[Tensor, "X S V"]) -> Float[Tensor, "B T"]:
        """The table's entry at each token of each leaf; 0 beyond its length."""
        picked = table.flatten(1)[:, self.state * self.vocab + self.tokens]
        cut: Tensor = torch.where(self.mask, picked, torch.zeros((), dtype=table.dtype))
        return cut.flatten(0, 1)

    def leaf_sum(self, table: Float[Tensor, "X S V"]) -> Float[Tensor, "X L"]:
        """Σ_t table[s_t, y_t] along each leaf."""
        return self.rows(table).reshape(len(table), self.leaves, self.horizon).sum(-1)

    def outcome(self, reward: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
        """The reward of each leaf at its last token, 0 at every other."""
        return torch.where(self.leaf >= 0, reward[:, self.leaf.clamp(min=0)], torch.zeros((), dtype=reward.dtype))

    def ahead(self, value: Float[Tensor, "X S"]) -> Float[Tensor, "X S V"]:
        """The value of the state after each token; 0 after a leaf."""
        return torch.where(self.child >= 0, value[:, self.child.clamp(min=0)], torch.zeros((), dtype=value.dtype))

    def visitation(self, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S"]:
        """P(a sequence of this law passes through the state)."""
        return self._edge_mass(law).sum(-1)

    def conditional(self, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
        """log P(token | state) of a law that is positive at every leaf: its token form."""
        mass = self._edge_mass(law)
        return mass.log() - mass.sum(-1, keepdim=True).log()

    def log_conditional(self, log: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
        """The same of a law given by its logarithm, up to a constant: no probability underflows."""
        edge = (self.state * self.vocab + self.tokens)[self.mask]
        owner = torch.arange(self.leaves)[:, None].expand(self.tokens.shape)[self.mask]
        own = log[:, owner]
        least = torch.full((len(log), self.states * self.vocab), -torch.inf, dtype=log.dtype)
        top = least.scatter_reduce(1, edge.expand(len(log), -1), own.detach(), "amax")
        mass = torch.zeros_like(least).index_add(1, edge, (own - top[:, edge]).exp())
        return torch.log_softmax((top + mass.log()).unflatten(1, (self.states, self.vocab)), dim=-1)

    def _edge_mass(self, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
        edge = (self.state * self.vocab + self.tokens)[self.mask]
        owner = torch.arange(self.leaves)[:, None].expand(self.tokens.shape)[self.mask]
        flat = torch.zeros(len(law), self.states * self.vocab, dtype=law.dtype)
        mass: Tensor = flat.index_add(1, edge, law[:, owner]).unflatten(1, (self.states, self.vocab))
        return mass


def grow(*, vocab: int, horizon: int, eos: int | None) -> Tree:
    """The tree of all sequences, with at most 4,096 leaves.

    >>> tree = grow(vocab=2, horizon=2, eos=1)
    >>> [row[:n] for row, n in zip(tree.tokens.tolist(), tree.length.tolist())]
    [[0, 0], [0, 1], [1]]
    """
    if vocab < 2 or horizon < 1 or (eos is not None and not 0 <= eos < vocab):
        raise InputError(
            f"tree of vocab {vocab}, horizon {horizon}, eos {eos}: give vocab ≥ 2, horizon ≥ 1, eos null or below vocab"
        )
    count = 1
    for _ in range(horizon):
        count = count * vocab if eos is None else count * (vocab - 1) + 1
        if count > MOST_LEAVES:
            raise InputError(
                f"a tree of vocab {vocab} and horizon {horizon} has more than {MOST_LEAVES:,} leaves; make it smaller"
            )
    leaves, child, leaf, depth = _walk(vocab, horizon, eos)
    tokens, state = torch.zeros(2, len(leaves), horizon, dtype=torch.long)
    for row, (path, states) in enumerate(leaves):
        tokens[row, : len(path)] = torch.tensor(path)
        state[row, : len(path)] = torch.tensor(states)
    at = torch.tensor(depth)
    levels = tuple((at == d).nonzero().squeeze(-1) for d in range(horizon))
    length = torch.tensor([len(path) for path, _ in leaves])
    return Tree(vocab, horizon, eos, tokens, length, state, torch.tensor(child), torch.tensor(leaf), levels)


Leaf = tuple[tuple[int, ...], tuple[int, ...]]  # its tokens, and the state before each


def _walk(vocab: int, horizon: int, eos: int | None) -> tuple[list[Leaf], list[list[int]], list[list[int]], list[int]]:
    """Leaves in lexicographic order; child, leaf and depth of every state. A stack, as chains may be thousands deep."""
    leaves: list[Leaf] = []
    child: list[list[int]] = []
    leaf: list[list[int]] = []
    depth: list[int] = []
    open_: list[Leaf] = [((), ())]
    while open_:
        path, states = open_.pop()
        if path and (path[-1] == eos or len(path) == horizon):
            leaf[states[-1]][path[-1]] = len(leaves)
            leaves.append((path, states))
            continue
        here = len(child)
        child.append([-1] * vocab)
        leaf.append([-1] * vocab)
        depth.append(len(path))
        if path:
            child[states[-1]][path[-1]] = here
        open_ += [((*path, token), (*states, here)) for token in reversed(range(vocab))]
    return leaves, child, leaf, depth
