"""The worlds on which studies run unless another is given, and a world in one line."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokenward.errors import InputError
from tokenward.lab.worlds.tree import grow
from tokenward.lab.worlds.world import Labels, Listed, Prompt, World


def bandit(*, tau: float = 0.7) -> World:
    """One prompt with five answers of one token: the smallest world in which everything here can happen."""
    ref = torch.tensor([0.30, 0.25, 0.20, 0.05, 0.20], dtype=torch.float64)
    reward = torch.tensor([1.2, -0.4, 0.3, 2.0, -1.1], dtype=torch.float64)
    return World(tau, grow(vocab=5, horizon=1, eos=None), (Prompt(ref=ref, reward=reward),))


def described(world: World) -> str:
    """The world in one line.

    >>> described(bandit())
    '1 prompt, 5 sequences of 1 token, τ = 0.7'
    """
    tree, prompts = world.tree, len(world.prompts)
    short, long = int(tree.length.min()), int(tree.length.max())
    tokens = f"{short} token{'s' * (short > 1)}" if short == long else f"{short} to {long} tokens"
    return f"{prompts} prompt{'s' * (prompts > 1)}, {tree.leaves} sequences of {tokens}, τ = {world.tau:g}"


def with_prompts(world: World, **changes: object) -> World:
    """The world with fields of all its prompts changed."""
    return replace(world, prompts=tuple(replace(prompt, **changes) for prompt in world.prompts))  # type: ignore[arg-type]


def population(world: World) -> World:
    """The world with unlimited data and every policy allowed: studies vary these themselves."""
    return replace(with_prompts(world, samples=None, features=None, group=None), optimizer="auto")


def labeled(world: World) -> World:
    """The population with comparisons uniform over pairs, labels Bradley–Terry, and responses of the reference."""
    return with_prompts(population(world), labels=Labels(), pairs="uniform", sampler="reference")


def at_tau(world: World, tau: float) -> World:
    """The same world at another temperature."""
    return replace(world, tau=tau)


def only_bandit(world: World, *, study: str) -> World:
    """The world, if it is one prompt with sequences of one token; else one line that says what the study needs."""
    if len(world.prompts) != 1 or world.tree.horizon != 1:
        raise InputError(
            f"study {study} is about one prompt with answers of one token, got {described(world)}; "
            "give a world of horizon 1 with one prompt"
        )
    return world


def listed(pairs: list[tuple[int, int]]) -> Listed:
    """These pairs, each with the same weight."""
    return Listed(torch.tensor(pairs), torch.full((len(pairs),), 1 / len(pairs), dtype=torch.float64))
