"""Which comparisons should one make, and how many?"""

from __future__ import annotations

import torch

from tokenward.lab.rates.design import Design, designs, measure_design
from tokenward.lab.rates.finite_sample import Floor, SampleError, descent_floor, sample_error
from tokenward.lab.rates.rate import rate
from tokenward.lab.worlds.world import Listed, World
from tokenward.recipes import build
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import bandit, described, labeled, only_bandit, with_prompts

DERIVED = "derived here; that the design of the data drives the rate is stated by Su et al. 2025"
NUMBERS = (1_000, 2_000, 5_000, 10_000, 20_000)
BEST, COMPLETE = "optimized", "complete"


def data_design(world: World | None) -> Study:
    """Which comparisons make DPO fast, which make labels worth most, and what N of them leave open."""
    world = only_bandit(labeled(world or bandit()), study="data-design")
    prompt = world.prompts[0]
    found = designs(prompt.reward, ref=prompt.ref, tau=world.tau)
    errors = [sample_error(world, number=number) for number in NUMBERS]
    floors = {
        "hard, step 0.3": descent_floor(world, step=0.3, labels="hard"),
        "hard, step 0.03": descent_floor(world, step=0.03, labels="hard"),
        "soft, step 0.3": descent_floor(world, step=0.3, labels="soft", loss="difference"),
    }
    return Study(
        name="data-design",
        title="Which comparisons, and how many?",
        question=(
            "Comparisons cost money. Which of them make DPO converge fast, which make the learned policy accurate, are "
            "those the same, and how far off is the best policy that N labels allow?"
        ),
        world=described(world),
        claims=(*_design_claims(world, found), *_label_claims(errors, floors)),
        figures=(_design_figure(found), _error_figure(errors)),
        tables=(_design_table(found), _error_table(errors), _floor_table(floors)),
        notes=(
            "The best weights need the reward gaps, which a real data set does not have: a study of what could be "
            "gained, not a selection of real data.",
        ),
    )


def _design_claims(world: World, found: tuple[Design, ...]) -> list[Claim]:
    by_name = {one.name: one for one in found}
    best, step = by_name[BEST], 1.0
    rivals = [one.connectivity for one in found if one.name != BEST] + _random_designs(world, best.listed.pairs)
    off = []
    for one in found:
        seen = rate(build("dpo", beta=world.tau), with_prompts(world, pairs=one.listed), step=step).measured
        slow = step * world.tau**2 * one.connectivity
        off.append(abs((1 - (seen if seen is not None else float("nan"))) / slow - 1))
    winners = {
        min(found, key=lambda one: one.condition).name,
        min(found, key=lambda one: one.error).name,
        max(found, key=lambda one: one.connectivity).name,
    }
    return [
        Claim(
            "λ₂ of the comparison graph, weighted by σ′ of the reward gaps, is what sets DPO's rate: 1 − contraction = "
            "ητ²λ₂ for every design.",
            DERIVED,
            f"largest relative error against gradient descent, over {len(found)} designs, η = {step:g}",
            max(off),
            at_most=1e-3,
        ),
        Claim(
            "The semidefinite program finds the weights with the largest λ₂.",
            "derived here: λ₂ is concave in the weights",
            f"largest λ₂ of {len(rivals)} other designs (named and random) over that found",
            max(rivals) / best.connectivity,
            at_most=1 + 1e-6,
        ),
        Claim(
            "Fast at a fixed step, fast at a tuned step and cheap in labels are different wishes: no design here is "
            "best at all three.",
            "derived here",
            "number of different designs that win in λ₂, in λ_max/λ₂ and in error per label",
            float(len(winners)),
            at_least=2.0,
        ),
    ]


def _random_designs(world: World, pairs: torch.Tensor) -> list[float]:
    """λ₂ of random weights on the same pairs."""
    generator, prompt = torch.Generator().manual_seed(0), world.prompts[0]
    weights = torch.rand(200, len(pairs), generator=generator, dtype=torch.float64)
    return [
        measure_design(
            "random", Listed(pairs, own / own.sum()), reward=prompt.reward, ref=prompt.ref, tau=world.tau
        ).connectivity
        for own in weights
    ]


def _label_claims(errors: list[SampleError], floors: dict[str, Floor]) -> list[Claim]:
    last = errors[-1]
    hard, low, soft = floors.values()
    return [
        Claim(
            "After N labels the best policy is off by KL(π̂‖π^τ) ≈ tr[(diag π^τ − π^τπ^τᵀ) 𝓛(w⊙σ′)⁺]/(2Nτ²).",
            "derived here",
            f"(simulated − predicted) / standard error at N = {last.number}, {last.repetitions} data sets",
            (last.measured - last.predicted) / last.standard_error,
            at_least=-3.0,
            at_most=3.0,
        ),
        Claim(
            "Descent on single hard labels does not come to rest: its floor goes with the step.",
            "derived here",
            "floor of the KL at step 0.3 over that at step 0.03",
            hard.measured / low.measured,
            at_least=5.0,
            at_most=20.0,
        ),
        Claim(
            "Reward differences, which the policy can fit exactly, leave no floor.",
            "derived here",
            "KL left at step 0.3",
            soft.measured,
            at_most=1e-12,
        ),
    ]


def _design_figure(found: tuple[Design, ...]) -> Figure:
    names = [one.name.replace(" of ", "\nof ").replace(" on ", "\non ") for one in found]
    return Figure(
        name="designs",
        title="Three ways to judge a set of comparisons",
        x_label="which pairs are compared, same total",
        y_label="share of the best",
        series=(
            Series("λ₂ (fixed step)", names, _shares([one.connectivity for one in found]), style="bars"),
            Series("λ₂/λ_max (tuned step)", names, _shares([1 / one.condition for one in found]), style="bars"),
            Series("1/error (labels)", names, _shares([1 / one.error for one in found]), style="bars"),
        ),
        caption="Three ways to judge a set of comparisons, each as a share of the best design: the rate at a fixed "
        "step, at the best step, and the accuracy per label.",
    )


def _shares(values: list[float]) -> list[float]:
    return [value / max(values) for value in values]


def _error_figure(errors: list[SampleError]) -> Figure:
    numbers = [float(one.number) for one in errors]
    return Figure(
        name="error",
        title="What N labels leave open",
        x_label="labels N",
        y_label="E KL(π̂‖π^τ) (nats)",
        series=(
            Series("predicted", numbers, [one.predicted for one in errors]),
            Series(
                "simulated (± 2 s.e.)",
                numbers,
                [one.measured for one in errors],
                style="points",
                low=[one.measured - 2 * one.standard_error for one in errors],
                high=[one.measured + 2 * one.standard_error for one in errors],
            ),
        ),
        caption="The error of DPO at its minimum on N Bradley–Terry labels of uniform pairs: the formula, and data "
        "sets drawn and fitted.",
        x_scale="log",
        y_scale="log",
    )


def _design_table(found: tuple[Design, ...]) -> Table:
    rows = tuple((one.name, one.connectivity, one.plain_connectivity, one.condition, one.error) for one in found)
    return Table("Designs", ("design", "λ₂, DPO", "λ₂, RDA", "λ_max/λ₂, DPO", "error × N"), rows)


def _error_table(errors: list[SampleError]) -> Table:
    rows = tuple(
        (float(one.number), one.predicted, one.measured, one.standard_error, float(one.repetitions)) for one in errors
    )
    return Table("What N labels leave open", ("labels", "predicted KL", "simulated", "s.e.", "data sets"), rows)


def _floor_table(floors: dict[str, Floor]) -> Table:
    rows = tuple((name, one.predicted, one.measured, one.standard_error) for name, one in floors.items())
    return Table("Floor of stochastic descent", ("labels and step", "predicted KL", "measured", "s.e."), rows)
