"""How fast does each loss converge, and what sets the speed?"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.rates.rate import Rate, bound_from_reference, rate
from tokenward.lab.worlds.world import World
from tokenward.objective.recipe import Recipe
from tokenward.recipes import Setting, build
from tokenward.studies.descend import marks, path
from tokenward.studies.gaps import gap_claims, gap_figure
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import bandit, described, labeled

DERIVED = "derived here; that τ and the data set the rate is stated by Su et al. 2025"
RDA = "RDA"
DPO = "DPO"
METHODS: dict[str, tuple[str, dict[str, Setting]]] = {
    DPO: ("dpo", {}),
    RDA: ("rda", {}),
    "RA, Z given": ("ra", {"normalizer": "given"}),
    "RA, V learned": ("ra", {}),
    "IPO": ("ipo", {}),
    "BDA, own samples": ("bda", {}),
    "BDA, forward": ("bda", {"direction": "forward", "sampler": "reference"}),
    "RDA, own samples": ("rda", {"sampler": "policy"}),
    "policy gradient": ("reinforce", {}),
}
DRAWN = (DPO, RDA, "RA, Z given", "BDA, own samples")
STEPS = 1000


def rates(world: World | None) -> Study:
    """How fast each loss converges, predicted from the data and measured; and what sets the speed."""
    world = labeled(world or bandit())
    found = {label: rate(_made(name, world, settings), world) for label, (name, settings) in METHODS.items()}
    mirror = rate(build("mirror_descent", eta=0.5 / world.tau, beta_kl=world.tau), world)
    flat = world.tree.horizon == 1
    seen = _curves(world)
    same_step = _ratio(world, found[RDA].step / 2)
    return Study(
        name="rate",
        title="How fast, and why?",
        question=(
            "Gradient descent shrinks the distance to the optimum by a factor per step. The factor can be computed "
            "from the data, τ and the reward before any training. Is it right, and what is it made of?"
        ),
        world=described(world),
        claims=(
            *_claims(found, mirror, same_step=same_step),
            *([_global_bound(world)] if flat else []),
            *gap_claims(world.tau),
        ),
        figures=(
            Figure(
                name="descent",
                title="Gradient descent from the reference",
                x_label="steps",
                y_label="total variation to π^τ",
                series=tuple(Series(name, marks(STEPS), [one[i] for i in marks(STEPS)]) for name, one in seen.items()),
                caption="Each method takes the step at which its fastest direction vanishes at once (1/λ_max, half of "
                "the largest stable one): what remains is the condition number of its data.",
                x_scale="log",
                y_scale="log",
            ),
            gap_figure(world.tau),
        ),
        tables=(_table(found | {"mirror descent, η = 1/2τ": mirror}),),
        notes=() if flat else ("The bound from the reference on is stated for answers of one token only.",),
    )  # fmt: skip


def _made(name: str, world: World, settings: dict[str, Setting]) -> Recipe:
    key = "beta_kl" if name == "reinforce" else "beta"
    return build(name, **{key: world.tau, **settings})


def _claims(found: dict[str, Rate], mirror: Rate, *, same_step: float) -> list[Claim]:
    known = {
        label: abs(one.predicted - one.measured) / (1 - one.predicted)
        for label, one in [*found.items(), ("mirror descent", mirror)]
        if one.predicted is not None and one.measured is not None
    }
    return [
        Claim(
            "The contraction per step can be computed beforehand: τ², the comparison graph and the reward gaps for "
            "DPO; τ² and the graph for reward differences; the rarest answers of π^τ for policy gradients.",
            DERIVED,
            f"largest |predicted − measured| / (1 − predicted), over {', '.join(known)}",
            max(known.values()),
            at_most=1e-3,
        ),
        Claim(
            "With the same small step, reward differences are learned at least 8 times as fast as preferences on the "
            "same pairs.",
            "derived here: 2τ²λ₂(w) against τ²λ₂(w·σ′), σ′ ≤ 1/4",
            "1 − contraction of RDA over that of DPO, both measured at half of RDA's step 1/λ_max",
            same_step,
            at_least=8.0 - 1e-6,
        ),
        Claim(
            "Exact mirror descent contracts by 1 − ητ, whatever the rewards and the data.",
            "derived here",
            "|measured − (1 − ητ)| at η = 1/2τ",
            abs((mirror.measured if mirror.measured is not None else math.nan) - 0.5),
            at_most=1e-6,
        ),
    ]


def _ratio(world: World, step: float) -> float:
    """(1 − contraction) of RDA over that of DPO, measured at one step."""
    both = [rate(build(name, beta=world.tau), world, step=step).measured for name in ("rda", "dpo")]
    rda, dpo = (math.nan if one is None else 1 - one for one in both)
    return rda / dpo


def _global_bound(world: World) -> Claim:
    """‖e_k‖ ≤ (1 − ητ²σ′(2R)λ₂)^k ‖r − mean‖/τ, e = centered logits − optimal ones, at every step from π_ref on."""
    recipe = build("dpo", beta=world.tau)
    step = world.tree.leaves / world.tau**2
    contraction = bound_from_reference(recipe, world, step=step)
    centered = world.reward - world.reward.mean(-1, keepdim=True)
    start = float(centered.norm(dim=-1).max()) / world.tau

    def error(law: Float[Tensor, "X L"]) -> float:
        gap = law.log() - world.target.log()
        return float((gap - gap.mean(-1, keepdim=True)).norm(dim=-1).max())

    seen = path(recipe, world, step=step, steps=STEPS, look=error)
    bound = [start * (math.nan if contraction is None else contraction) ** k for k in range(STEPS + 1)]
    worst = max(own / most for own, most in list(zip(seen, bound, strict=True))[1:])
    return Claim(
        "From the reference on DPO converges at a linear rate: ‖error‖ ≤ (1 − ητ²σ′(2R)λ₂)^k ‖r − mean r‖/τ, R the "
        "range of rewards.",
        "derived here",
        f"largest error / bound after 1 to {STEPS} steps",
        worst,
        at_most=1.0 + 1e-9,
    )


def _curves(world: World) -> dict[str, list[float]]:
    """Total variation to π^τ after each step, at each method's own step 1/λ_max."""

    def apart(law: Float[Tensor, "X L"]) -> float:
        return max(exact.total_variation(law, world.target), 1e-16)

    curves = {}
    for label in DRAWN:
        name, settings = METHODS[label]
        recipe = _made(name, world, settings)
        curves[label] = path(recipe, world, step=rate(recipe, world).step, steps=STEPS, look=apart)
    return curves


def _table(found: dict[str, Rate]) -> Table:
    rows = tuple(
        (label, one.step, one.predicted, one.measured, one.condition, one.cause) for label, one in found.items()
    )
    columns = ("method", "step", "contraction predicted", "measured", "condition number", "what sets it")
    return Table("Contraction per step at the optimum", columns, rows, "Step: 1/λ_max, or η of an exact step.")
