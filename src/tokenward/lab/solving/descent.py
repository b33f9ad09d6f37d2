"""How the lab finds where a recipe comes to rest: two descents and the residual that each leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.problem import Problem

CONVERGED = 1e-8  # the residual that counts as an optimum
_ENOUGH = 1e-13  # below it there are no digits left
_MOST_FOR_NEWTON = 1000  # parameters
_FLAT = 1e-12  # curvature, relative to the largest, that counts as none: gauge directions, leaves never seen


def minimize(problem: Problem, *, unit: float = 1.0) -> tuple[float, int]:
    """L-BFGS on the value, then Newton steps, again if need be; the largest slope left ÷ unit, and the evaluations.

    Too many parameters for Newton: L-BFGS alone, restarted as long as that helps. `unit`: β where the loss sees β log π
    and β < 1, so that slopes by implicit rewards are what counts as small.
    """
    enough = unit * _ENOUGH
    best, steps = _largest(problem.gradient()), 0
    small = sum(parameter.numel() for parameter in problem.parameters) <= _MOST_FOR_NEWTON
    idle = 0
    while best > enough and idle < (2 if small else 6) and steps < 4000:
        before, here = best, problem.vector()
        steps += _lbfgs(problem, until=max(enough, 1e-3 * best) if small and steps == 0 else enough)
        if not bool(problem.vector().isfinite().all()):  # a step so long that it left the numbers
            problem.move_to(here)
            break
        best = _largest(problem.gradient())
        if small and best > enough:
            best, spent = _newton(problem, best, enough=enough)
            steps += spent
            if best <= unit * CONVERGED:
                break
        idle = idle + 1 if not best <= 0.5 * before else 0
    return best / unit, steps


def iterate(problem: Problem, *, size: float, limit: int = 2000) -> tuple[float, int]:
    """θ ← θ − s·F⁻¹g; the residual max |F⁻¹g| left, and the steps taken.

    s grows while the residual falls and is halved where it rises; a step that doubles it is undone. There is no search
    on the value: with samples of the current policy the value is not the potential of g.
    """
    move = problem.natural_gradient()
    residual, steps = _largest(move), 0
    while residual > 1e-3 * CONVERGED and steps < limit and size > 1e-12:
        steps += 1
        before = problem.vector()
        problem.move_to(before - size * torch.cat([direction.flatten() for direction in move]))
        ahead = problem.natural_gradient()
        now = _largest(ahead)
        if not now <= 2 * residual:
            problem.move_to(before)
            size /= 4
            continue
        size *= 1.2 if now < residual else 0.5
        move, residual = ahead, now
    return residual, steps


def follow(problem: Problem, *, size: float, limit: int = 2000) -> tuple[float, int]:
    """θ ← θ − s·F⁻¹g with one small s, whether the residual falls or not; the residual left, and the steps taken.

    For updates whose size does not say how far the end is, as of advantages divided by their own spread: there may be
    several points of rest, and the flow from π_ref knows which is its own. Near one, steps grow up to five-fold, and
    shrink where the residual rises. Ends when the policy runs away, too.
    """
    move = problem.natural_gradient()
    first = residual = _largest(move)
    now, steps = size, 0
    while residual > 1e-3 * CONVERGED and steps < limit:
        steps += 1
        before = problem.vector()
        problem.move_to(before - now * torch.cat([direction.flatten() for direction in move]))
        further = problem.natural_gradient()
        ahead = _largest(further)
        if not ahead <= 100 * first:
            problem.move_to(before)
            if ahead < float("inf") or now < 1e-6 * size:
                return residual, steps
            now /= 4  # a step so long that it left the numbers
            continue
        if residual < 3e-2 * first:
            now = min(1.1 * now, 5 * size) if ahead < residual else max(now / 2, size / 50)
        move, residual = further, ahead
    return residual, steps


def turn(problem: Problem, *, size: float, limit: int = 2000) -> tuple[float, int]:
    """θ ← θ − s·m(θ − s·m(θ)), m = F⁻¹g: steps along the update a step ahead; the residual left, and the updates seen.

    For games, whose updates turn round their point of rest where a judge's preferences are cyclic: a plain step leads
    outward there, this one inward (the extragradient method). s grows as long as the update ahead is like the one here.
    """
    move = problem.natural_gradient()
    residual, seen = _largest(move), 1
    while residual > 1e-3 * CONVERGED and seen < limit and size > 1e-12:
        here, now = problem.vector(), torch.cat([direction.flatten() for direction in move])
        problem.move_to(here - size * now)
        ahead = torch.cat([direction.flatten() for direction in problem.natural_gradient()])
        seen += 1
        if not _largest([ahead - now]) <= 0.7 * residual:
            problem.move_to(here)
            size /= 2
            continue
        problem.move_to(here - size * ahead)
        move = problem.natural_gradient()
        residual, seen, size = _largest(move), seen + 1, 1.2 * size
    return residual, seen


def climb(problem: Problem, *, limit: int = 50) -> tuple[float, int]:
    """θ ← θ − F⁻¹g/s, s = max |F⁻¹g| at the start, `limit` times: for updates that nothing pulls back; they never rest.

    The law runs towards a vertex, and ends where its numbers do.
    """
    move = problem.natural_gradient()
    residual = first = _largest(move)
    steps = 0
    while 0 < first < float("inf") and steps < limit:
        steps += 1
        before = problem.vector()
        problem.move_to(before - torch.cat([direction.flatten() for direction in move]) / first)
        move = problem.natural_gradient()
        if not _largest(move) <= 100 * first:
            problem.move_to(before)
            break
        residual = _largest(move)
    return residual, steps


def _lbfgs(problem: Problem, *, until: float) -> int:
    optimizer = torch.optim.LBFGS(
        problem.parameters,
        max_iter=100,
        history_size=50,
        tolerance_grad=until,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        value = problem.loss()
        for parameter, slope in zip(problem.parameters, torch.autograd.grad(value, problem.parameters), strict=True):
            parameter.grad = slope
        return value.detach()

    step: Callable[[Callable[[], Tensor]], object] = optimizer.step
    step(closure)
    return calls


def _newton(problem: Problem, residual: float, *, enough: float) -> tuple[float, int]:
    """Newton steps on |curvature|, halved until the value or the largest slope falls; the evaluations they took.

    They give the digits that L-BFGS cannot: its line search compares values, flat to the last digit long before slopes.
    """
    steps = 0
    while residual > enough and steps < 100:
        here, value = problem.vector(), float(problem.loss().detach())
        slope, hessian = problem.gradient_and_hessian()
        direction = _newton_direction(slope, hessian)
        steps += 2
        for halvings in range(8):
            problem.move_to(here - 0.5**halvings * direction)
            lower, now = float(problem.loss().detach()), _largest(problem.gradient())
            steps += 1
            if now < 0.9 * residual or value - lower > 1e-4 * 0.5**halvings * float(slope @ direction) > 1e-13:
                break
        else:
            problem.move_to(here)
            return residual, steps
        residual = now
    return residual, steps


def _newton_direction(slope: Float[Tensor, " N"], hessian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    if not bool(hessian.isfinite().all()):
        return slope
    curvature, axes = torch.linalg.eigh((hessian + hessian.T) / 2)
    size = curvature.abs()
    flat = size <= _FLAT * size.max()
    along = torch.where(flat, 0.0, (axes.T @ slope) / torch.where(flat, 1.0, size))
    direction: Tensor = axes @ along
    return direction


def _largest(slopes: list[Tensor]) -> float:
    largest = max(float(slope.abs().max()) for slope in slopes)
    return largest if largest == largest else float("inf")  # NaN is as far from an optimum as can be
