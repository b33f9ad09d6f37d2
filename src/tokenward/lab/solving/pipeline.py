"""Two models in a row, exactly: the first writes z after x, the second writes y and sees z alone.

What both reach together is a product π(z|x)·φ(y|z). Their joint optimum without that limit, all of what was written
before in sight, is π^τ(z, y|x) ∝ π_ref(z|x)·φ_ref(y|z)·exp(r(x, z, y)/τ). Derived here: π^τ is such a product iff its
φ(y|z, x) is the same for all x, that is iff r(x, z, y) = f(x, z) + g(z, y). Then joint DPO on Bradley–Terry labels of
all runs of a prompt ends at π^τ, both factors at its conditionals. Otherwise it ends at the product that predicts the
compared labels best, which depends on what is compared and has no more J_τ than the best product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.objective.recipe import Recipe
from tokenward.types import Batch, Signal, TokenStats

Laws = tuple[Float[Tensor, "X Z"], Float[Tensor, "Z Y"]]


@final
@dataclass(frozen=True)
class Pipeline:
    """Positive references π_ref(z|x) `[X Z]` and φ_ref(y|z) `[Z Y]`, the reward r `[X Z Y]`, τ; prompts are equal."""

    first: Float[Tensor, "X Z"]
    second: Float[Tensor, "Z Y"]
    reward: Float[Tensor, "X Z Y"]
    tau: float

    def __post_init__(self) -> None:
        if self.reward.shape != (*self.first.shape, self.second.shape[1]) or len(self.second) != self.first.shape[1]:
            shapes = [list(x.shape) for x in (self.first, self.second, self.reward)]
            raise InputError(f"a pipeline has references [X Z] and [Z Y] and a reward [X Z Y], got {shapes}")
        if not (self.tau > 0 and bool((self.first > 0).all()) and bool((self.second > 0).all())):
            raise InputError("a pipeline needs tau > 0 and references that are positive everywhere")

    @property
    def interaction(self) -> float:
        """max |r(x,z,y) − r(x′,z,y) − r(x,z,y′) + r(x′,z,y′)|: 0 iff r = f(x, z) + g(z, y), iff π^τ is a product."""
        apart = self.reward[:, None] - self.reward  # [X X Z Y]: r(x, z, y) − r(x′, z, y)
        return float((apart.amax(-1) - apart.amin(-1)).max())

    @property
    def target(self) -> Float[Tensor, "X Z Y"]:
        """π^τ, each prompt's runs summing to 1."""
        log = self.joint((self.first, self.second)).log() + self.reward / self.tau
        return log.flatten(1).softmax(-1).reshape(log.shape)

    def joint(self, laws: Laws) -> Float[Tensor, "X Z Y"]:
        """π(z|x)·φ(y|z)."""
        return laws[0][:, :, None] * laws[1]

    def value(self, law: Float[Tensor, "X Z Y"]) -> float:
        """J_τ = E[r] − τ·KL(law ‖ reference), the mean over prompts."""
        ratio = (law / self.joint((self.first, self.second))).log()
        return float((law * (self.reward - self.tau * ratio)).sum() / len(law))

    def best(self, *, rounds: int = 2000) -> Laws:
        """A product from which neither model alone can raise J_τ: the exact best answer of each to the other, in turn.

        φ(y|z) ∝ φ_ref·exp(Σ_x μ(x|z) r/τ), μ(x|z) ∝ π(z|x) · π(z|x) ∝ π_ref·exp((E_φ[r] − τ KL(φ‖φ_ref))/τ). J_τ rises
        at each turn; where r mixes x and y, other starts may end elsewhere.
        """
        first, second = self.first, self.second
        for _ in range(rounds):
            share = first / first.sum(0)
            second = (self.second.log() + torch.einsum("xz,xzy->zy", share, self.reward) / self.tau).softmax(-1)
            cost = self.tau * (second * (second / self.second).log()).sum(-1)
            first = (self.first.log() + ((second * self.reward).sum(-1) - cost) / self.tau).softmax(-1)
        return first, second

    def batch(self, weight: Float[Tensor, "R R"] | None = None) -> Batch:
        """Every run of every prompt as a unit of two rows, z after x and y after z; all runs of a prompt compared.

        P(first preferred) = σ(r − r′). `weight` of each comparison of runs, the same for every prompt; absent: 1.
        """
        x, z, y = self._runs()
        runs, one = len(x), torch.ones(2 * len(x), dtype=torch.long)
        tokens = torch.stack([torch.stack([x, z], -1), torch.stack([z, y], -1)], 1).flatten(0, 1)
        mask = torch.tensor([[False, True]]).expand(2 * runs, 2).contiguous()
        each = self.reward[0].numel()
        pairs = torch.cartesian_prod(torch.arange(each), torch.arange(each))
        every = torch.cat([pairs + each * prompt for prompt in range(len(self.reward))])
        score = self.reward.flatten()
        shares = torch.ones(each, each, dtype=score.dtype) if weight is None else weight
        return Batch(
            tokens=tokens,
            length=2 * one,
            mask=mask,
            group=x.repeat_interleave(2),
            weight=one.to(score.dtype),
            score=score.repeat_interleave(2),
            unit=torch.arange(runs).repeat_interleave(2),
            actor=torch.tensor([0, 1]).repeat(runs)[:, None].expand(2 * runs, 2).contiguous(),
            pairs=2 * every,
            pair_weight=shares.flatten().repeat(len(self.reward)),
            pair_target=torch.sigmoid(score[every[:, 0]] - score[every[:, 1]]),
        )

    def stats(self, laws: Laws) -> TokenStats:
        """log π and log π_ref of every row's token under the models that wrote them."""
        return TokenStats(logp=self._rows(laws), ref_logp=self._rows((self.first, self.second)))

    def _runs(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
        x, z, y = torch.cartesian_prod(*(torch.arange(n) for n in self.reward.shape)).unbind(-1)
        return x, z, y

    def _rows(self, laws: Laws) -> Float[Tensor, "B T"]:
        x, z, y = self._runs()
        own = torch.stack([laws[0].log()[x, z], laws[1].log()[z, y]], 1).flatten()
        return torch.stack([torch.zeros_like(own), own], -1)


def train(
    recipe: Recipe, world: Pipeline, *, weight: Float[Tensor, "R R"] | None = None, steps: int = 400
) -> tuple[Laws, float]:
    """Both models at the minimum of a loss on pairs, from their references; and the largest slope that is left."""
    batch = world.batch(weight)
    logits = [law.log().clone().requires_grad_() for law in (world.first, world.second)]
    optimizer = torch.optim.LBFGS(
        logits, max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def laws() -> Laws:
        return logits[0].softmax(-1), logits[1].softmax(-1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = recipe.loss(recipe.sums(batch, world.stats(laws()), Signal()), recipe.weights(batch))
        value.backward()
        return value

    optimizer.step(loss)
    loss()
    left = max(float(x.grad.abs().max()) for x in logits if x.grad is not None)
    first, second = laws()
    return (first.detach(), second.detach()), left
