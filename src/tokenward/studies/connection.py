"""Are DPO and policy gradients the same algorithm?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.solving.policy import TabularPolicy, policy_with
from tokenward.lab.theory.connection import Connection, connections, preference_advantage
from tokenward.lab.worlds.world import Labels, World
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import bandit, described, population, with_prompts

DERIVED = "derived here, in the organization of Su et al. 2025"
POLICIES = 20
EXACT = {"ra": ("RA (Z given)", "2τ²"), "rda": ("RDA", "4τ²"), "rloo": ("RLOO, groups of two", "τ")}


def connection(world: World | None) -> Study:
    """Whether the four scenarios are one algorithm on own samples, and what is left of DPO's difference."""
    world = with_prompts(population(world or bandit()), labels=Labels(), sampler="policy", pairs="sampler")
    laws = _policies(world)
    found = [connections(world, law) for law in laws]
    tau = world.tau
    expected = {"ra": 2 * tau**2, "rda": 4 * tau**2, "rloo": tau}
    return Study(
        name="connection",
        title="DPO and policy gradients: one algorithm?",
        question=(
            "Let each loss learn from answers of the current policy, without gradient through the sampling. Which way "
            "does its expected gradient point, compared with the descent of KL(π‖π^τ), which is PPO's objective?"
        ),
        world=described(world),
        claims=(
            *(_same_direction(found, name, expected[name]) for name in EXACT),
            _rloo_is_rda(found, tau),
            *_preference(world, laws, found),
        ),
        figures=(_figure(found, expected),),
        tables=(_table(found),),
        notes=(
            "REINFORCE and RLOO carry the KL in the reward and sum over tokens. In any policy class, not only a table "
            "of logits, equal gradients have equal resting points.",
        ),
    )


def _policies(world: World) -> list[Float[Tensor, "X L"]]:
    """Random policies around π^τ."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(POLICIES, *world.ref.shape, generator=generator, dtype=torch.float64)
    return [torch.softmax(world.target.log() + one, dim=-1) for one in noise]


def _same_direction(found: list[dict[str, Connection]], name: str, factor: float) -> Claim:
    label, formula = EXACT[name]
    off = max(max(abs(one[name].ratio / factor - 1), one[name].off) for one in found)
    return Claim(
        f"{label}: its gradient is {formula}·∇KL(π‖π^τ), exactly.",
        DERIVED,
        f"largest relative error of factor and direction over {len(found)} random policies",
        off,
        at_most=1e-9,
    )


def _rloo_is_rda(found: list[dict[str, Connection]], tau: float) -> Claim:
    gaps = [
        float((one["rloo"].gradient - one["rda"].gradient / (4 * tau)).abs().max() / one["rloo"].gradient.abs().max())
        for one in found
    ]
    return Claim(
        "RLOO with two samples is regression on reward differences: its gradient is RDA's, divided by 4τ.",
        DERIVED,
        f"largest relative difference over {len(found)} random policies",
        max(gaps),
        at_most=1e-9,
    )


def _preference(
    world: World, laws: list[Float[Tensor, "X L"]], found: list[dict[str, Connection]]
) -> tuple[Claim, Claim]:
    worst = 0.0
    for law, one in zip(laws, found, strict=True):
        logits = policy_with(law, tree=world.tree).logits.detach().requires_grad_()
        own = TabularPolicy(world.tree, logits).law()
        advantage = preference_advantage(world, law)
        surrogate = -(world.weight[:, None] * law * advantage * own.log()).sum()
        (slope,) = torch.autograd.grad(surrogate, logits)
        gradient = one["pra"].gradient
        worst = max(worst, float((gradient - slope).abs().max() / gradient.abs().max()))
    return (
        Claim(
            "On its own answers DPO is a policy gradient whose advantage is true win rate less implicit win rate, "
            "times 2τ.",
            DERIVED,
            f"largest relative difference of the two gradients over {len(found)} random policies",
            worst,
            at_most=1e-9,
        ),
        Claim(
            "That is another direction than the descent of KL(π‖π^τ): the two agree at π^τ only.",
            DERIVED,
            f"largest angle to ∇KL(π‖π^τ), as 1 − cosine, over {len(found)} random policies",
            max(1 - one["pra"].cosine for one in found),
            at_least=1e-4,
        ),
    )


def _figure(found: list[dict[str, Connection]], expected: dict[str, float]) -> Figure:
    numbers = [float(i + 1) for i in range(len(found))]
    series = [
        Series(EXACT[name][0], numbers, [one[name].ratio / factor for one in found], style="points")
        for name, factor in expected.items()
    ]
    series.append(Series("PRA: cosine", numbers, [one["pra"].cosine for one in found], style="points"))
    return Figure(
        name="gradients",
        title="Gradients on own samples against ∇KL(π‖π^τ)",
        x_label="random policy",
        y_label="factor over its formula; cosine for PRA",
        series=tuple(series),
        caption="RA, RDA and RLOO lie on 1, exactly: the same direction, and the factor of the formula. PRA (DPO on "
        "its own answers) points elsewhere.",
    )


def _table(found: list[dict[str, Connection]]) -> Table:
    names = list(found[0])
    rows = tuple(
        (name, found[0][name].ratio, max(one[name].off for one in found), min(one[name].cosine for one in found))
        for name in names
    )
    columns = ("recipe", "factor at the first policy", "largest part off the direction", "smallest cosine")
    return Table("Expected gradients beside ∇KL(π‖π^τ)", columns, rows)
