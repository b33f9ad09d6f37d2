"""`tokenward data graph` on a world of the lab: what its comparisons fix, how fast, and where unseen mass goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch

from tokenward.lab.optima.comparisons import Comparisons, comparisons
from tokenward.lab.optima.graph import Spectrum, both_ways, components, spectra, steepness
from tokenward.lab.optima.targets import predict
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.world import World
from tokenward.lab.worlds.world_file import parse_world
from tokenward.recipes import build


@final
@dataclass(frozen=True)
class PromptGraph:
    """One prompt's comparisons, weights summing to one.

    `plain` and `weighted`: spectra of 𝓛(w) and 𝓛(w⊙σ′(Δ)) of each component of two leaves or more · `unseen`: leaves
    that nothing is compared with · `unseen_before`, `unseen_after`: their mass under π_ref and where gradient descent
    on the logits comes to rest from there, None where that is not known (several tokens, leaves not linked).
    """

    leaves: int
    pairs: int
    components: int
    unseen: tuple[int, ...]
    plain: tuple[Spectrum, ...]
    weighted: tuple[Spectrum, ...]
    unseen_before: float
    unseen_after: float | None
    finite: bool


@final
@dataclass(frozen=True)
class WorldGraph:
    """The comparison graph of each prompt of a world."""

    source: str
    tau: float
    prompts: tuple[PromptGraph, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The graphs as printed."""
        found = [f"{self.source}: world of {len(self.prompts)} prompts, τ = {self.tau:g}"]
        for i, one in enumerate(self.prompts):
            found += [f"prompt {i}: {line}" for line in _lines(one)]
        return found


def is_world(source: str) -> bool:
    """Whether the file holds one JSON object with tau and prompts."""
    if not source.endswith(".json"):
        return False
    try:
        given = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(given, dict) and {"tau", "prompts"} <= set(given)


def world_graph(source: str) -> WorldGraph:
    """The graphs of a world file."""
    world = drawn(parse_world(json.loads(Path(source).read_text(encoding="utf-8")), name=source))
    after = predict(build("rda", beta=world.tau), world).law  # what reward differences, or probabilities, lead to
    laws = [None] * len(world.prompts) if after is None else list(after)
    data = zip(comparisons(world), laws, strict=True)
    return WorldGraph(source, world.tau, tuple(_prompt(world, one, law) for one, law in data))


def _prompt(world: World, one: Comparisons, after: torch.Tensor | None) -> PromptGraph:
    pairs = torch.triu(one.weight, 1).nonzero()
    weight = one.weight[pairs[:, 0], pairs[:, 1]]
    gap = one.prompt.reward[pairs[:, 0]] - one.prompt.reward[pairs[:, 1]]
    number = world.tree.leaves
    unseen = (one.weight.sum(-1) <= 0).nonzero().flatten()
    beats = ((one.weight > 0) & (one.wins > 0)).nonzero()
    return PromptGraph(
        leaves=number,
        pairs=len(pairs),
        components=len(components(pairs, nodes=number).unique()),
        unseen=tuple(unseen.tolist()),
        plain=spectra(pairs, weight, nodes=number),
        weighted=spectra(pairs, weight * steepness(gap), nodes=number),
        unseen_before=float(one.prompt.ref[unseen].sum()),
        unseen_after=None if after is None else float(after[unseen].sum()),
        finite=bool(both_ways(beats, nodes=number).all()),
    )


def _lines(one: PromptGraph) -> list[str]:
    found = [f"{one.leaves} leaves, {one.pairs} pairs, {one.components} components, {len(one.unseen)} leaves unseen"]
    for plain, weighted in zip(one.plain, one.weighted, strict=True):
        found.append(
            f"component of leaf {plain.first} ({plain.nodes} leaves): λ₂ {_short(plain.connectivity)}, λ_max/λ₂ "
            f"{_short(plain.condition)}; weighted by σ′ of the reward gaps λ₂ {_short(weighted.connectivity)}, "
            f"λ_max/λ₂ {_short(weighted.condition)}"
        )
    if not one.finite:
        found.append(
            "somewhere one side always wins: no finite Bradley–Terry scores, and a loss such as DPO's falls for ever"
        )
    if one.components == 1:
        return [*found, "all leaves are linked: what the labels ask for, they ask of the whole policy"]
    found.append("the data fix the policy within each component; the components' shares are not limited by them")
    if one.unseen and one.unseen_after is not None:
        found.append(
            f"leaves unseen: mass {one.unseen_before:.4g} at the reference, {one.unseen_after:.4g} where gradient "
            "descent on the logits comes to rest from there (another optimizer or class may end elsewhere)"
        )
    elif one.unseen:
        found.append(
            f"leaves unseen: mass {one.unseen_before:.4g} at the reference; where it ends is not known in closed form, "
            "as prefixes are shared"
        )
    return found


def _short(x: float | None) -> str:
    return "–" if x is None else f"{x:.4g}"
