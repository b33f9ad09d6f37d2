"""An update under a constraint: as low a surrogate loss as a mean KL of at most δ allows. See objective/updates.py.

Its metrics, besides those of every update:

    trust/kl            realized mean KL(π_old‖π) of the step, nats per token, exact over the vocabulary; never above δ
    trust/step          share of the first trial's length that was taken; 0: no trial would do, and the policy stayed
    trust/improvement   by how much the surrogate loss fell, in its units
    trust/cg_residual   ‖∇L − (F + λI)d‖ / ‖∇L‖ where conjugate gradient stopped
    trust/ratio_max     largest π/π_old of a token after the step

`policy/kl_old` and `policy/ratio_max` are, as in every update, of the policy before the step: 0 and 1 here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data.collate import split
from tokenward.masking import keep, row_sum
from tokenward.models.curvature import fisher_product, flat, move, trained
from tokenward.models.roles import Roles
from tokenward.objective.fields import POLICY_FIELDS
from tokenward.objective.recipe import Recipe
from tokenward.objective.updates import ConstrainedStep
from tokenward.objective.weights import divisor
from tokenward.train import coupled
from tokenward.train.config import RunConfig
from tokenward.train.critic_first import alone
from tokenward.train.runtime import Runtime
from tokenward.train.update import Learner, Outcome, Piece
from tokenward.types import stream_weight

Vector = Float[Tensor, " N"]


@final
@dataclass(frozen=True)
class Trial:
    """What a policy is worth: surrogate loss, mean KL(π_old‖π) in nats per token, largest ratio of a token."""

    loss: float
    kl: float
    ratio_max: float


@final
class ConstrainedLearner:
    """Moves the policy by constrained steps, and a critic on weights of its own by the optimizer."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        roles: Roles,
        optimizer: torch.optim.Optimizer,
        runtime: Runtime,
        config: RunConfig,
        where: Callable[[int], str] = str,
    ) -> None:
        assert isinstance(recipe.update, ConstrainedStep)  # the caller chose by it
        self.rule, self.roles, self.config, self._optimizer = recipe.update, roles, config, optimizer
        moving = tuple(term for term in recipe.terms if term.needs & POLICY_FIELDS)
        critic = alone(recipe)

        def learner(part: Recipe) -> Learner:
            return Learner(part, roles=roles, optimizer=optimizer, runtime=runtime, config=config, where=where)

        self._policy = learner(replace(recipe, terms=moving))
        self._critic = None if critic is None else learner(critic)

    def step(self, piece: Piece) -> Outcome:
        """One constrained step of the policy, then the critic's steps, on the same rows."""
        self.roles.remember()
        outcome, _ = self._policy.accumulate(piece)
        slope = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in trained(self.roles.policy)])
        self._optimizer.zero_grad(set_to_none=True)
        values = outcome.values | self._constrained(piece, slope)
        loss = outcome.loss
        for number in range(self.rule.critic_updates if self._critic is not None else 0):
            assert self._critic is not None  # the range is empty then
            fitted = self._critic.step(piece)
            if number == 0:
                values, loss = fitted.values | values, loss + fitted.loss
        self._optimizer.zero_grad(set_to_none=True)
        return Outcome(loss, outcome.grad_norm, values, outcome.tokens)

    def _constrained(self, piece: Piece, slope: Vector) -> dict[str, float]:
        """Move the policy as far as the constraint allows along −(F + λI)⁻¹∇L; what came of it."""
        direction, left = conjugate_gradient(self._damped_fisher(piece), slope, steps=self.rule.cg_steps)
        curvature = float(direction @ (slope - left))  # dᵀ(F + λI)d, as left = ∇L − (F + λI)d
        size = float(slope.norm())
        told = {"trust/cg_residual": float(left.norm()) / size if size else 0.0}
        start = self._try(piece)
        if curvature > 0 and math.isfinite(curvature):
            length = math.sqrt(2 * self.rule.max_kl / curvature)
            for backtrack in range(self.rule.backtracks):
                share = self.rule.shrink**backtrack
                self.roles.go_back()
                move(self.roles.policy, direction, by=-share * length)
                now = self._try(piece)
                if now.kl <= self.rule.max_kl and now.loss < start.loss:
                    return told | _told(now, share=share, improvement=start.loss - now.loss)
            self.roles.go_back()
        return told | _told(start, share=0.0, improvement=0.0)

    def _damped_fisher(self, piece: Piece) -> Callable[[Vector], Vector]:
        """v ↦ (F + λI)v, F the mean over the trainable tokens of the rows."""
        batch = piece.batch
        weight = stream_weight(batch, 0)
        total = divisor(batch.mask, weight, aggregation="token_mean")

        def product(vector: Vector) -> Vector:
            found = fisher_product(
                self.roles.policy,
                batch,
                vector,
                weight=weight / total,
                temperature=self.roles.temperature,
                micro_tokens=self.config.micro_tokens,
            )
            return found + self.rule.damping * vector

        return product

    @torch.no_grad()
    def _try(self, piece: Piece) -> Trial:
        """The surrogate and the KL of the policy as it is now, over all rows; no gradient."""
        recipe, batch = self._policy.recipe, piece.batch
        fields = recipe.trained | {"logp", "kl_of_old"}
        parts = split(batch, max_tokens=self.config.micro_tokens, scope="row")
        now = coupled.gathered(batch, parts, lambda rows: self.roles.current(rows, fields))
        divergence = now.pop("kl_of_old")
        stats = replace(piece.frozen, **now)
        loss = recipe.loss(recipe.sums(batch, stats, piece.signal), recipe.weights(batch))
        weight = stream_weight(batch, 0)
        total = divisor(batch.mask, weight, aggregation="token_mean")
        kl = (weight * row_sum(divergence, batch.mask)).sum() / total
        ratio = 1.0
        if stats.old_logp is not None and stats.logp is not None:
            ratio = float(keep(stats.logp - stats.old_logp, batch.mask).max().exp())
        return Trial(float(loss), float(kl), ratio)


def conjugate_gradient(product: Callable[[Vector], Vector], target: Vector, *, steps: int) -> tuple[Vector, Vector]:
    """(x, target − A x) with A x ≈ target, for a positive definite A given by its products; one product a step.

    >>> x, left = conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 2.0]), steps=2)
    >>> [round(float(number), 4) for number in (*x, left.norm())]
    [1.0, 0.5, 0.0]
    """
    found, left = torch.zeros_like(target), target.clone()
    along = left.clone()
    size = float(left @ left)
    for _ in range(steps):
        if not size > 0:
            break
        ahead = product(along)
        curvature = float(along @ ahead)
        if not curvature > 0:  # no damping, and a direction that moves no probability
            break
        step = size / curvature
        found, left = found + step * along, left - step * ahead
        size, before = float(left @ left), size
        along = left + size / before * along
    return found, left


def _told(now: Trial, *, share: float, improvement: float) -> dict[str, float]:
    return {
        "trust/kl": now.kl,
        "trust/step": share,
        "trust/improvement": improvement,
        "trust/ratio_max": now.ratio_max,
    }
