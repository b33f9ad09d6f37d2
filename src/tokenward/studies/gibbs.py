"""Reward and KL of a law, and the largest reward that any law has at a KL: that of π_β ∝ π_ref·exp(r/β)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.worlds.world import World


def reward_and_kl(world: World, law: Float[Tensor, "X L"]) -> tuple[float, float]:
    """Expected reward and KL to the reference (nats), prompts by their weight."""
    kl = (torch.xlogy(law, law) - torch.xlogy(law, world.ref)).sum(-1)
    return float(world.weight @ (law * world.reward).sum(-1)), float(world.weight @ kl)


def best_reward(world: World, kl: float) -> float:
    """The reward of π_β whose KL to the reference is `kl` or just below, by bisection in log β; one β for all."""
    low, high = -12.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        law = exact.boltzmann(world.ref, world.reward, tau=2.0**middle)
        low, high = (middle, high) if reward_and_kl(world, law)[1] > kl else (low, middle)
    return reward_and_kl(world, exact.boltzmann(world.ref, world.reward, tau=2.0**high))[0]
