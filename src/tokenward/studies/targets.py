"""Which policy does each loss converge to?"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab import verify
from tokenward.lab.optima import exact
from tokenward.lab.worlds.world import World, default_world
from tokenward.recipes import RECIPES
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import described, population

DERIVED = "derived here, in the organization of Su et al. 2025 (UDRRA)"


def targets(world: World | None) -> Study:
    """Which policy each loss converges to, and which of them share π^τ."""
    world = verify.with_guides(population(world or default_world()))
    answers = [verify.answer(name, world, overrides={}) for name in RECIPES]
    policies = [one for one in answers if "max_error" not in one]
    laws = {one["recipe"]: torch.tensor(one["reached"], dtype=torch.float64) for one in policies}
    apart = {name: exact.total_variation(law, world.target) for name, law in laws.items()}
    return Study(
        name="targets",
        title="What does this loss converge to?",
        question=(
            "Every recipe is solved exactly on a world whose sequences can be listed. Where a closed form is known, "
            "does the loss reach it? Which methods share the Boltzmann policy π^τ = π_ref·exp(r/τ)/Z, and how far from "
            "it do the others come to rest?"
        ),
        world=described(world),
        claims=_claims(world, policies, laws, apart),
        figures=(_picture(policies, apart),),
        tables=(_table(world, policies, laws, apart),),
        notes=(
            "A recipe's own β is set to τ. What stands under `target` is read off the recipe's parts, never off its "
            "name; an empty place means that no closed form is known, and the residual alone says that it is at rest.",
        ),
    )


def _claims(
    world: World, answers: list[dict[str, Any]], laws: dict[str, Float[Tensor, "X L"]], apart: dict[str, float]
) -> tuple[Claim, ...]:
    known = [one for one in answers if one["predicted"] is not None]
    shared = [one["recipe"] for one in answers if one["shares_pi_tau"]]
    gap = max(abs(float(x)) for law in laws.values() for x in _value_gap(world, law))
    claims = [
        Claim(
            "Every recipe with a known closed form reaches it.",
            DERIVED,
            f"largest total variation between predicted and reached policy, over {len(known)} recipes",
            max(one["tv"] for one in known),
            at_most=1e-6,
        ),
        Claim(
            f"One target is shared: {', '.join(shared)} all end at π^τ.",
            "Su et al. 2025 for the four scenarios; which recipes belong to them is derived here",
            f"largest total variation to π^τ, over these {len(shared)} recipes",
            max((apart[name] for name in shared), default=0.0),
            at_most=1e-6,
        ),
        Claim(
            "What a policy loses is its distance to π^τ: J_τ(π^τ) − J_τ(π) = τ·KL(π‖π^τ).",
            "derived here; J_τ(π) = E_π r − τ·KL(π‖π_ref)",
            f"largest |left − right| over prompts and the {len(laws)} policies reached",
            gap,
            at_most=1e-9,
        ),
        Claim(
            "π^τ built token by token from soft values is π^τ of whole sequences.",
            "Rafailov et al. 2024, Eq. 5–7",
            "largest difference of the two, over all sequences",
            verify.forms_apart(world),
            at_most=1e-10,
        ),
    ]
    return (*claims, _where_the_pull_stands(world))


def _value_gap(world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, " X"]:
    value = exact.regularized_value(law, ref=world.ref, reward=world.reward, tau=world.tau)
    kl = (torch.xlogy(law, law) - torch.xlogy(law, world.target)).sum(-1)
    gap: Tensor = world.normalizer - value - world.tau * kl
    return torch.where(kl.isfinite(), gap, torch.zeros_like(gap))  # a policy on a face of the simplex


def _where_the_pull_stands(world: World) -> Claim:
    """KL in the reward against KL as a per-token loss: the same for one token, not for more."""
    reached = [
        torch.tensor(verify.answer("rloo", world, overrides={"kl": kl})["reached"], dtype=torch.float64)
        for kl in ("reward", "exact")
    ]
    distance = exact.total_variation(*reached)
    check = "total variation between what RLOO reaches with the KL in the reward and as an exact per-token loss"
    source = "derived here: the loss ignores what a token does to later KL, so its fixed point is myopic"
    if world.tree.horizon == 1:
        text = "With one token an answer, a KL in the loss is a KL in the reward."
        return Claim(text, source, check, distance, at_most=1e-6)
    text = "With several tokens an answer, a per-token KL in the loss is another method than a KL in the reward."
    return Claim(text, source, check, distance, at_least=1e-4)


def _picture(answers: list[dict[str, Any]], apart: dict[str, float]) -> Figure:
    ordered = sorted((one["recipe"] for one in answers), key=lambda name: apart[name])
    floor = 1e-16  # a logarithm has no 0
    return Figure(
        name="distance",
        title="How far from π^τ each method comes to rest",
        x_label="recipe",
        y_label="total variation to π^τ",
        series=(Series("distance", ordered, [max(apart[name], floor) for name in ordered], style="bars"),),
        caption="β = τ for all. Methods on the left end at π^τ up to the precision of the numbers; those on the right "
        "at another policy, whatever the compute.",
        y_scale="log",
    )


def _table(
    world: World, answers: list[dict[str, Any]], laws: dict[str, Float[Tensor, "X L"]], apart: dict[str, float]
) -> Table:
    rows = []
    for one in sorted(answers, key=lambda one: apart[one["recipe"]]):
        law = laws[one["recipe"]]
        value = exact.regularized_value(law, ref=world.ref, reward=world.reward, tau=world.tau)
        rows.append(
            (
                one["recipe"], one["scenario"] or "–", one["target"], one["tv"], apart[one["recipe"]],
                float(world.weight @ value), "yes" if one["converged"] else "no",
            )
        )  # fmt: skip
    columns = ("recipe", "scenario", "target", "tv to target", "tv to π^τ", "J_τ", "at rest")
    best = float(world.weight @ world.normalizer)
    note = f"The scenario is what the targets know of the reward. J_τ of π^τ itself: {best:.6f}."
    return Table("Recipes", columns, tuple(rows), note)
