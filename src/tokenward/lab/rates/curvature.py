"""The eigenvalues of a recipe's loss where it comes to rest, in closed form: what sets the speed of gradient descent.

Near the resting point an update is g ≈ Jᵀ C J δθ, C the curvature in the leaves' log-probabilities
(curvature_terms.py) and J = ∂log π/∂θ: 1[a = b] − π(b|s) at each state on the way, I − 1πᵀ for single tokens, times
the features of a log-linear class. With λ an eigenvalue of JᵀCJ, an error shrinks by 1 − ηλ in each step η. No loss is
run. Following the organization of Su et al. 2025; statements and proofs ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.prediction import Prediction
from tokenward.lab.rates.curvature_terms import Curve, centered, curves, state_values
from tokenward.lab.solving.reading import sampled, unscaled
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.tree import Tree
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe

_FLAT = 1e-10  # of the largest eigenvalue: what counts as none where features are shared


@final
@dataclass(frozen=True)
class Modes:
    """Eigenvalues λ of one prompt (of all together, where they share features), ascending, without flat directions.

    `directions`: the change of the leaves' log π (of a reward model's scores), None where it is not worked out; `cause`
    says in words what sets the smallest λ.
    """

    values: Float[Tensor, " K"]
    directions: Float[Tensor, "L K"] | None
    cause: str

    @property
    def condition(self) -> float:
        """λ_max/λ_min."""
        return float(self.values[-1] / self.values[0])


def modes(recipe: Recipe, world: World, prediction: Prediction) -> tuple[Modes, ...] | None:
    """The modes of each prompt at the predicted policy; None where no closed form is known."""
    world = drawn(sampled(recipe, world))
    recipe = unscaled(recipe, world)
    if (by_state := state_values(recipe, world, prediction)) is not None:
        return tuple(Modes(values, None, cause) for values, cause in by_state) if world.features is None else None
    found = curves(recipe, world, prediction)
    if found is None:
        return None
    if world.features is not None:
        return _together(found, world.features, prediction.law)
    if prediction.law is None:  # scores of a reward model: every leaf has its own
        every = torch.eye(world.tree.leaves, dtype=torch.float64)
        return tuple(_alone(one, every) for one in found)
    return tuple(_alone(one, own) for one, own in zip(found, leaf_jacobian(world.tree, prediction.law), strict=True))


def leaf_jacobian(tree: Tree, law: Float[Tensor, "X L"]) -> Float[Tensor, "X L K"]:
    """∂log π(leaf)/∂θ in an orthonormal basis of each state's centered logits: K = L − 1 directions."""
    table = tree.conditional(law).exp()
    entry = torch.zeros(tree.leaves, tree.states, tree.vocab, dtype=torch.float64)
    row = torch.arange(tree.leaves)[:, None].expand(tree.state.shape)[tree.mask]
    entry[row, tree.state[tree.mask], tree.tokens[tree.mask]] = 1
    passed = entry.sum(-1, keepdim=True)
    return ((entry - passed * table[:, None]) @ centered(tree.vocab)).flatten(2)


def _alone(one: Curve, jacobian: Float[Tensor, "L K"]) -> Modes:
    leaves = len(jacobian)
    if len(one.matrix) > leaves:  # a learned value beside the policy
        jacobian = torch.block_diag(jacobian, torch.eye(len(one.matrix) - leaves, dtype=torch.float64))
    whole = jacobian.T @ one.matrix @ jacobian
    values, axes = torch.linalg.eigh((whole + whole.T) / 2)
    return Modes(values[one.flat :], (jacobian @ axes)[:leaves, one.flat :], one.cause)


def _together(
    found: tuple[Curve, ...], features: Float[Tensor, "X L F"], law: Float[Tensor, "X L"] | None
) -> tuple[Modes, ...] | None:
    """All prompts on shared features: Σ_x JᵀCJ, J = (I − 1πᵀ)φ; features alone for scores."""
    if any(len(one.matrix) > features.shape[1] for one in found):
        return None
    moved = features if law is None else features - (law[..., None] * features).sum(1, keepdim=True)
    whole = torch.stack([own.T @ one.matrix @ own for one, own in zip(found, moved, strict=True)]).sum(0)
    values = torch.linalg.eigvalsh((whole + whole.T) / 2)
    cause = "the features: the direction in which they tell the compared or drawn answers apart least"
    return (Modes(values[values > _FLAT * values[-1]], None, cause),)
