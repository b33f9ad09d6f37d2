"""What do the data do to the policy that DPO reaches?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.optima import exact
from tokenward.lab.optima.prediction import Prediction
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.solve import Solution, solve
from tokenward.lab.worlds.world import Labels, Listed, World
from tokenward.recipes import build
from tokenward.studies.capacity import capacity_claims
from tokenward.studies.labels import NOISES, label_claims, noisy
from tokenward.studies.posterior import posterior_claims
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import bandit, described, labeled, listed, with_prompts

DERIVED = "derived here; the shift of DPO under offline data is a question of Su et al. 2025"


def shift(world: World | None) -> Study:
    """What the data do to the policy that DPO reaches: each cause of a shift, with its closed form if it has one."""
    world = labeled(world or bandit())
    if world.tree.leaves < 3:
        raise InputError("study shift compares three answers or more; give a world with more sequences")
    found = _causes(world)
    flipped = [exact.total_variation(noisy(world, share).law, world.target) for share in NOISES]
    return Study(
        name="shift",
        title="What do my data do to it?",
        question=(
            "With infinitely many Bradley–Terry labels on pairs that link all answers, DPO ends at π^τ, whoever wrote "
            "them. What happens when one of these conditions fails?"
        ),
        world=described(world),
        claims=(
            _nothing_shifts(world),
            *_data_claims(world, found),
            *label_claims(world),
            *capacity_claims(world),
            *posterior_claims(world),
        ),
        figures=(
            Figure(
                name="causes",
                title="Distance to π^τ of what DPO reaches",
                x_label="what is different about the data",
                y_label="total variation to π^τ",
                series=(Series("DPO", [one.name for one in found], [one.apart for one in found], style="bars"),),
                caption="DPO on the same world with β = τ, minimized to the last digit: only the data differ. The "
                "table below says what each does reach.",
            ),
            Figure(
                name="noise",
                title="Flipped labels",
                x_label="share of flipped labels ε",
                y_label="total variation to π^τ",
                series=(Series("DPO", NOISES, flipped),),
                caption="Symmetric label noise shrinks the learned differences: an optimum of its own, not π^τ.",
            ),
        ),
        tables=(_table(world, found),),
    )


@final
@dataclass(frozen=True)
class Case:
    """Data of one kind: the world with them, what DPO should reach there, and what it reaches."""

    name: str
    world: World
    prediction: Prediction
    solution: Solution

    @property
    def apart(self) -> float:
        return exact.total_variation(self.solution.law, self.world.target)

    @property
    def error(self) -> float | None:
        law = self.prediction.law
        return None if law is None else exact.total_variation(law, self.solution.law)


def _case(name: str, world: World, *, recipe: str = "dpo") -> Case:
    made = build(recipe, beta=world.tau)
    return Case(name, world, predict(made, world), solve(made, world))


def _causes(world: World) -> list[Case]:
    leaves = world.tree.leaves
    seen = list(range(max(2, 2 * leaves // 3)))
    top = torch.full((leaves, leaves), 0.5, dtype=torch.float64)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        top[i, j], top[j, i] = 0.9, 0.1
    return [
        _case("all pairs", world),
        _case("not all linked", with_prompts(world, pairs=listed(list(pairwise(seen))))),
        _case("chosen, rejected\nindependent", independent(world)),
        _case("labels at\nT = 2", with_prompts(world, labels=Labels(temperature=2.0))),
        _case("10% flipped", with_prompts(world, labels=Labels(noise=0.1))),
        _case("a cycle", with_prompts(world, labels=Labels(matrix=top))),
    ]


def independent(world: World) -> World:
    """Chosen answers from one law, rejected from another, whatever their rewards: q(w, l) = μ_w(w)·μ_l(l)."""
    prompts = []
    for prompt in world.prompts:
        chosen, rejected = writers(prompt.ref)
        joint = chosen[:, None] * rejected
        both = joint + joint.T
        pairs = torch.cartesian_prod(torch.arange(len(chosen)), torch.arange(len(chosen)))
        prompts.append(replace(prompt, pairs=Listed(pairs, joint.flatten()), labels=Labels(matrix=joint / both)))
    # Each ordered pair stands once with the weight of its joint: its label is the share of times that the first won.
    return replace(world, prompts=tuple(prompts))


def writers(ref: Float[Tensor, " L"]) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
    """Two laws that have nothing to do with the reward: a tilt of the reference, and the reference."""
    wave = torch.cos(torch.arange(len(ref), dtype=ref.dtype))
    return torch.softmax(ref.log() + wave, 0), ref


def _nothing_shifts(world: World) -> Claim:
    skewed = torch.softmax(torch.linspace(0, 3, world.tree.leaves, dtype=torch.float64), 0)
    path = list(pairwise(range(world.tree.leaves)))
    worlds = [
        with_prompts(world, pairs="uniform", labels=Labels()),
        with_prompts(world, pairs="sampler", sampler="reference", labels=Labels()),
        with_prompts(world, pairs="sampler", sampler=skewed, labels=Labels()),
        with_prompts(world, pairs="sampler", sampler="target", labels=Labels()),
        with_prompts(world, pairs=listed(path), labels=Labels()),
    ]
    apart = [_case("", one).apart for one in worlds]
    return Claim(
        "With Bradley–Terry labels on linked pairs it does not matter who wrote the answers: DPO ends at π^τ.",
        DERIVED,
        "largest total variation to π^τ over pairs of five laws: uniform, π_ref², a skewed law squared, (π^τ)², a path",
        max(apart),
        at_most=1e-6,
    )


def _data_claims(world: World, found: Sequence[Case]) -> list[Claim]:
    by_name = {one.name: one for one in found}
    known = [one.error for one in found if one.error is not None]
    part, apart = by_name["not all linked"], by_name["chosen, rejected\nindependent"]
    laws = [writers(prompt.ref) for prompt in world.prompts]
    ratio = exact.tilted(world.ref, torch.stack([(won / lost).log() / world.tau for won, lost in laws]))
    claims = [
        Claim(
            "Where the data move the optimum and a closed form is known, DPO reaches that closed form.",
            DERIVED,
            f"largest total variation between predicted and reached policy, over {len(known)} kinds of data",
            max(known),
            at_most=1e-6,
        ),
        Claim(
            "Answers that no comparison links to others: inside what was compared the policy is π^τ.",
            DERIVED,
            "total variation, within the linked answers, between the policy reached and π^τ",
            _within(part),
            at_most=1e-6,
        ),
        Claim(
            "If chosen and rejected are drawn independently of each other, DPO learns their density ratio, "
            "π_ref·(μ_w/μ_l)^(1/τ)/Z, whatever the reward.",
            DERIVED,
            "total variation between what is reached and that ratio of the two laws that wrote the answers",
            exact.total_variation(apart.solution.law, ratio),
            at_most=1e-6,
        ),
    ]
    if "a cycle" in by_name:
        skewed = torch.softmax(torch.linspace(0, 3, world.tree.leaves, dtype=torch.float64), 0)
        other = with_prompts(by_name["a cycle"].world, pairs="sampler", sampler=skewed)
        claims.append(
            Claim(
                "Preferences that no score explains (a cycle): what DPO reaches depends on how the pairs are drawn.",
                DERIVED,
                "total variation between what is reached from uniform pairs and from pairs of a skewed law",
                exact.total_variation(by_name["a cycle"].solution.law, _case("", other).solution.law),
                at_least=1e-4,
            )
        )
    return claims


def _within(case: Case) -> float:
    """Total variation of the conditional laws on the answers that some comparison names."""
    largest = 0.0
    for prompt, law, target in zip(case.world.prompts, case.solution.law, case.world.target, strict=True):
        assert isinstance(prompt.pairs, Listed)
        seen = prompt.pairs.pairs.unique()
        own, wanted = law[seen] / law[seen].sum(), target[seen] / target[seen].sum()
        largest = max(largest, float(0.5 * (own - wanted).abs().sum()))
    return largest


def _table(world: World, found: Sequence[Case]) -> Table:
    rows = []
    for one in found:
        law = one.solution.law
        value = float(world.weight @ exact.regularized_value(law, ref=world.ref, reward=world.reward, tau=world.tau))
        rows.append((one.name.replace("\n", " "), one.prediction.target, one.error, one.apart, value))
    columns = ("data", "target", "tv to target", "tv to π^τ", "J_τ")
    return Table("What DPO reaches", columns, tuple(rows), f"J_τ of π^τ: {float(world.weight @ world.normalizer):.6f}.")
