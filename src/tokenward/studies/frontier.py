"""Which methods come to rest on the exact frontier of reward and KL?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import RunError
from tokenward.lab.optima import exact
from tokenward.lab.optima.best_of_n import best_of_n_law
from tokenward.lab.optima.targets import predict
from tokenward.lab.worlds.world import World, default_world
from tokenward.recipes import Setting, build
from tokenward.studies.gibbs import best_reward, reward_and_kl
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import at_tau, described, labeled

GRID = (4.0, 2.0, 1.0, 0.7, 0.5, 0.35, 0.25, 0.175, 0.125)
DRAWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RATIO = 0.5  # β_guide/β_kl
DERIVED = "derived here"
ON, OFF = 1e-9, 1e-6
LENGTHS, TOKENS = "DPO on averaged log-ratios", "RLOO, KL as a loss on tokens"
METHODS: dict[str, tuple[str, str, dict[str, Setting]]] = {  # name: (recipe, what is τ, other settings)
    "DPO": ("dpo", "beta", {}),
    "PPO": ("ppo", "beta_kl", {}),
    "IPO": ("ipo", "beta", {}),
    LENGTHS: ("dpo_averaged", "beta", {}),
    "f-DPO": ("f_dpo", "beta", {}),
    TOKENS: ("rloo", "beta_kl", {"kl": "exact"}),
}
GOOD, WRONG = "RTO, guide optimal for the reward", "RTO, guide optimal for another reward"
BEST = "best of n"


@final
@dataclass(frozen=True)
class _Point:
    """Where a method rests at one setting, and how much more any law earns at its KL."""

    setting: float
    reward: float
    kl: float
    gap: float


def frontier(world: World | None) -> Study:
    """Reward and KL where methods come to rest, over τ, against the exact frontier."""
    own = world is None
    world = labeled(world or default_world())
    found = {name: [_at(world, _law(at_tau(world, tau), name), tau) for tau in GRID] for name in METHODS}
    for name, off in ((GOOD, 0.0), (WRONG, 0.5)):
        found[name] = [_at(world, _guided(at_tau(world, tau), off), tau) for tau in GRID]
    found[BEST] = [_at(world, best_of_n_law(world.ref, world.reward, n=n), float(n)) for n in DRAWS]
    claims = (
        _ceiling_claims(world, found, own=own) + _method_claims(found, own=own) + _draw_claims(found[BEST], own=own)
    )
    return Study(
        name="frontier",
        title="Who rests on the frontier of reward and KL?",
        question=(
            "No policy earns more at a KL than π_β ∝ π_ref·exp(r/β) with that KL. Each method's optimum is computed "
            "exactly over a grid of its β. Which lie on that frontier, which below, and by how much?"
        ),
        world=f"{described(world)} (varied)",
        claims=tuple(claims),
        figures=(_figure(world, found), _gap_figure(found)),
        tables=(_table(found),),
        notes=(
            "Optima in closed form, which `tokenward lab` checks against where the losses come to rest; comparisons "
            "are uniform over pairs and labeled by Bradley and Terry's law, without limit. What a policy trained on "
            "finitely many comparisons loses is not told here.",
        ),
    )  # fmt: skip


def _law(world: World, name: str) -> Float[Tensor, "X L"]:
    recipe, key, more = METHODS[name]
    law = predict(build(recipe, **{key: world.tau, **more}), world).law
    if law is None:
        raise RunError(f"study frontier: no closed form of {recipe} on this world: {described(world)}")
    return law


def _guided(world: World, off: float) -> Float[Tensor, "X L"]:
    """RTO with a guide that is optimal for r + off·cos(n)."""
    other = world.reward + off * torch.cos(torch.arange(world.tree.leaves, dtype=torch.float64))
    guide = exact.boltzmann(world.ref, other, tau=world.tau)
    total = RATIO * world.tau * (guide.log() - world.ref.log())
    return exact.extrapolated(world.ref, total, reward=world.reward, beta=world.tau)


def _at(world: World, law: Float[Tensor, "X L"], setting: float) -> _Point:
    reward, kl = reward_and_kl(world, law)
    return _Point(setting, reward, kl, best_reward(world, kl) - reward)


def _ceiling_claims(world: World, found: dict[str, list[_Point]], *, own: bool) -> list[Claim]:
    every = [point for line in found.values() for point in line]
    first, last = (exact.boltzmann(world.ref, world.reward, tau=tau) for tau in (GRID[0], GRID[-1]))
    ends = [reward_and_kl(world, law) for law in (first, last)]
    over, level = [], []
    for share in torch.linspace(0, 1, 21).tolist():
        reward, kl = reward_and_kl(world, (1 - share) * first + share * last)
        chord = [(1 - share) * a + share * b for a, b in zip(*ends, strict=True)]
        over.append(kl - chord[1])
        level.append(abs(reward - chord[0]))
    betas = [0.5 * 3 ** (2 * i / max(1, len(world.prompts) - 1) - 1) for i in range(len(world.prompts))]
    apart = torch.cat([
        exact.boltzmann(world.ref[i : i + 1], world.reward[i : i + 1], tau=beta) for i, beta in enumerate(betas)
    ])  # fmt: skip
    claims = [
        Claim(
            "No method's optimum earns more than π_β at the same KL.",
            "derived here: π_β maximizes E[r] − β KL",
            f"smallest reward of π_β at that KL − reward, over {len(every)} optima", min(p.gap for p in every),
            at_least=-ON,
        ),
        Claim(
            "A coin between two policies for each text earns the mean of their rewards at no more than the mean of "
            "their KLs: every point under the hull of what was reached can be had.",
            "derived here: KL is convex",
            "over 21 coins between the ends of the grid: largest KL − mean, and largest |reward − mean|",
            max(max(over), max(level)), at_most=ON,
        ),
    ]  # fmt: skip
    if own:
        claims.append(
            Claim(
                "One β serves all prompts: with another β for each, the same KL buys less.", DERIVED,
                "reward lost at equal KL with β from 1/6 to 3/2", _at(world, apart, 0.0).gap, at_least=OFF,
            )
        )  # fmt: skip
    return claims


def _method_claims(found: dict[str, list[_Point]], *, own: bool) -> list[Claim]:
    """Who is on the frontier; who is below it, on the study's own world: no theorem says so of every other."""

    def gaps(name: str) -> list[float]:
        return [point.gap for point in found[name]]

    check = "reward lost at equal KL, over β"
    further = [a.kl - b.kl for a, b in zip(found[GOOD], found["PPO"], strict=True)]
    below = [
        Claim(
            "With a guide that is optimal for another reward it rests below.", DERIVED, f"smallest {check}",
            min(gaps(WRONG)), at_least=OFF,
        ),
        *[
            Claim(f"{name} rests below the frontier.", DERIVED, f"largest {check}", max(gaps(name)), at_least=OFF)
            for name in ("IPO", "f-DPO", LENGTHS, TOKENS)
        ],
    ]  # fmt: skip
    return [
        Claim(
            "DPO and PPO rest on the frontier at every β.", "derived here from Rafailov et al. 2023, Eq. 4",
            f"largest {check}", max(gaps("DPO") + gaps("PPO")), at_most=ON,
        ),
        Claim(
            "RTO with a guide that is optimal for the reward it is given rests on the frontier too …",
            "derived here from the reward of Zhong et al. 2024, Eq. 4.7", f"largest {check}", max(gaps(GOOD)),
            at_most=ON,
        ),
        Claim(
            "… further out than PPO at the same β.", DERIVED, "smallest KL of RTO − KL of PPO", min(further),
            at_least=-1e-12,
        ),
        *(below if own else []),
    ]  # fmt: skip


def _draw_claims(line: list[_Point], *, own: bool) -> list[Claim]:
    bound = [point.kl - (math.log(point.setting) - (point.setting - 1) / point.setting) for point in line]
    below = Claim(
        "Best of n rests below the frontier.", DERIVED,
        f"largest reward lost at equal KL, n = {', '.join(map(str, DRAWS))}", max(p.gap for p in line), at_least=OFF,
    )  # fmt: skip
    return [
        *([below] if own else []),  # not of every world: of two rewards, every tilt by the reward is some π_β
        Claim(
            "Its KL is at most log n − (n−1)/n.", "Beirami et al. 2024, Theorem 1",
            "largest KL of the exact law − this bound", max(bound), at_most=1e-12,
        ),
        Claim(
            "It rises with n, in reward and in KL.", DERIVED, "smallest step of either over n",
            min(min(b.reward - a.reward, b.kl - a.kl) for a, b in pairwise(line)), at_least=-1e-12,
        ),
    ]  # fmt: skip


def _figure(world: World, found: dict[str, list[_Point]]) -> Figure:
    far = max(point.kl for line in found.values() for point in line)
    grid = (far * torch.linspace(0, 1, 65, dtype=torch.float64) ** 2).tolist()  # closer where the line is steep
    series = [Series("frontier: π_β", grid, [best_reward(world, kl) for kl in grid])]
    series += [
        Series(name, [p.kl for p in line], [p.reward for p in line], style="points")
        for name, line in found.items()
        if name not in ("DPO", GOOD)
    ]
    caption = "Each point is an optimum at another β (best of n: another n). DPO rests where PPO does."
    return Figure(
        "frontier", "Reward and KL at rest", "KL to the reference (nats)", "expected reward", tuple(series), caption
    )


def _gap_figure(found: dict[str, list[_Point]]) -> Figure:
    below = {name: [p for p in line if p.gap > ON] for name, line in found.items() if max(p.gap for p in line) > OFF}
    away = {name: [p for p in line if p.kl > ON] for name, line in below.items()}  # at KL 0 the gap is rounding
    series = tuple(
        Series(name, [p.kl for p in line], [p.gap for p in line], style="points") for name, line in away.items()
    )
    caption = "How much more π_β earns at the same KL; methods on the frontier are left out."
    return Figure(
        "gap", "Reward lost at equal KL", "KL to the reference (nats)", "reward lost", series, caption, y_scale="log"
    )


def _table(found: dict[str, list[_Point]]) -> Table:
    rows = []
    for name, line in found.items():
        worst = max(line, key=lambda point: point.gap)
        on = worst.gap <= ON
        rows.append((name, "on" if on else "below", None if on else worst.gap, None if on else worst.kl))
    columns = ("method", "frontier", "largest reward lost", "at KL")
    return Table("Where methods rest", columns, tuple(rows), f"Over β = τ from {GRID[0]:g} to {GRID[-1]:g}.")
