"""Comparison graphs: which leaves are compared with which, and the scores that wanted differences fix.

The nodes are the leaves of one prompt; w_ij = ν_ij + ν_ji is how much i and j are compared, 𝓛(w) = diag(w1) − w its
Laplacian. What a pair method can know is constant shifts of each connected component short of everything.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def components(pairs: Int[Tensor, "P 2"], *, nodes: int) -> Int[Tensor, " L"]:
    """The number of each node's connected component: that of its smallest node.

    >>> components(torch.tensor([[0, 1], [3, 2]]), nodes=5)
    tensor([0, 0, 2, 2, 4])
    """
    label = torch.arange(nodes)
    while True:
        low = label[pairs].amin(-1)
        new = label.scatter_reduce(0, pairs.flatten(), low.repeat_interleave(2), "amin")
        new = new[new]
        if bool((new == label).all()):
            return label
        label = new


def is_connected(pairs: Int[Tensor, "P 2"], *, nodes: int) -> bool:
    """Whether every two leaves are linked by comparisons."""
    return bool((components(pairs, nodes=nodes) == 0).all())


def laplacian(weight: Float[Tensor, "L L"]) -> Float[Tensor, "L L"]:
    """𝓛(w) = diag(Σ_j w_ij) − w of a symmetric weight matrix; the diagonal of w does not count."""
    off = weight - torch.diag(weight.diagonal())
    return torch.diag(off.sum(-1)) - off


def balance(weight: Float[Tensor, "L L"], want: Float[Tensor, "L L"]) -> Float[Tensor, " L"]:
    """u = 𝓛(w)⁺ b, b_i = Σ_j w_ij m_ij: the scores whose differences fit the wanted m (antisymmetric) best.

    Least squares in Σ w_ij (u_i − u_j − m_ij)²; of mean 0 in each component.
    """
    label = components((weight > 0).nonzero(), nodes=len(weight))
    same = (label[:, None] == label).to(weight.dtype)
    push = (weight * want).sum(-1)  # sums to 0 in each component, as want is antisymmetric
    score: Tensor = torch.linalg.solve(laplacian(weight) + same / same.sum(-1, keepdim=True) * weight.max(), push)
    return score


def consistent(
    weight: Float[Tensor, "L L"], want: Float[Tensor, "L L"], *, within: float = 1e-9
) -> Float[Tensor, " L"] | None:
    """The scores u with u_i − u_j = m_ij on every compared pair, of mean 0 in each component; None if there are none.

    On a tree of comparisons there always are.
    """
    if not bool(want[weight > 0].isfinite().all()):
        return None
    want = torch.where(weight > 0, want, torch.zeros_like(want))
    score = balance(weight, want)
    gap = torch.where(weight > 0, score[:, None] - score - want, torch.zeros_like(want))
    return score if float(gap.abs().max()) <= within * (1 + float(want.abs().max())) else None
