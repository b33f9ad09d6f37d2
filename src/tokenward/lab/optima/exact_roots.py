"""Closed forms up to one number per prompt, which the normalization fixes: found by bisection. Derived here.

π = π_ref·ρ(λ) with Σ π = 1, where ρ is explicit in λ, or the root of one increasing function for each leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDS = 200


def divergence(
    ref: Float[Tensor, "X L"], score: Float[Tensor, "X L"], *, divergence: Literal["forward_kl", "js"]
) -> Float[Tensor, "X L"]:
    """f-DPO's optimum: f′(ρ) = u − λ for ρ = π/π_ref.

    forward_kl (f = −log): ρ = 1/(λ − u), λ > max u · js (f′ = log ρ/(1+ρ)): ρ = 1/(e^{λ−u} − 1), λ > max u. Source of
    the condition: Wang et al. 2023 (f-DPO), §4.
    """
    gap = score.max(-1, keepdim=True).values - score

    def log_ratio(shift: Float[Tensor, "X 1"]) -> Float[Tensor, "X L"]:
        excess = shift.exp() + gap  # λ − u, with λ = max u + e^shift
        return -excess.log() if divergence == "forward_kl" else -(excess + torch.log(-torch.expm1(-excess)))

    low, high = torch.full((len(ref), 1), -700.0, dtype=ref.dtype), torch.full((len(ref), 1), 700.0, dtype=ref.dtype)
    shift = _bisect(lambda middle: torch.logsumexp(ref.log() + log_ratio(middle), -1, keepdim=True) > 0, low, high)
    return torch.softmax(ref.log() + log_ratio(shift), dim=-1)


def lambert(
    ref: Float[Tensor, " L"], sampler: Float[Tensor, " L"], advantage: Float[Tensor, " L"]
) -> Float[Tensor, " L"] | None:
    """The optimum of E_μ(log ρ − A)² over policies: log ρ + λ(π_ref/μ)ρ = A for ρ = π/π_ref, λ by Σ π_ref ρ = 1.

    ρ = W(λκe^A)/(λκ), κ = π_ref/μ, W Lambert's function; λ = 0 where Σ π_ref e^A = 1 already. None where the sum is
    less: there λ < 0, W has two branches, and which leaf takes the other one at the minimum is not known.
    """
    tilt = ref / sampler

    def log_ratio(level: Float[Tensor, ""]) -> Float[Tensor, " L"]:
        return _root(level * tilt, advantage)

    def total(level: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return torch.logsumexp(ref.log() + log_ratio(level), dim=-1)

    low = torch.zeros((), dtype=ref.dtype)
    if float(total(low)) < -1e-12:
        return None
    high = torch.ones_like(low)
    while float(total(high)) > 0:
        high = 2 * high
    level = _bisect(lambda middle: total(middle) > 0, low, high)
    return torch.softmax(ref.log() + log_ratio(level), dim=-1)


def _root(a: Float[Tensor, " L"], goal: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """x with x + a·eˣ = goal, a ≥ 0."""
    low = torch.minimum(goal - a, torch.zeros_like(a))
    high = torch.maximum(goal, low)
    return _bisect(lambda x: x + a * torch.exp(x) < goal, low, high)


def _bisect(below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The place, in each entry, where `below` turns from true to false."""
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        under = below(middle)
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return (low + high) / 2
