"""Finite data: N draws of what a world gives, and the world in which they are the population.

Drawn once, from a seed: pairs with a hard label each, single responses with a hard label each, demonstrations. Whatever
follows the current policy is drawn anew at each update, so there the lab keeps to the expectation.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.worlds.world import ON_POLICY, Labels, Listed, Prompt, World, compared
from tokenward.lab.worlds.world_labels import posterior


def drawn(world: World) -> World:
    """The world whose laws are the frequencies of the draws; the world itself where no prompt has `samples`."""
    if all(prompt.samples is None for prompt in world.prompts):
        return world
    laws = zip(world.prompts, world.target, world.demos, world.desirable, strict=True)
    prompts = (_drawn(prompt, i, target, demos, q) for i, (prompt, target, demos, q) in enumerate(laws))
    return replace(world, prompts=tuple(prompts))


def _drawn(
    prompt: Prompt, index: int, target: Float[Tensor, " L"], demos: Float[Tensor, " L"], q: Float[Tensor, " L"]
) -> Prompt:
    if prompt.samples is None:
        return prompt
    number = prompt.samples.number
    seeds = torch.randint(2**62, (index + 1, 3), generator=torch.Generator().manual_seed(prompt.samples.seed))[index]
    of_pairs, of_rows, of_demos = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    prompt = replace(prompt, samples=None, demos=_counts(demos, number, of_demos) / number)
    follows = isinstance(prompt.sampler, str) and prompt.sampler in ON_POLICY
    law = prompt.ref if follows else prompt.sampler_law(prompt.ref, target=target)
    if not (follows and prompt.pairs == "sampler"):
        labels, listed = _comparisons(prompt, law, number, of_pairs)
        prompt = replace(prompt, pairs=listed, labels=labels)
    if not follows:
        rows = _counts(law, number, of_rows)
        desirable = torch.binomial(rows, q, generator=of_rows)
        prompt = replace(prompt, sampler=rows / number, binary=torch.where(rows > 0, desirable / rows.clamp(min=1), q))
    return prompt


def _comparisons(
    prompt: Prompt, law: Float[Tensor, " L"], number: int, generator: torch.Generator
) -> tuple[Labels, Listed]:
    """N pairs with the winner of each, as weights and frequencies of wins."""
    given = compared(prompt, law)
    times = _counts(given.weight, number, generator)
    wins = torch.binomial(times, prompt.labels.prefer(prompt.reward, given.pairs), generator=generator)
    first, second = given.pairs.unbind(-1)
    joint = torch.zeros(len(law), len(law), dtype=torch.float64)
    joint.index_put_((first, second), wins, accumulate=True)
    joint.index_put_((second, first), times - wins, accumulate=True)
    return posterior(joint / number)


def _counts(law: Float[Tensor, " N"], number: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """How often each of N draws fell on each entry."""
    picked = torch.multinomial(law, number, replacement=True, generator=generator)
    return torch.bincount(picked, minlength=len(law)).to(torch.float64)
