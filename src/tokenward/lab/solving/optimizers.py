"""The optimizers that a world may ask for by name: plain gradient descent, and Adam."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.descent import CONVERGED
from tokenward.lab.solving.problem import Problem


def descend(problem: Problem, *, limit: int = 5000) -> tuple[float, int]:
    """θ ← θ − s·g with one fixed step s = 1/λ, λ the largest curvature at the start (`steepest`); residual max |g|.

    s is halved, for good, where a step more than doubles the residual, and the step is undone.
    """
    size = 1 / steepest(problem)
    slopes = _flat(problem.gradient())
    residual, steps = _largest(slopes), 0
    while residual > 1e-2 * CONVERGED and steps < limit and size > 1e-12:
        steps += 1
        before = problem.vector()
        problem.move_to(before - size * slopes)
        ahead = _flat(problem.gradient())
        now = _largest(ahead)
        if not now <= 2 * residual:
            problem.move_to(before)
            size /= 2
            continue
        slopes, residual = ahead, now
    return residual, steps


def adam(problem: Problem, *, rate: float = 0.1, steps: int = 1000) -> tuple[float, int]:
    """Adam (Kingma and Ba 2015) with its usual constants; the rate falls to 0 along a cosine. Residual max |g|."""
    optimizer = torch.optim.Adam(problem.parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(steps):
        for parameter, slope in zip(problem.parameters, problem.gradient(), strict=True):
            parameter.grad = slope
        optimizer.step()
        schedule.step()
    return _largest(_flat(problem.gradient())), steps


def steepest(problem: Problem, *, rounds: int = 30) -> float:
    """The largest |eigenvalue| of the derivative of the update g at the current parameters.

    By power iteration on differences of g: with samples of the policy g is no gradient of the value, and this still is
    the curvature that bounds a step.
    """
    here, width = problem.vector(), 1e-4
    axis = torch.randn(len(here), generator=torch.Generator().manual_seed(0), dtype=here.dtype)
    largest = 0.0
    for _ in range(rounds):
        axis = axis / axis.norm()
        ends = []
        for sign in (1, -1):
            problem.move_to(here + sign * width * axis)
            ends.append(_flat(problem.gradient()))
        axis = (ends[0] - ends[1]) / (2 * width)
        largest = float(axis.norm())
        if not 0 < largest < float("inf"):
            break
    problem.move_to(here)
    return largest if 0 < largest < float("inf") else 1.0


def _flat(slopes: list[Tensor]) -> Float[Tensor, " N"]:
    return torch.cat([slope.flatten() for slope in slopes])


def _largest(slopes: Float[Tensor, " N"]) -> float:
    largest = float(slopes.abs().max())
    return largest if largest == largest else float("inf")  # NaN is as far from an optimum as can be
