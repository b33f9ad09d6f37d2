"""Comparison graphs: which leaves are compared with which, the scores that wanted differences fix, and the spectra.

The nodes are the leaves of one prompt, or all answers of a file; w_ij = ν_ij + ν_ji is how much i and j are compared,
𝓛(w) = diag(w1) − w its Laplacian. What a pair method can know is constant shifts of each connected component short of
everything. 𝓛's smallest and largest eigenvalues but the 0 of each component say how fast it can be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MOST_NODES = 1024  # of a component whose eigenvalues are computed
_TOGETHER = 2**22  # entries of the matrices of one batch of components


@final
@dataclass(frozen=True)
class Spectrum:
    """One component of two nodes or more: its smallest node, its size, λ₂ and λ_max of its Laplacian.

    The eigenvalues are None where the component has more than 1,024 nodes.
    """

    first: int
    nodes: int
    connectivity: float | None
    largest: float | None

    @property
    def condition(self) -> float | None:
        """λ_max/λ₂: with the best fixed step, gradient descent contracts by (κ − 1)/(κ + 1)."""
        return self.largest / self.connectivity if self.connectivity and self.largest else None


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


def spectra(pairs: Int[Tensor, "P 2"], weight: Float[Tensor, " P"], *, nodes: int) -> tuple[Spectrum, ...]:
    """λ₂ and λ_max of 𝓛(w) on each component of two nodes or more; pairs of weight 0 and self-pairs do not count.

    Components of one size are one batch of dense matrices: a file of many small ones is quick.

    >>> (path,) = spectra(torch.tensor([[0, 1], [1, 2]]), torch.ones(2), nodes=4)
    >>> path.first, path.nodes, round(path.connectivity, 6), round(path.largest, 6)
    (0, 3, 1.0, 3.0)
    """
    counts = (weight > 0) & (pairs[:, 0] != pairs[:, 1])
    pairs, weight = pairs[counts], weight[counts]
    label = components(pairs, nodes=nodes)
    size = torch.bincount(label, minlength=nodes)
    start = size.cumsum(0) - size
    order = torch.argsort(label, stable=True)
    rank = torch.empty_like(label)
    rank[order] = torch.arange(nodes) - start[label[order]]
    found: list[Spectrum] = []
    for number in (n for n in torch.unique(size).tolist() if n >= 2):
        firsts = (size == number).nonzero().flatten()
        if number > MOST_NODES:
            found += [Spectrum(first, number, None, None) for first in firsts.tolist()]
            continue
        inside = size[label[pairs[:, 0]]] == number
        place = torch.zeros(nodes, dtype=torch.long).index_put_((firsts,), torch.arange(len(firsts)))
        rows = torch.cat([place[label[pairs[inside, 0]]][:, None], rank[pairs[inside]]], dim=-1)
        for some in torch.arange(len(firsts)).split(max(1, _TOGETHER // number**2)):
            here = (rows[:, 0] >= some[0]) & (rows[:, 0] <= some[-1])
            eigen = _eigenvalues(
                rows[here] - torch.tensor([int(some[0]), 0, 0]), weight[inside][here], len(some), number
            )
            found += [
                Spectrum(first, number, max(low, 0.0), high)
                for first, low, high in zip(firsts[some].tolist(), *eigen, strict=True)
            ]
    return tuple(sorted(found, key=lambda one: one.first))


def _eigenvalues(
    rows: Int[Tensor, "P 3"], weight: Float[Tensor, " P"], number: int, size: int
) -> tuple[list[float], list[float]]:
    """λ₂ and λ_max of `number` components of one size; rows are (component, node, node)."""
    matrix = torch.zeros(number, size, size, dtype=torch.float64)
    matrix.index_put_(tuple(rows.T), weight.double(), accumulate=True)
    matrix = matrix + matrix.mT
    eigen = torch.linalg.eigvalsh(torch.diag_embed(matrix.sum(-1)) - matrix)
    return eigen[:, 1].tolist(), eigen[:, -1].tolist()


def both_ways(beats: Int[Tensor, "P 2"], *, nodes: int) -> Bool[Tensor, " L"]:
    """Whether each node's component is strongly connected by (winner, loser): wins lead from any node to any other.

    Exactly then the component has a finite Bradley–Terry maximum-likelihood estimate (Ford 1957). A node without a
    comparison is its own component.

    >>> both_ways(torch.tensor([[0, 1], [1, 2], [2, 0], [3, 4]]), nodes=5)
    tensor([ True,  True,  True, False, False])
    """
    label = components(beats, nodes=nodes)
    reached = _reached(beats, label) & _reached(beats.flip(-1), label)
    whole = torch.ones(nodes, dtype=torch.long).scatter_reduce(0, label, reached.long(), "amin")
    return whole[label] == 1


def _reached(edges: Int[Tensor, "P 2"], label: Int[Tensor, " L"]) -> Bool[Tensor, " L"]:
    """The nodes that a directed path from their component's smallest node leads to."""
    mark = (label == torch.arange(len(label))).long()
    while True:
        new = mark.scatter_reduce(0, edges[:, 1], mark[edges[:, 0]], "amax")
        if bool((new == mark).all()):
            return mark == 1
        mark = new


def steepness(gap: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """σ′(Δ) = σ(Δ)σ(−Δ): what one comparison of answers Δ apart tells, and the curvature of its log-sigmoid."""
    return torch.sigmoid(gap) * torch.sigmoid(-gap)


def laplacian(weight: Float[Tensor, "L L"]) -> Float[Tensor, "L L"]:
    """𝓛(w) = diag(Σ_j w_ij) − w of a symmetric weight matrix; the diagonal of w does not count."""
    off = weight - torch.diag(weight.diagonal())
    return torch.diag(off.sum(-1)) - off


def balance(weight: Float[Tensor, "L L"], want: Float[Tensor, "L L"]) -> Float[Tensor, " L"]:
    """u = 𝓛(w)⁺ b, b_i = Σ_j w_ij m_ij: the scores whose differences fit the wanted m (antisymmetric) best.

    Least squares in Σ w_ij (u_i − u_j − m_ij)²; of mean 0 in each component.
    """
    if not bool((weight > 0).any()):
        return torch.zeros(len(weight), dtype=weight.dtype)
    label = components((weight > 0).nonzero(), nodes=len(weight))
    same = (label[:, None] == label).to(weight.dtype)
    push = (weight * want).sum(-1)  # sums to 0 in each component, as want is antisymmetric
    lifted = laplacian(weight) + same / same.sum(-1, keepdim=True) * weight.max()
    found, wrong = torch.linalg.solve_ex(lifted, push)
    score: Tensor = found
    if int(wrong):  # weights so far apart that the smaller ones are lost beside the larger
        score = torch.linalg.pinv(lifted) @ push
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
