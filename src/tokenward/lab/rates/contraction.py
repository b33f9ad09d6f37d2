"""The contraction of gradient descent near its resting point, measured on the recipe's own expected gradient.

The derivative of the update is taken by differences along every direction, which finds the slowest one. Then the
descent itself runs from two points on opposite sides of the resting point: half their distance is the error, free of
the resting point's own inaccuracy; after each step it is set back to its first length, so that the ratio of successive
errors can settle however slow or fast the descent is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from tokenward.lab.rates.curvature_terms import centered
from tokenward.lab.solving.descent import iterate, minimize
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe

MOST_PARAMETERS = 2000
_APART = 1e-3  # distance of the differences, in logits
_NEAR = 1e-4  # length of the errors whose ratio is taken
_FLAT = 1e-9  # of the largest eigenvalue: what counts as a direction without any slope
_SETTLED = 1e-7  # relative change of 1 − ratio from one step to the next
_MOST_STEPS = 500
_GONE = 1e-6  # a step that leaves less of an error leaves rounding


@final
@dataclass(frozen=True)
class Measured:
    """Smallest and largest eigenvalue of the update's derivative (real parts, without flat directions).

    `contraction`: the ratio of successive errors of gradient descent with this step, where it settled.
    """

    step: float
    smallest: float
    largest: float
    contraction: float


def measure(problem: Problem, *, step: float | None) -> Measured | None:
    """At the problem's parameters, which are at rest; step None: 1/λ_max. None where no direction has a slope."""
    here, basis = problem.vector(), _basis(problem)
    values, axes = torch.linalg.eig(basis.T @ _derivative(problem, here, basis))
    size = values.abs()
    sloped = size > _FLAT * size.max()
    if float(size.max()) == 0 or not bool(values.isfinite().all()):
        return None
    values, axes = values[sloped], axes[:, sloped]
    real = values.real.sort().values
    step = 1 / float(real[-1]) if step is None else step
    slowest = int((1 - step * values).abs().argmax())
    ratio = _run(problem, here, basis, axes[:, slowest], step)
    problem.move_to(here)
    return Measured(step, float(real[0]), float(real[-1]), ratio)


def exact_steps(
    recipe: Recipe, world: World, law: Float[Tensor, "X L"], *, guide: Float[Tensor, "X L"] | None, eta: float | None
) -> float:
    """The contraction of the recipe's exact proximal steps near `law`: each solved to its end from the policy before.

    Errors are those of log π, centered in each prompt; two runs from opposite sides, as for gradient descent.
    """
    rng = torch.Generator().manual_seed(0)
    error = torch.randn(law.shape, generator=rng, dtype=torch.float64)
    error = error - error.mean(-1, keepdim=True)
    last = ratio = float("nan")
    for _ in range(20):
        error = error / error.norm() * _NEAR
        ends = [_proximal(recipe, world, torch.softmax(law.log() + side * error, -1), guide, eta) for side in (1, -1)]
        after = (ends[0] - ends[1]) / 2
        after = after - after.mean(-1, keepdim=True)
        last, ratio = ratio, float(after.norm() / error.norm())
        if abs(ratio - last) <= 1e-6 or ratio < 1e-6:
            break
        error = after
    return ratio


def _proximal(
    recipe: Recipe, world: World, law: Float[Tensor, "X L"], guide: Float[Tensor, "X L"] | None, eta: float | None
) -> Float[Tensor, "X L"]:
    """log π after one exact step from this policy."""
    before = policy_with(law, tree=world.tree)
    problem = Problem(recipe, world, guide=guide, old=before)
    with torch.no_grad():
        problem.logits.copy_(before.logits)
    problem.freeze_batch()
    if eta is None:
        minimize(problem)
    else:
        iterate(problem, size=eta)
    return torch.log(problem.policy().law().detach())


def _basis(problem: Problem) -> Float[Tensor, "N K"]:
    """All parameters but the shifts of each state's logits, which change no policy."""
    blocks = []
    for parameter in problem.parameters:
        if parameter is problem.logits:
            states = parameter.numel() // parameter.shape[-1]
            blocks.append(torch.block_diag(*[centered(parameter.shape[-1])] * states))
        else:
            blocks.append(torch.eye(parameter.numel(), dtype=torch.float64))
    whole: Tensor = torch.block_diag(*blocks)
    return whole


def _slope(problem: Problem, where: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    problem.move_to(where)
    return torch.cat([part.detach().flatten() for part in problem.gradient()])


def _derivative(problem: Problem, here: Float[Tensor, " N"], basis: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """∂g/∂θ along each direction, by central differences at two distances (error of fourth order)."""
    columns = []
    for axis in basis.T:
        near, far = (
            (_slope(problem, here + h * axis) - _slope(problem, here - h * axis)) / (2 * h)
            for h in (_APART, 2 * _APART)
        )
        columns.append((4 * near - far) / 3)
    return torch.stack(columns, -1)


def _run(
    problem: Problem, here: Float[Tensor, " N"], basis: Float[Tensor, "N K"], axis: Complex[Tensor, " K"], step: float
) -> float:
    """The ratio of successive errors from the slowest direction on, where 1 − ratio has settled."""
    error = basis @ (axis.real if float(axis.real.norm()) >= float(axis.imag.norm()) else axis.imag)
    last = ratio = float("nan")
    for _ in range(_MOST_STEPS):
        error = error / error.norm() * _NEAR
        up, down = _slope(problem, here + error), _slope(problem, here - error)
        after = error - step * (up - down) / 2
        after = basis @ (basis.T @ after)
        last, ratio = ratio, float(after.norm() / error.norm())
        if ratio < _GONE or abs(ratio - last) <= _SETTLED * abs(1 - ratio):
            break
        error = after
    return ratio
