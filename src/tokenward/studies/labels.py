"""What labels do to DPO's optimum: flipped, at another temperature, without any doubt."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.solve import Solution, solve
from tokenward.lab.worlds.world import Labels, World
from tokenward.recipes import build
from tokenward.studies.descend import path
from tokenward.studies.study import Claim
from tokenward.studies.worlds import with_prompts

NOISES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
STEPS = 2000


def noisy(world: World, share: float) -> Solution:
    """What DPO reaches when this share of the labels is flipped."""
    return solve(build("dpo", beta=world.tau), with_prompts(world, labels=Labels(noise=share)))


def label_claims(world: World) -> list[Claim]:
    """Smoothing is noise; a temperature is a factor of β; without doubt there is no optimum."""
    smoothed = solve(build("cdpo", beta=world.tau, smoothing=0.1), with_prompts(world, labels=Labels()))
    hot = solve(build("dpo", beta=world.tau), with_prompts(world, labels=Labels(temperature=2.0)))
    twice = exact.boltzmann(world.ref, world.reward, tau=2 * world.tau)
    return [
        Claim(
            "Smoothing labels by ε is the same as flipping a share ε of them: conservative DPO on clean labels is DPO "
            "on noisy ones.",
            "derived here from Mitchell 2023",
            "total variation between the two at ε = 0.1",
            exact.total_variation(noisy(world, 0.1).law, smoothed.law),
            at_most=1e-6,
        ),
        Claim(
            "Annotators at temperature T make β into βT: labels at T = 2 are as if β were 2τ.",
            "derived here",
            "total variation between DPO on labels at T = 2 and π_ref·exp(r/2τ)/Z",
            exact.total_variation(hot.law, twice),
            at_most=1e-6,
        ),
        *_without_doubt(with_prompts(world, labels=Labels(kind="deterministic"), pairs="uniform")),
    ]


def _without_doubt(world: World) -> list[Claim]:
    top = world.reward >= world.reward.amax(-1, keepdim=True)

    def others(law: Float[Tensor, "X L"]) -> float:
        return float(torch.where(top, 0.0, law).sum(-1).max())

    step = world.tree.leaves / (world.tau**2 * world.tree.horizon)
    left = path(build("dpo", beta=world.tau), world, step=step, steps=STEPS, look=others)
    ipo = build("ipo", beta=world.tau)
    wanted, found = predict(ipo, world).law, solve(ipo, world).law
    claims = [
        Claim(
            "Labels without doubt (the better answer always wins): DPO has no optimum. The longer it trains, "
            "the less it leaves to other answers.",
            "derived here",
            f"probability of other answers after {STEPS} steps over that after {STEPS // 10}, largest prompt",
            left[STEPS] / max(left[STEPS // 10], 1e-300),
            at_most=0.5,
        )
    ]
    if wanted is not None:
        claims.append(
            Claim(
                "IPO on the same labels has one, in closed form.",
                "Azar et al. 2023 for pairs of one law; for any pairs derived here",
                "total variation between predicted and reached policy",
                exact.total_variation(wanted, found),
                at_most=1e-6,
            )
        )
    return claims
