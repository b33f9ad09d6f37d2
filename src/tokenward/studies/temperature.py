"""What does τ buy, and what does it cost?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.rates.rate import rate
from tokenward.lab.worlds.world import World
from tokenward.recipes import build
from tokenward.studies.study import Claim, Figure, Series, Study
from tokenward.studies.worlds import at_tau, bandit, described, population

DERIVED = "derived here; that τ sets how close π^τ is to the optimal policy, and the rate, is stated by Su et al. 2025"
GRID = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.175, 0.125, 0.0875, 0.0625)
RATES = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35)
ONLINE = "policy gradient, own samples"
LEARNERS = {
    "DPO, fixed pairs": ("dpo", "beta"),
    "RDA, fixed pairs": ("rda", "beta"),
    ONLINE: ("reinforce", "beta_kl"),
}


def temperature(world: World | None) -> Study:
    """What a small τ buys (closeness to the best answers) and what it costs (divergence, and steps)."""
    world = population(world or bandit())
    found = [_Trade.of(at_tau(world, tau)) for tau in GRID]
    flat = world.tree.horizon == 1
    conditions = {name: _conditions(world, recipe, key) for name, (recipe, key) in LEARNERS.items()} if flat else {}
    return Study(
        name="temperature",
        title="What does τ (DPO's β) buy, and what does it cost?",
        question=(
            "A smaller τ lets the policy go further from the reference, towards the best answers. How close does π^τ "
            "come to them, how much divergence does that cost, and what becomes of the speed of learning?"
        ),
        world=f"{described(world)} (varied)",
        claims=(*_closeness(found), *_speed(conditions)),
        figures=(_closeness_figure(found), *([_condition_figure(conditions)] if conditions else [])),
        notes=() if flat else (
            "Condition numbers are compared on worlds of one token only: in logits of a tree they depend on τ through "
            "the probability of reaching each state.",
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _Trade:
    """π^τ at one temperature against the optimal policy; [X] each."""

    tau: float
    reward: Float[Tensor, " X"]
    best: Float[Tensor, " X"]
    kl: Float[Tensor, " X"]
    ceiling: Float[Tensor, " X"]
    missing: Float[Tensor, " X"]
    missing_bound: Float[Tensor, " X"]

    @staticmethod
    def of(world: World) -> _Trade:
        target, reward, ref = world.target, world.reward, world.ref
        best = reward.amax(-1, keepdim=True)
        top = reward >= best
        chance = torch.where(top, ref, 0.0).sum(-1)
        second = torch.where(top, -torch.inf, reward).amax(-1)
        gap = (best.squeeze(-1) - second) / world.tau
        return _Trade(
            tau=world.tau,
            reward=(target * reward).sum(-1),
            best=best.squeeze(-1),
            kl=(torch.xlogy(target, target) - torch.xlogy(target, ref)).sum(-1),
            ceiling=-chance.log(),
            missing=torch.where(top, 0.0, target).sum(-1),
            missing_bound=(1 - chance) / chance * torch.exp(-gap),
        )


def _closeness(found: list[_Trade]) -> list[Claim]:
    lost = max(float(((one.best - one.reward) / (one.tau * one.ceiling)).max()) for one in found)
    missing = max(float((one.missing / one.missing_bound).max()) for one in found)
    rises = min(float((after.kl - before.kl).min()) for before, after in pairwise(found))
    over = max(float((one.kl - one.ceiling).max()) for one in found)
    check = f"over {len(found)} temperatures from {found[0].tau:g} to {found[-1].tau:g}"
    return [
        Claim(
            "The reward that π^τ gives away is at most τ·log 1/π_ref(best answers).",
            DERIVED, f"largest (best reward − E[r]) / bound {check}", lost, at_least=0.0, at_most=1.0,
        ),
        Claim(
            "The probability that π^τ leaves to other answers falls like exp(−gap/τ), gap the lead of the best reward.",
            DERIVED, f"largest probability / bound {check}", missing, at_most=1.0,
        ),
        Claim(
            "KL(π^τ‖π_ref) grows as τ falls …",
            DERIVED, f"smallest increase from one τ to the next {check} (nats)", rises, at_least=0.0,
        ),
        Claim(
            "… but never above log 1/π_ref(best answers): that is where all runs with a tiny β end up.",
            DERIVED, f"largest KL − ceiling {check} (nats)", over, at_most=1e-12,
        ),
    ]  # fmt: skip


def _conditions(world: World, recipe: str, key: str) -> list[float]:
    """λ_max/λ_min at the fixed point, at each temperature of RATES."""
    found = [rate(build(recipe, **{key: tau}), at_tau(world, tau)).condition for tau in RATES]
    return [float("nan") if one is None else one for one in found]


def _speed(conditions: dict[str, list[float]]) -> list[Claim]:
    if not conditions:
        return []
    spread = max(max(conditions[name]) / min(conditions[name]) for name in conditions if "fixed" in name)
    online = conditions[ONLINE]
    return [
        Claim(
            "On fixed pairs τ does not make the problem harder: with a step ∝ 1/τ² the speed is the same for every τ.",
            "derived here, for tabular logits",
            f"largest ratio of condition numbers, in closed form, DPO and RDA, τ from {RATES[0]:g} to {RATES[-1]:g}",
            spread,
            at_most=1.001,
        ),
        Claim(
            "On samples of the policy itself a small τ does.",
            "derived here, for tabular logits",
            f"condition number at τ = {RATES[-1]:g} over that at τ = {RATES[0]:g}",
            online[-1] / online[0],
            at_least=10.0,
        ),
    ]


def _closeness_figure(found: list[_Trade]) -> Figure:
    taus = [one.tau for one in found]
    curves = {
        "E[r] under π^τ": [float(one.reward.mean()) for one in found],
        "best reward": [float(one.best.mean()) for one in found],
        "KL(π^τ‖π_ref)": [float(one.kl.mean()) for one in found],
        "its ceiling, log 1/π_ref(best)": [float(one.ceiling.mean()) for one in found],
    }
    return Figure(
        name="closeness",
        title="Reward and divergence of π^τ",
        x_label="τ",
        y_label="reward (its units), KL (nats); mean of prompts",
        series=tuple(Series(name, taus, values) for name, values in curves.items()),
        caption="To the left π^τ is the optimal policy, to the right the reference.",
        x_scale="log",
    )


def _condition_figure(conditions: dict[str, list[float]]) -> Figure:
    return Figure(
        name="condition",
        title="How hard the optimization is",
        x_label="τ",
        y_label="condition number λ_max/λ_min",
        series=tuple(Series(name, RATES, values) for name, values in conditions.items()),
        caption="With fixed pairs the condition number does not know τ. With samples of the policy itself an answer is "
        "learned only as often as it is drawn. A statement about tabular logits.",
        x_scale="log",
        y_scale="log",
    )
