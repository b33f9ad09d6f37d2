"""What do k1, k2 and k3 estimate, and what do they do as a loss?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.solving.solve import solve
from tokenward.lab.theory.estimators import gaussian, slopes, values
from tokenward.lab.worlds.world import World, default_world
from tokenward.recipes import build
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import described, population

SCHULMAN = "Schulman 2020, Approximating KL divergence (by sampling; in closed form here)"
DERIVED = "derived here"
PLACES = ("reward", "loss_k2", "loss_k3", "exact")
SHIFTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)


def kl_estimators(world: World | None) -> Study:
    """What k1, k2 and k3 are worth as numbers, and where they lead as losses."""
    world = population(world or default_world())
    laws = _policies(world)
    return Study(
        name="kl-estimators",
        title="k1, k2, k3: numbers and losses",
        question=(
            "The divergence to the reference is estimated from log-ratios z = log π/π_ref of the policy's own samples: "
            "k1 = z, k2 = z²/2, k3 = exp(−z) − 1 + z. Which of them is right as a number, and which pulls in the right "
            "direction when it stands in the loss?"
        ),
        world=described(world),
        claims=(*_value_claims(world, laws), *_gradient_claims(world, laws), *_fixed_points(world)),
        figures=(_spread_figure(), _bias_figure()),
        tables=(_gaussian_table(), _rest_table(world)),
    )


def _policies(world: World) -> list[Float[Tensor, "X L"]]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(10, *world.ref.shape, generator=generator, dtype=torch.float64)
    return [torch.softmax(world.ref.log() + one, dim=-1) for one in noise]


def _value_claims(world: World, laws: list[Float[Tensor, "X L"]]) -> list[Claim]:
    found = [values(world, law) for law in laws]
    table = {shift: gaussian(shift) for shift in (0.1, 1.0)}
    printed = {0.1: (20, 1.42, 1.42), 1.0: (2, 1.73, 1.7)}
    off = max(
        abs(table[shift][name].std / number - 1)
        for shift, numbers in printed.items()
        for name, number in zip(("k1", "k2", "k3"), numbers, strict=True)
    )
    return [
        Claim(
            "As numbers k1 and k3 are right on average, for any policy.",
            SCHULMAN,
            f"largest |mean − KL| over {len(laws)} random policies (nats)",
            max(abs(one[name].bias) for one in found for name in ("k1", "k3")),
            at_most=1e-9,
        ),
        Claim(
            "k2 is not.",
            SCHULMAN,
            f"largest |mean − KL| / KL over {len(laws)} random policies",
            max(abs(one["k2"].bias) / one["k2"].kl for one in found),
            at_least=0.01,
        ),
        Claim(
            "Schulman's table for normal laws: k1 scatters 20 times and twice the divergence, k2 and k3 far less.",
            SCHULMAN,
            "largest relative difference to his standard deviations (20, 1.42, 1.42; 2, 1.73, 1.7), printed to two or "
            "three digits",
            off,
            at_most=0.005,
        ),
    ]


def _gradient_claims(world: World, laws: list[Float[Tensor, "X L"]]) -> list[Claim]:
    found = [slopes(world, law) for law in laws]
    check = f"over {len(laws)} random policies, relative to the largest slope"
    claims = [
        Claim(
            "k1 as a loss does nothing: its expected gradient is 0. (From the second mini-batch on it pushes away from "
            "the samples.)",
            DERIVED,
            f"largest slope {check} of KL",
            max(_relative(one["k1"].detached, one["k1"].reverse, zero=True) for one in found),
            at_most=1e-9,
        ),
        Claim(
            "k2 as a loss pulls exactly like the divergence of each state, KL(π‖π_ref), with the visits held fixed.",
            DERIVED,
            f"largest difference {check}",
            max(_relative(one["k2"].detached, one["k2"].reverse_states) for one in found),
            at_most=1e-9,
        ),
        Claim(
            "k3 as a loss pulls like the *other* divergence, KL(π_ref‖π) of each state.",
            DERIVED,
            f"largest difference {check}",
            max(_relative(one["k3"].detached, one["k3"].forward_states) for one in found),
            at_most=1e-9,
        ),
        Claim(
            "With the ratio π/π_old left differentiable, k1 and k3 have exactly the gradient of KL(π‖π_ref).",
            DERIVED,
            f"largest difference {check}",
            max(_relative(one[name].ratio, one[name].reverse) for one in found for name in ("k1", "k3")),
            at_most=1e-9,
        ),
    ]
    if world.tree.horizon > 1:
        claims.append(
            Claim(
                "With several tokens an answer, that of k2 is not the gradient of the whole divergence: what a token "
                "does to later KL is missing.",
                DERIVED,
                f"smallest difference {check}",
                min(_relative(one["k2"].detached, one["k2"].reverse) for one in found),
                at_least=1e-3,
            )
        )
    return claims


def _relative(own: Float[Tensor, "X S V"], wanted: Float[Tensor, "X S V"], *, zero: bool = False) -> float:
    gap = own if zero else own - wanted
    return float(gap.abs().max() / wanted.abs().max())


def _fixed_points(world: World) -> list[Claim]:
    laws = {kl: solve(build("rloo", beta_kl=world.tau, kl=kl), world).law for kl in PLACES}
    apart = {kl: exact.total_variation(law, world.target) for kl, law in laws.items()}
    claims = [
        Claim(
            "Where it stands decides the optimum. In the reward (k1, whole return to go): π^τ.",
            DERIVED,
            "total variation between what RLOO reaches and π^τ",
            apart["reward"],
            at_most=1e-6,
        ),
        Claim(
            "k2 as a per-token loss and the exact KL of each state lead to one and the same policy.",
            DERIVED,
            "total variation between what RLOO reaches with either",
            exact.total_variation(laws["loss_k2"], laws["exact"]),
            at_most=1e-6,
        ),
        Claim(
            "k3 as a loss leads elsewhere.",
            DERIVED,
            "total variation between what RLOO reaches with it and π^τ",
            apart["loss_k3"],
            at_least=1e-3,
        ),
    ]
    if world.tree.horizon > 1:
        claims.append(
            Claim(
                "With several tokens an answer, that policy is not π^τ but the myopic one.",
                DERIVED,
                "total variation between what RLOO reaches with the exact KL as a loss and π^τ",
                apart["exact"],
                at_least=1e-3,
            )
        )
    return claims


def _spread_figure() -> Figure:
    found = [gaussian(shift) for shift in SHIFTS]
    return Figure(
        name="spread",
        title="Scatter of one sample",
        x_label="true KL (nats)",
        y_label="standard deviation / true KL",
        series=tuple(
            Series(name, [shift**2 / 2 for shift in SHIFTS], [one[name].std for one in found])
            for name in ("k1", "k2", "k3")
        ),
        caption="Draws of N(0, 1) against N(μ, 1). For policies close to their reference k1 is the worst estimate of "
        "the three, by far; far away k3 scatters most.",
        x_scale="log",
        y_scale="log",
    )


def _bias_figure() -> Figure:
    found = [gaussian(shift) for shift in SHIFTS]
    return Figure(
        name="bias",
        title="Bias",
        x_label="true KL (nats)",
        y_label="bias / true KL",
        series=tuple(
            Series(name, [shift**2 / 2 for shift in SHIFTS], [one[name].bias for one in found])
            for name in ("k1", "k2", "k3")
        ),
        caption="k1 and k3 have none (their lines lie on each other); k2's grows with the divergence.",
        x_scale="log",
    )


def _gaussian_table() -> Table:
    rows = []
    for shift in (0.1, 1.0):
        for name, one in gaussian(shift).items():
            rows.append((f"N(0, 1) against N({shift:g}, 1)", shift**2 / 2, name, one.bias, one.std))
    columns = ("laws", "KL", "estimator", "bias / KL", "std / KL")
    return Table("Schulman's table, in closed form", columns, tuple(rows))


def _rest_table(world: World) -> Table:
    rows = []
    for kl in PLACES:
        law = solve(build("rloo", beta_kl=world.tau, kl=kl), world).law
        value = float(world.weight @ exact.regularized_value(law, ref=world.ref, reward=world.reward, tau=world.tau))
        rows.append((kl, exact.total_variation(law, world.target), value))
    note = f"J_τ of π^τ: {float(world.weight @ world.normalizer):.6f}."
    return Table("RLOO with the KL in four places", ("kl =", "tv to π^τ", "J_τ"), tuple(rows), note)
