"""Any recipe to its optimum or fixed point on a world, in float64.

Fixed sampler, or one that the gradient passes through: L-BFGS on the value, from π_ref. Samples of the current policy:
θ ← θ − s·F⁻¹g, g the expected update and F the Fisher matrix of each state; the value is not the potential of g, so there
is no line search, and s follows the residual max |F⁻¹g|. With the KL in the reward, a token sum and s = 1/τ this is
soft policy iteration.

Two changes of the recipe, both documented with the answer. The division of advantages by their standard deviation is left
out where it is one positive number for everything that moves the policy: it is 0/0 at the optimum and does not move it.
For `Whiten` it is left out with a KL in the loss too; there it would turn the temperature β into β·std.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.policy import Models, TabularPolicy, batch_of, policy_with, stats_of, stream_kind
from tokenward.lab.world import World
from tokenward.objective.advantages import GroupScale, Whiten
from tokenward.objective.links import Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import PairTerm, RowTerm, Term, TokenTerm
from tokenward.types import Batch, Signal

GRADIENT_LIMIT = 1e-10  # where L-BFGS stops
CONVERGED = 1e-8  # the residual that counts as an optimum
MOVES = frozenset({"logp", "kl_ref", "entropy"})  # fields through which a term moves the policy


@final
@dataclass(frozen=True)
class Solution:
    """Where the recipe came to rest: the law of the policy, or a reward model's scores; `residual` is what is left."""

    law: Float[Tensor, "X L"]
    score: Float[Tensor, "X L"] | None
    residual: float
    steps: int

    @property
    def converged(self) -> bool:
        return self.residual <= CONVERGED


def moving(recipe: Recipe) -> tuple[Term, ...]:
    """The terms that move the policy."""
    return tuple(term for term in recipe.terms if term.needs & MOVES)


def is_one_step(recipe: Recipe) -> bool:
    """Whether the recipe, without any pull to the reference, is one proximal step from the policy that sampled."""
    if stream_kind(recipe) != "rollouts" or any("ref_logp" in part.needs for part in (*recipe.steps, *recipe.terms)):
        return False
    return len(moving(recipe)) == 1 and all(
        isinstance(term, PairTerm) or (isinstance(term, (RowTerm, TokenTerm)) and isinstance(term.link, Mirror))
        for term in moving(recipe)
    )


def follows_policy(recipe: Recipe, world: World) -> bool:
    """Whether the rows are drawn from the current policy, without gradient through the sampling."""
    kind = stream_kind(recipe)
    if kind == "rollouts":
        return not is_one_step(recipe)
    drawn = [p for p in world.prompts if kind in ("labels", "scores") or (kind == "pairs" and p.pairs == "sampler")]
    return "logp" in recipe.trained and any(p.sampler == "policy" for p in drawn if isinstance(p.sampler, str))


def unscaled(recipe: Recipe) -> Recipe:
    """The recipe without the division of advantages by their standard deviation, where the lab leaves it out."""
    alone = all("advantage" in term.reads for term in moving(recipe))
    steps = [Whiten(scale="none") if isinstance(step, Whiten) else step for step in recipe.steps]
    return replace(recipe, steps=tuple(step for step in steps if not (alone and isinstance(step, GroupScale))))


@final
class Problem:
    """One recipe on one world: parameters, and the recipe's value as a function of them."""

    def __init__(self, recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None) -> None:
        self.recipe, self.world, self.guide = unscaled(recipe), world, guide
        self.logits = policy_with(world.ref, tree=world.tree).logits.clone().requires_grad_()
        learns = {"value", "model_score"} & recipe.trained - ({"value"} if "old_value" in recipe.needs else set())
        prompts = len(world.prompts)
        self.value = _zeros(prompts) if "value" in learns else None
        self.score = _zeros(prompts, world.tree.leaves) if "model_score" in learns else None
        self.batch: Batch | None = None

    @property
    def parameters(self) -> list[Tensor]:
        moved = [self.logits] if "logp" in self.recipe.trained or "kl_ref" in self.recipe.trained else []
        return moved + [extra for extra in (self.value, self.score) if extra is not None]

    def policy(self) -> TabularPolicy:
        return TabularPolicy(self.world.tree, self.logits)

    def loss(self, old: TabularPolicy | None = None) -> Float[Tensor, ""]:
        """The recipe's value; `old` is the policy that sampled, by default the current one."""
        policy = self.policy()
        batch = self.batch or batch_of(self.recipe, self.world, (old or policy).law())
        models = Models(policy, old or policy, self.guide, self.value, self.score)
        stats = stats_of(self.recipe, self.world, batch, models)
        return self.recipe.value(batch, stats, Signal(point=torch.zeros(batch.rows, dtype=torch.float64)))

    def gradient(self, old: TabularPolicy | None = None) -> tuple[float, list[Tensor]]:
        value = self.loss(old)
        return float(value), list(torch.autograd.grad(value, self.parameters))


def solve(recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None = None, rounds: int = 0) -> Solution:
    """Where the recipe comes to rest on the world; `guide` is the law of RTO's guide. `rounds` 0: the usual patience."""
    problem = Problem(recipe, world, guide=guide)
    if follows_policy(recipe, world):
        residual, steps = _iterate(problem, limit=rounds or 2000)
    else:
        fixed = policy_with(world.ref, tree=world.tree) if is_one_step(recipe) else None
        if fixed is not None or not _through(recipe, world):
            problem.batch = batch_of(problem.recipe, world, (fixed or problem.policy()).law().detach())
        residual, steps = _minimize(problem, fixed, limit=rounds or 40)
    with torch.no_grad():
        score = None if problem.score is None else problem.score - problem.score.mean(-1, keepdim=True)
        return Solution(problem.policy().law(), score, residual, steps)


def _through(recipe: Recipe, world: World) -> bool:
    kind = stream_kind(recipe)
    return any(
        isinstance(p.sampler, str) and p.sampler == "policy-through" and (kind != "pairs" or p.pairs == "sampler")
        for p in world.prompts
    )


def _minimize(problem: Problem, old: TabularPolicy | None, *, limit: int) -> tuple[float, int]:
    """L-BFGS with restarts; then, where the value has no digits left to search along, L-BFGS without line search."""
    steps = 0
    best = _norm(problem.gradient(old)[1])
    for search in ("strong_wolfe", None):
        idle = 0
        for _ in range(limit):
            if best <= GRADIENT_LIMIT or idle >= 3:
                break
            before = [p.detach().clone() for p in problem.parameters]
            steps += _lbfgs(problem, old, line_search=search)
            norm = _norm(problem.gradient(old)[1])
            if search is None and not norm < best:  # the search without a line can leave the basin: take it back
                _restore(problem, before)
                break
            idle = idle + 1 if norm > 0.5 * best else 0
            best = norm
    return best, steps


def _lbfgs(problem: Problem, old: TabularPolicy | None, *, line_search: str | None) -> int:
    patience = 100 if line_search else 20
    optimizer = torch.optim.LBFGS(
        problem.parameters,
        max_iter=patience,
        history_size=50,
        tolerance_grad=GRADIENT_LIMIT / 10,
        tolerance_change=0.0,
        line_search_fn=line_search,
    )
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        value = problem.loss(old)
        for parameter, slope in zip(problem.parameters, torch.autograd.grad(value, problem.parameters), strict=True):
            parameter.grad = slope
        return value.detach()

    step: Callable[[Callable[[], Tensor]], object] = optimizer.step
    step(closure)
    return calls


def _iterate(problem: Problem, *, limit: int) -> tuple[float, int]:
    """θ ← θ − s·F⁻¹g: s grows while the residual falls, and is halved where it rises; a step that doubles it is undone."""
    size = 1 / problem.world.tau
    move = _natural(problem)
    residual = _norm(move)
    steps = 0
    while residual > GRADIENT_LIMIT and steps < limit and size > 1e-12:
        steps += 1
        before = [p.detach().clone() for p in problem.parameters]
        with torch.no_grad():
            for parameter, direction in zip(problem.parameters, move, strict=True):
                parameter -= size * direction
        ahead = _natural(problem)
        now = _norm(ahead)
        if not now <= 2 * residual:
            _restore(problem, before)
            size /= 4
            continue
        size *= 1.2 if now < residual else 0.5
        move, residual = ahead, now
    return residual, steps


def _natural(problem: Problem) -> list[Tensor]:
    """F⁻¹g of each state's logits, F = visitation × (diag π − ππᵀ); of other parameters g over the prompt's weight."""
    slopes = problem.gradient()[1]
    with torch.no_grad():
        policy, world = problem.policy(), problem.world
        law = policy.law()
        visits = world.weight[:, None] * world.tree.visitation(law)
        found = []
        for parameter, slope in zip(problem.parameters, slopes, strict=True):
            if parameter is problem.logits:
                direction = slope / (visits[..., None] * policy.table().exp())
                found.append(direction - direction.mean(-1, keepdim=True))
            else:
                found.append(slope / world.weight.reshape(-1, *[1] * (slope.ndim - 1)))
        return found


def _norm(slopes: list[Tensor]) -> float:
    largest = max(float(slope.abs().max()) for slope in slopes)
    return largest if largest == largest else float("inf")  # NaN is as far from an optimum as can be


def _restore(problem: Problem, values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(problem.parameters, values, strict=True):
            parameter.copy_(value)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
