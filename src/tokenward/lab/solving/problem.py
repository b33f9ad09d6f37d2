"""One recipe on one world: its parameters, its value as a function of them, and the gradient in two metrics."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.policy import Models, TabularPolicy, batch_of, log_linear, policy_with, stats_of
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.types import Batch, Signal

_TOGETHER = 64  # rows of the Hessian in one backward pass


@final
class Problem:
    """Logits of the policy, from π_ref; a learned value of each prompt or a reward model's scores, from 0, if trained.

    A world with features has θ, from 0, in place of the logits: π ∝ π_ref·exp(φ·θ); scores φ·ψ in place of free ones.
    `old` is the policy that samples; None: the current one. `batch` is built anew for each value unless it is kept with
    `freeze_batch`.
    """

    def __init__(
        self, recipe: Recipe, world: World, *, guide: Float[Tensor, "X L"] | None, old: TabularPolicy | None
    ) -> None:
        self.recipe, self.world, self.guide, self.old = recipe, world, guide, old
        self.features = world.features
        self.logits = policy_with(world.ref, tree=world.tree).logits.clone().requires_grad_()
        self.theta = None if self.features is None else _zeros(self.features.shape[-1])
        learns = recipe.trained - (
            {"value"} if "old_value" in recipe.needs else set()
        )  # a critic is exact, not learned
        prompts, leaves = len(world.prompts), world.tree.leaves
        self.value = _zeros(prompts) if "value" in learns else None
        shape = (prompts, leaves) if self.features is None else (self.features.shape[-1],)
        self.head = _zeros(*shape) if "model_score" in learns else None
        self._batch: Batch | None = None

    @property
    def parameters(self) -> list[Tensor]:
        moved = [self._own] if self.recipe.trained - {"value", "model_score"} else []
        return moved + [extra for extra in (self.value, self.head) if extra is not None]

    @property
    def _own(self) -> Tensor:
        """What moves the policy."""
        return self.logits if self.theta is None else self.theta

    @property
    def score(self) -> Float[Tensor, "X L"] | None:
        """A reward model's scores."""
        return self.head if self.head is None or self.features is None else self.features @ self.head

    def policy(self) -> TabularPolicy:
        if self.features is not None and self.theta is not None:
            return log_linear(self.world, self.features, self.theta)
        return TabularPolicy(self.world.tree, self.logits)

    def freeze_batch(self) -> None:
        """Keep the batch as it is now: its weights no longer follow the policy."""
        with torch.no_grad():
            self._batch = batch_of(self.recipe, self.world, (self.old or self.policy()).law())

    def loss(self) -> Float[Tensor, ""]:
        """The recipe's value at the current parameters."""
        policy = self.policy()
        old = self.old or policy
        batch = self._batch or batch_of(self.recipe, self.world, old.law())
        stats = stats_of(self.recipe, self.world, batch, Models(policy, old, self.guide, self.value, self.score))
        return self.recipe.value(batch, stats, Signal(point=torch.zeros(batch.rows, dtype=torch.float64)))

    def gradient(self) -> list[Tensor]:
        """The derivative of the value by each parameter."""
        return list(torch.autograd.grad(self.loss(), self.parameters))

    def natural_gradient(self) -> list[Tensor]:
        """F⁻¹g: F = visitation × (diag π − ππᵀ) for each state's logits, the prompt's weight for other parameters.

        For θ: F = the covariance of φ under π, a mean over prompts; what it cannot see does not move.
        """
        slopes = self.gradient()
        with torch.no_grad():
            policy, world = self.policy(), self.world
            law = policy.law()
            found = []
            for parameter, slope in zip(self.parameters, slopes, strict=True):
                if parameter is self.theta and self.features is not None:
                    centered = self.features - (law[..., None] * self.features).sum(1, keepdim=True)
                    fisher = torch.einsum("x,xl,xlf,xlg->fg", world.weight, law, centered, centered)
                    found.append(torch.linalg.pinv(fisher, hermitian=True) @ slope)
                elif parameter is self.logits:
                    visits = world.weight[:, None] * world.tree.visitation(law)
                    direction = slope / (visits[..., None] * policy.table().exp())
                    found.append(direction - direction.mean(-1, keepdim=True))
                else:
                    found.append(slope / world.weight.reshape(-1, *[1] * (slope.ndim - 1)))
            return found

    def gradient_and_hessian(self) -> tuple[Float[Tensor, " N"], Float[Tensor, "N N"]]:
        """Both over all parameters in one vector."""
        slopes = torch.autograd.grad(self.loss(), self.parameters, create_graph=True)
        flat = torch.cat([slope.flatten() for slope in slopes])
        rows = []
        for some in torch.eye(len(flat), dtype=torch.float64).split(_TOGETHER):
            second = torch.autograd.grad(
                flat, self.parameters, some, is_grads_batched=True, retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([part.flatten(1) for part in second], dim=-1))
        return flat.detach(), torch.cat(rows)

    def vector(self) -> Float[Tensor, " N"]:
        """A copy of all parameters in one vector."""
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters])

    def move_to(self, vector: Float[Tensor, " N"]) -> None:
        """Set all parameters."""
        with torch.no_grad():
            for parameter, part in zip(
                self.parameters, vector.split([p.numel() for p in self.parameters]), strict=True
            ):
                parameter.copy_(part.view_as(parameter))


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
