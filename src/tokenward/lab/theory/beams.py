"""Beam search on the tree for many prompts at once, and what a search of depth K with values at its leaves compares."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.worlds.tree import Tree


def beam_leaf(tree: Tree, gain: Float[Tensor, "X S V"], *, width: int) -> Int[Tensor, " X"]:
    """The leaf of the largest Σ_t gain[s_t, y_t] that a beam of `width` reaches; gain log π: by likelihood.

    At each step the `width` best one-token extensions of all live prefixes are kept; those that end leave the beam.
    Of equal ones the earlier prefix and the lower token. The same search as `search.beam`, places "shared".
    """
    if width < 1:
        raise InputError(f"beam width must be 1 or more, got {width}")
    prompts, never = len(gain), -torch.inf
    row = torch.arange(prompts)[:, None]
    state = torch.zeros(prompts, 1, dtype=torch.long)
    total = torch.zeros(prompts, 1, dtype=gain.dtype)
    best = torch.full((prompts,), never, dtype=gain.dtype)
    leaf = torch.zeros(prompts, dtype=torch.long)
    for _ in range(tree.horizon):
        longer = (total[:, :, None] + gain[row, state]).flatten(1)
        kept = longer.sort(dim=-1, descending=True, stable=True)
        total, place = kept.values[:, :width], kept.indices[:, :width]
        parent, token = state.gather(1, place // tree.vocab), place % tree.vocab
        ends, after = tree.leaf[parent, token], tree.child[parent, token]
        finished = total.masked_fill(ends < 0, never)
        top = finished.max(-1)
        better = top.values > best
        leaf = torch.where(better, ends.gather(1, top.indices[:, None]).squeeze(1), leaf)
        best = torch.where(better, top.values, best)
        total, state = total.masked_fill(ends >= 0, never), after.clamp(min=0)
    return leaf


def prefix_sums(tree: Tree, table: Float[Tensor, "X S V"]) -> Float[Tensor, "X S V"]:
    """Σ of the table along the path to a state and through one of its tokens: what a prefix is worth so far."""
    sums = table.clone()
    for level in tree.levels:
        for state in level.tolist():
            for token in range(tree.vocab):
                child = int(tree.child[state, token])
                if child >= 0:
                    sums[:, child] = table[:, child] + sums[:, state, token, None]
    return sums


def lookahead(
    tree: Tree,
    reward: Float[Tensor, "X S V"],
    ref_logp: Float[Tensor, "X S V"],
    value: Float[Tensor, "X S"],
    *,
    tau: float,
) -> Float[Tensor, "X S V"]:
    """Σ_k [r + τ log π_ref] along a prefix, and the value of where it ends: what a search with value leaves compares.

    The left side of Rafailov et al. 2024, Eq. 12. With r's own optimal soft value it is V*(s₀) + τ Σ_k log π*: their
    Eq. 13, which is printed with −V*(s₀) (the sign derived here; the argmax does not know it).
    """
    return prefix_sums(tree, reward + tau * ref_logp) + tree.ahead(value)
