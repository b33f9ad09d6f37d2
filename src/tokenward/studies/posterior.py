"""The posterior form of PRA in its three readings, and how far its loss can be from the offline one."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokenward.lab.optima import exact
from tokenward.lab.rates.bounds import shift
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world import Labels, Listed, World
from tokenward.recipes import build
from tokenward.studies.study import Claim
from tokenward.studies.worlds import with_prompts

READINGS = (
    "Su et al. 2025 name posterior forms; the definition was not available to us, so three readings are tried: "
    "statement and proof derived here"
)


def posterior_claims(world: World) -> list[Claim]:
    """PRA with answers of the current policy, labels of the annotator's posterior, answers of π^τ; and the trap."""
    plain = with_prompts(world, labels=Labels(), pairs="sampler")
    beta = world.tau
    current = solve(build("pra", beta=beta), with_prompts(plain, sampler="policy")).law
    target = solve(build("pra", beta=beta), with_prompts(plain, sampler="target")).law
    joint = solve(build("dpo", beta=beta), annotated(world)).law
    readings = [exact.total_variation(law, world.target) for law in (current, joint, target)]
    return [
        Claim(
            "In each of three readings — answers of the current policy, labels drawn by the annotator, or "
            "answers of π^τ — the posterior form of PRA ends at π^τ.",
            READINGS,
            "largest total variation to π^τ over the three readings (no gradient through the sampling)",
            max(readings),
            at_most=1e-6,
        ),
        *_through_the_sampler(with_prompts(plain, sampler="policy-through")),
        _loss_shift(world),
    ]


def annotated(world: World) -> World:
    """Pairs and labels drawn together: q(w, l) ∝ π_ref(w)·π_ref(l)·P(w ≻ l)."""
    prompts = []
    for prompt in world.prompts:
        leaves = len(prompt.ref)
        wins = exact.bradley_terry(prompt.reward[None])[0]
        joint = 2 * prompt.ref[:, None] * prompt.ref * wins
        pairs = torch.cartesian_prod(torch.arange(leaves), torch.arange(leaves))
        weight = joint.flatten() / joint.sum()
        labels = Labels(matrix=joint / (joint + joint.T))
        prompts.append(replace(prompt, pairs=Listed(pairs, weight), labels=labels))
    return replace(world, prompts=tuple(prompts))


def _through_the_sampler(world: World) -> list[Claim]:
    """With gradient through the sampling: the KL form rests at π^τ, the cross-entropy of DPO does not."""
    slopes = {}
    for name in ("pra", "dpo"):
        problem = Problem(build(name, beta=world.tau), world, guide=None, old=None)
        problem.move_to(world.tree.conditional(world.target).flatten())
        slopes[name] = max(float(slope.abs().max()) for slope in problem.gradient())
    return [
        Claim(
            "If the gradient passes through the sampling, the KL form of the loss still rests at π^τ.",
            "derived here",
            "largest slope of PRA (KL form) at π^τ, pairs of the current policy, gradient through",
            slopes["pra"],
            at_most=1e-9,
        ),
        Claim(
            "DPO's cross-entropy does not: its gradient through the sampling rewards pairs that are easy to rank.",
            "derived here",
            "largest slope of DPO at π^τ, pairs of the current policy, gradient through",
            slopes["dpo"],
            at_least=1e-3,
        ),
    ]


def _loss_shift(world: World) -> Claim:
    """|L(π; π×π) − L(π; μ×μ)| over its bound on random policies, prompt by prompt."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for prompt in world.prompts:
        alone = replace(world, prompts=(prompt,))
        for _ in range(500):
            noise = torch.randn(len(prompt.ref), generator=generator, dtype=torch.float64)
            found = shift(alone, torch.softmax(alone.target[0].log() + 2 * noise, 0), mu=prompt.ref)
            worst = max(worst, abs(found.own - found.given) / found.by_distance)
    return Claim(
        "Offline and on-policy loss differ by at most 2B·TV(π, μ), B = τ²·(range of log π/π^τ)²/8: data close to the "
        "policy keep the offline loss honest.",
        "derived here",
        f"largest |difference| / bound over {500 * len(world.prompts)} random policies, μ = π_ref",
        worst,
        at_most=1.0,
    )
