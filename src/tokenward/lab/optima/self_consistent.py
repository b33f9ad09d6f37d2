"""Fixed points of advantages that are divided by their own standard deviation: the temperature is β·(σ_π + ε).

With a KL in the loss and A/(σ_π + ε) in place of A, the pull β is β·(σ_π + ε) in reward units, and σ_π is the spread
under the policy that it leads to: a root of σ = spread(policy at β·(σ + ε)). In bandits the flow from π_ref stays on
the policies π_ref·exp(u r), u̇ = 1/(σ(u) + ε) − β u, and stops at the first root, that of the largest σ. On trees
the flow need not reach such a root (some run away from it), and nothing is predicted. Without a root the policy
collapses on the best answer.

GroupScale divides by the spread of each prompt (here: in the limit of large groups), Whiten by that of the batch.
Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.solving.reading import scales
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GAE, GroupBaseline, GroupScale, SequenceReturn, Whiten

LawAt = Callable[[Float[Tensor, " X"]], Float[Tensor, "X L"]]  # the law of each prompt at its temperature
SMALLEST = 1e-3  # a σ below this part of the range of rewards counts as collapse
_POINTS = 200


def advantages(
    recipe: Recipe, world: World, law: Float[Tensor, "X L"], reward: Float[Tensor, "X S V"]
) -> Float[Tensor, "B T"]:
    """A_t of each leaf's tokens under the law before any division, for token rewards without a KL and γ = 1."""
    tree = world.tree
    gae = next((step for step in recipe.steps if isinstance(step, GAE)), None)
    value = torch.zeros(len(law), tree.states, dtype=law.dtype)
    if gae is not None:
        known = torch.tensor([prompt.critic == "exact" for prompt in world.prompts])
        value = torch.where(known[:, None], exact.values(tree, tree.conditional(law), reward)[1], 0.0)
    delta = tree.rows(reward + tree.ahead(value) - value[..., None])
    found = torch.zeros_like(delta)
    ahead = torch.zeros_like(delta[:, 0])
    for t in reversed(range(tree.horizon)):
        ahead = delta[:, t] + (1.0 if gae is None else gae.lam) * ahead
        found[:, t] = ahead
    if any(isinstance(step, SequenceReturn) for step in recipe.steps):
        found = found[:, :1].expand(found.shape)
    if any(isinstance(step, GroupBaseline) for step in recipe.steps):
        mean = (law * found[:, 0].reshape(law.shape)).sum(-1)
        found = found - mean.repeat_interleave(tree.leaves)[:, None]
    return found


def spread(
    recipe: Recipe, world: World, law: Float[Tensor, "X L"], reward: Float[Tensor, "X S V"]
) -> Float[Tensor, " X"]:
    """σ: of the batch over all tokens (Whiten), or of each prompt over its answers (GroupScale)."""
    found = advantages(recipe, world, law, reward)
    if isinstance(scales(recipe)[0], GroupScale):
        total = found[:, 0].reshape(law.shape)
        mean = (law * total).sum(-1, keepdim=True)
        return (law * (total - mean) ** 2).sum(-1).sqrt()
    weight = (world.weight[:, None] * law).flatten()[:, None] * world.tree.mask.repeat(len(law), 1)
    mean = (weight * found).sum() / weight.sum()
    return ((weight * (found - mean) ** 2).sum() / weight.sum()).sqrt().expand(len(law))


def roots(gap: Callable[[float], float], *, low: float, high: float) -> list[float]:
    """The zeros of gap in [low, high], largest first: sign changes on a geometric grid, then bisection.

    >>> [round(x, 9) for x in roots(lambda x: (x - 1) * (x - 3), low=0.1, high=10.0)]
    [3.0, 1.0]
    """
    grid = [high * (low / high) ** (i / (_POINTS - 1)) for i in range(_POINTS)]
    signs = [gap(x) for x in grid]
    found = []
    for right, left, here, there in zip(grid, grid[1:], signs, signs[1:]):
        if here == 0:
            found.append(right)
        elif here * there < 0:
            for _ in range(80):
                middle = math.sqrt(left * right)
                left, right = (left, middle) if gap(middle) * here > 0 else (middle, right)
            found.append(math.sqrt(left * right))
    return found


def self_consistent(
    recipe: Recipe, world: World, law_at: LawAt, reward: Float[Tensor, "X S V"], *, beta: float
) -> Float[Tensor, "X L"] | None:
    """The law at the largest σ = spread(law at β·(σ + ε)); None where a prompt has none and collapses."""
    scale = scales(recipe)[0]
    prompts = range(len(world.prompts)) if isinstance(scale, GroupScale) else range(1)
    sigma = torch.zeros(len(world.prompts), dtype=torch.float64)
    widest = max(float(world.reward.max() - world.reward.min()), float(reward.max() - reward.min()))
    for i in prompts:
        if float(spread(recipe, world, world.ref, reward)[i]) <= 1e-12 * (widest + float(world.reward.abs().max())):
            continue  # all answers are as good: no advantage, no move

        def gap(x: float, i: int = i) -> float:
            law = law_at(torch.full_like(sigma, beta * (x + scale.eps)))
            return float(spread(recipe, world, law, reward)[i]) - x

        found = roots(gap, low=SMALLEST * widest, high=widest * world.tree.horizon)
        if not found:
            return None
        sigma[i] = found[0]
    if isinstance(scale, Whiten):
        sigma = sigma[0].expand(len(sigma))
    return law_at(beta * (sigma + scale.eps))


def k3_bandit(
    ref: Float[Tensor, "X L"], reward: Float[Tensor, "X L"], temperature: Float[Tensor, " X"]
) -> Float[Tensor, "X L"]:
    """The fixed point of a k3 loss for single tokens, on-policy without a ratio: π = π_ref·β/(λ − r), λ by Σπ = 1.

    Bisection on λ − max r, between β·π_ref of the best answer and β, as the sum falls in λ. Derived here.
    """
    best, place = reward.max(-1, keepdim=True)
    low, high = temperature * ref.gather(-1, place).squeeze(-1), temperature.clone()
    for _ in range(64):
        middle = (low + high) / 2
        over = (ref * temperature[:, None] / (middle[:, None] + best - reward)).sum(-1) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    law = ref * temperature[:, None] / (high[:, None] + best - reward)
    return law / law.sum(-1, keepdim=True)
