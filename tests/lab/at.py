"""A recipe's value and gradient at a given policy of a world."""

from __future__ import annotations

import numpy as np
import torch

from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.worlds.world import World
from tokenward.recipes import build


def at(name: str, world: World, law, *, guide=None, old=None, **settings) -> Problem:
    """The problem of a recipe, with its logits at the policy of this law (the first prompt's, if one is given)."""
    laws = torch.as_tensor(np.asarray(law), dtype=torch.float64).reshape(-1, world.tree.leaves)
    fixed = None if old is None else policy_with(torch.as_tensor(np.asarray(old)).reshape(laws.shape), tree=world.tree)
    guides = None if guide is None else torch.as_tensor(np.asarray(guide)).reshape(laws.shape)
    problem = Problem(build(name, **settings), world, guide=guides, old=fixed)
    with torch.no_grad():
        problem.logits.copy_(policy_with(laws, tree=world.tree).logits)
    return problem


def value(name: str, world: World, law, **settings) -> float:
    with torch.no_grad():
        return float(at(name, world, law, **settings).loss())


def slope(name: str, world: World, law, **settings) -> np.ndarray:
    """The derivative by the logits; [V] for a bandit, else [X S V]."""
    problem = at(name, world, law, **settings)
    found = torch.autograd.grad(problem.loss(), problem.logits)[0].numpy()
    return found[0, 0] if world.tree.horizon == 1 and len(found) == 1 else found
