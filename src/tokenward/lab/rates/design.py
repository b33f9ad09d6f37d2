"""Which comparisons make preference methods fast: weights of given pairs, and what they do to rate and error.

The local rate of DPO and PRA at a fixed small step is τ² λ₂(𝓛(w⊙σ′(Δ))), a concave function of w: the best weights on
given pairs solve a semidefinite program. With a tuned step what counts is λ_max/λ₂, and for the cost of labels the
trace that the error of N comparisons is proportional to; the three do not have one answer. It needs the reward gaps,
which a real data set does not have: this is for the lab. Derived here, with the organization of Su et al. 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError, RunError
from tokenward.lab.optima.graph import is_connected, laplacian, steepness
from tokenward.lab.worlds.world import Listed


@final
@dataclass(frozen=True)
class Design:
    """What weights of comparisons do: λ₂ and λ_max of 𝓛(w⊙σ′(Δ)) and of 𝓛(w), Σw = 1, and the trace of the error.

    `error` = tr[(diag π^τ − π^τπ^τᵀ) 𝓛(w⊙σ′)⁺]/(2τ²): E KL(π̂‖π^τ) times the number of labels.
    """

    name: str
    listed: Listed
    connectivity: float
    largest: float
    plain_connectivity: float
    plain_largest: float
    error: float

    @property
    def condition(self) -> float:
        """λ_max/λ₂ for preference methods."""
        return self.largest / self.connectivity


def measure_design(
    name: str, listed: Listed, *, reward: Float[Tensor, " L"], ref: Float[Tensor, " L"], tau: float
) -> Design:
    """The spectra and the error of these weights."""
    weight = listed.weight / listed.weight.sum()
    first, second = listed.pairs.unbind(-1)
    plain = _matrix(listed.pairs, weight, nodes=len(reward))
    curved = _matrix(listed.pairs, weight * steepness(reward[first] - reward[second]), nodes=len(reward))
    eigen, flat = torch.linalg.eigvalsh(curved), torch.linalg.eigvalsh(plain)
    law = torch.softmax(ref.log() + reward / tau, dim=-1)
    return Design(
        name,
        Listed(listed.pairs, weight),
        connectivity=max(float(eigen[1]), 0.0),
        largest=float(eigen[-1]),
        plain_connectivity=max(float(flat[1]), 0.0),
        plain_largest=float(flat[-1]),
        error=error_per_label(curved, law=law, tau=tau),
    )


def error_per_label(curved: Float[Tensor, "L L"], *, law: Float[Tensor, " L"], tau: float) -> float:
    """tr[(diag π − ππᵀ) 𝓛⁺]/(2τ²); infinite where the comparisons do not connect all leaves."""
    eigen, axes = torch.linalg.eigh(curved)
    if float(eigen[1]) <= 1e-14 * float(eigen[-1]):
        return float("inf")
    inverse = (axes[:, 1:] / eigen[1:]) @ axes[:, 1:].T
    spread = torch.diag(law) - law[:, None] * law
    return float((spread * inverse).sum()) / (2 * tau**2)


def best_weights(pairs: Int[Tensor, "P 2"], gap: Float[Tensor, " P"] | None = None, *, nodes: int) -> Listed:
    """The weights of given pairs with the largest λ₂(𝓛(w⊙σ′(Δ))), Σw = 1, w ≥ 0; without gaps, of 𝓛(w).

    max t subject to 𝓛(w⊙σ′) ⪰ t (I − 11ᵀ/n): a semidefinite program (cvxpy with clarabel, the extra `design`).
    """
    if not is_connected(pairs, nodes=nodes):
        raise InputError(
            "design: the pairs do not connect all leaves, so that λ₂ is 0 for every weight; give more pairs"
        )
    try:
        import cvxpy
    except ImportError:
        raise InputError("design needs cvxpy and clarabel: pip install 'tokenward[design]'") from None
    slope = torch.ones(len(pairs), dtype=torch.float64) if gap is None else steepness(gap.double())
    edges = torch.zeros(len(pairs), nodes, dtype=torch.float64)
    edges.scatter_(1, pairs[:, :1], 1.0).scatter_(1, pairs[:, 1:], -1.0)
    steep = slope.max()
    incidence, sizes = edges.numpy(), (slope / steep).numpy()
    weight, level = cvxpy.Variable(len(pairs), nonneg=True), cvxpy.Variable()
    graph = incidence.T @ cvxpy.diag(cvxpy.multiply(sizes, weight)) @ incidence
    rest = (torch.eye(nodes, dtype=torch.float64) - 1 / nodes).numpy()
    program = cvxpy.Problem(cvxpy.Maximize(level), [cvxpy.sum(weight) == 1, graph - level * rest >> 0])
    program.solve(solver=cvxpy.CLARABEL)
    if program.status != cvxpy.OPTIMAL:
        raise RunError(f"design: the semidefinite program ended as {program.status!r}; scale the rewards down")
    found = torch.as_tensor(weight.value, dtype=torch.float64).clamp(min=0.0)
    return Listed(pairs, found / found.sum())


def designs(reward: Float[Tensor, " L"], *, ref: Float[Tensor, " L"], tau: float) -> tuple[Design, ...]:
    """Even weights on all pairs, on adjacent ranks, on stars around the best and the worst leaf; the best weights."""
    number = len(reward)
    order = torch.argsort(reward, descending=True)
    every = torch.combinations(torch.arange(number))
    named = {
        "complete": every,
        "path of adjacent ranks": torch.stack([order[:-1], order[1:]], -1),
        "star on the best": torch.stack([order[:1].expand(number - 1), order[1:]], -1),
        "star on the worst": torch.stack([order[-1:].expand(number - 1), order[:-1]], -1),
    }
    listed = {name: Listed(p, torch.full((len(p),), 1 / len(p), dtype=torch.float64)) for name, p in named.items()}
    gap = reward[every[:, 0]] - reward[every[:, 1]]
    listed["optimized"] = best_weights(every, gap, nodes=number)
    return tuple(measure_design(name, one, reward=reward, ref=ref, tau=tau) for name, one in listed.items())


def _matrix(pairs: Int[Tensor, "P 2"], weight: Float[Tensor, " P"], *, nodes: int) -> Float[Tensor, "L L"]:
    """𝓛 of weighted pairs."""
    matrix = torch.zeros(nodes, nodes, dtype=torch.float64)
    matrix.index_put_(tuple(pairs.T), weight, accumulate=True)
    return laplacian(matrix + matrix.T)
