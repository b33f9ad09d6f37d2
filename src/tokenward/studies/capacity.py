"""A policy class that does not hold π^τ: then it matters who wrote the answers."""

from __future__ import annotations

import torch

from tokenward.lab.optima import exact
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world import Labels, World
from tokenward.recipes import build
from tokenward.studies.study import Claim
from tokenward.studies.worlds import with_prompts

SOURCE = "derived here, for policies π ∝ π_ref·exp(θ·φ) with one feature φ"


def capacity_claims(world: World) -> list[Claim]:
    """With one feature for all answers, reward differences on own answers find the best J_τ of the class."""
    leaves = world.tree.leaves
    narrow = with_prompts(
        world,
        features=torch.linspace(0, 1, leaves, dtype=torch.float64)[:, None],
        labels=Labels(), pairs="uniform", sampler="reference",
    )  # fmt: skip
    skewed = torch.softmax(torch.linspace(3, 0, leaves, dtype=torch.float64), 0)
    best = _value(narrow, solve(build("reinforce", beta_kl=world.tau), narrow).law)
    own = _value(narrow, solve(build("rda", beta=world.tau, sampler="policy"), narrow).law)
    grid = _best_of_class(narrow)
    offline = {
        "DPO, uniform pairs": solve(build("dpo", beta=world.tau), narrow).law,
        "DPO, pairs of a skewed law": solve(
            build("dpo", beta=world.tau), with_prompts(narrow, pairs="sampler", sampler=skewed)
        ).law,
    }
    lost = {name: best - _value(narrow, law) for name, law in offline.items()}
    return [
        Claim(
            "If the policy class does not hold π^τ, reward differences on the policy's own answers still find what the "
            "policy gradient finds: the best J_τ of the class.",
            SOURCE,
            "best J_τ over a grid of 2,001 values of θ − J_τ of RDA on own answers, and that of the policy gradient",
            max(grid - own, abs(best - own)),
            at_most=1e-6,
        ),
        Claim(
            "Offline losses do not: they fit where the data lie.",
            SOURCE,
            "smallest J_τ lost against it, over " + " and ".join(lost),
            min(lost.values()),
            at_least=1e-6,
        ),
    ]


def _best_of_class(world: World) -> float:
    """The largest J_τ over θ from −20 to 20."""
    assert world.features is not None
    tilts = torch.linspace(-20, 20, 2001, dtype=torch.float64)
    laws = (torch.softmax(world.ref.log() + theta * world.features[..., 0], dim=-1) for theta in tilts)
    return max(_value(world, law) for law in laws)


def _value(world: World, law: torch.Tensor) -> float:
    return float(world.weight @ exact.regularized_value(law, ref=world.ref, reward=world.reward, tau=world.tau))
