"""Why do the log-probs of chosen answers fall, and when do they rise?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab import verify
from tokenward.lab.optima import exact
from tokenward.lab.worlds.tree import Tree, grow
from tokenward.lab.worlds.world import Prompt, World
from tokenward.studies.reference_words import (
    FALLS,
    IDENTITY,
    LOG2,
    SIGN,
    figures,
    table,
)
from tokenward.studies.study import Claim, Study
from tokenward.studies.worlds import described, labeled, with_prompts

BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
SOLVED = (1.0,)  # the strengths at which DPO itself is solved
OTHERS = 200  # policies drawn at random
ROUNDING = 1e-12  # where all rewards are equal nothing moves, and sums are 0 but for it


def reference(world: World | None) -> Study:
    """Why chosen log-probs fall in DPO, and when they rise: four references, every β, exactly."""
    own = world is None
    world = labeled(world or chain())
    laws = Laws.of(world)
    cells = [Cell.of(world, laws, name, beta) for name in laws.references for beta in BETAS]
    return Study(
        name="reference",
        title="Why do chosen log-probs fall?",
        question=(
            "DPO raises the margin between chosen and rejected answers, and yet the implicit reward of chosen answers "
            "often falls. It depends on the reference: fine-tuned on the chosen answers, on both, not at all "
            "(Rafailov et al. 2024, Figure 3). What is exact about it?"
        ),
        world=f"{described(world)} (τ varied); pairs are two draws of the world's reference μ, labels Bradley–Terry",
        claims=(
            *_identities(world, laws, cells),
            *_signs(cells, own=own),
            _everywhere(world, laws),
            _solved(world, laws),
        ),
        figures=figures([(cell.name, cell.beta, cell.means) for cell in cells]),
        tables=(table([(cell.name, cell.beta, cell.means) for cell in cells]),),
        notes=(
            "Nothing is trained and nothing sampled here: DPO's optimum on unlimited pairs is π* ∝ π_ref·exp(r/β), "
            "whichever reference it is given, and all means are sums over all sequences.",
            "That the chosen answers must fall is a theorem for π_ref = D_w, their own law, alone. With π_ref = μ they "
            "can rise, by KL(D_w‖μ) ≤ log 2 at most: D_w = 2μ(y)·P(y wins) ≤ 2μ(y). Derived here.",
        ),
    )


def chain() -> World:
    """One prompt, 81 sequences of four tokens behind 40 prefixes, token rewards and a reference drawn from a seed."""
    random = torch.Generator().manual_seed(0)
    tree = grow(vocab=3, horizon=4, eos=None)
    reward, logits = torch.randn(2, 1, tree.states, tree.vocab, generator=random, dtype=torch.float64)
    ref = tree.leaf_sum(logits.log_softmax(-1)).exp()[0]
    return World(1.0, tree, (Prompt(ref=ref, reward=tree.leaf_sum(reward)[0]),))


@final
@dataclass(frozen=True)
class Laws:
    """The data's laws, `[X L]`: sampler μ, chosen D_w(y) = 2μ(y)·E_{y′~μ}σ(r(y) − r(y′)), rejected 2μ − D_w."""

    sampler: Float[Tensor, "X L"]
    chosen: Float[Tensor, "X L"]
    rejected: Float[Tensor, "X L"]

    @staticmethod
    def of(world: World) -> Laws:
        mu, reward = world.ref, world.reward
        wins = torch.sigmoid(reward[:, :, None] - reward[:, None, :])
        chosen = 2 * mu * torch.einsum("xij,xj->xi", wins, mu)
        return Laws(mu, chosen, 2 * mu - chosen)

    @property
    def references(self) -> dict[str, Float[Tensor, "X L"]]:
        """Tuned on the chosen answers, on both, on the rejected ones, not at all."""
        uniform = torch.full_like(self.sampler, 1 / self.sampler.shape[-1])
        return {"chosen": self.chosen, "both": self.sampler, "rejected": self.rejected, "none": uniform}

    @property
    def data(self) -> dict[str, Float[Tensor, "X L"]]:
        return {"chosen": self.chosen, "rejected": self.rejected, "both": self.sampler}


@final
@dataclass(frozen=True)
class Cell:
    """One reference at one β: π*, and β·E[log π*/π_ref] under each law of the data and under π_ref itself."""

    name: str
    beta: float
    ref: Float[Tensor, "X L"]
    policy: Float[Tensor, "X L"]
    weight: Float[Tensor, " X"]
    means: dict[str, float]

    @staticmethod
    def of(world: World, laws: Laws, name: str, beta: float) -> Cell:
        ref = laws.references[name]
        policy = torch.softmax(ref.log() + world.reward / beta, dim=-1)
        ratio = beta * _log_ratio(ref, world.reward, beta)
        means = {key: float(world.weight @ (law * ratio).sum(-1)) for key, law in laws.data.items()}
        means["reference"] = float(world.weight @ (ref * ratio).sum(-1))
        return Cell(name, beta, ref, policy, world.weight, means)


def _log_ratio(ref: Float[Tensor, "X L"], reward: Float[Tensor, "X L"], beta: float) -> Float[Tensor, "X L"]:
    """log π*/π_ref = r/β − log Z."""
    found: Tensor = reward / beta - torch.logsumexp(ref.log() + reward / beta, dim=-1, keepdim=True)
    return found


def kl(p: Float[Tensor, "X L"], log_p_over_q: Float[Tensor, "X L"]) -> Float[Tensor, " X"]:
    """KL(p‖q) of each prompt, given log p/q, which need not exist where p is 0."""
    return torch.where(p > 0, p * log_p_over_q, 0.0).sum(-1)


def _identities(world: World, laws: Laws, cells: list[Cell]) -> tuple[Claim, ...]:
    whole, states, general = 0.0, 0.0, 0.0
    for cell in cells:
        log = _log_ratio(cell.ref, world.reward, cell.beta)
        star = cell.ref.log() + log
        mean = (cell.ref * log).sum(-1)
        whole = max(whole, float((mean + kl(cell.ref, cell.ref.log() - star)).abs().max()))
        states = max(states, float((mean + _state_kl(world.tree, cell.ref, star)).abs().max()))
        for law in laws.data.values():
            right = kl(law, law.log() - cell.ref.log()) - kl(law, law.log() - star)
            general = max(general, float(((law * log).sum(-1) - right).abs().max()))
    margins = [cell.means["chosen"] - cell.means["rejected"] for cell in cells]
    count = f"over {len(cells)} pairs of reference and β, nats"
    return (
        Claim(
            "E_{π_ref}[log π*/π_ref] = −KL(π_ref‖π*): texts of the reference fall by the KL, whatever the loss.",
            IDENTITY, f"largest |left − right| {count}", whole, at_most=1e-12,
        ),
        Claim(
            "State by state too: the KL of sequences is the sum of the states' KLs along texts of the reference.",
            IDENTITY, f"largest |E_ref[Σ log-ratio] + Σ_s P(s)·KL(π_ref(·|s)‖π*(·|s))| {count}", states, at_most=1e-12,
        ),
        Claim(
            "For any law D of data E_D[log π*/π_ref] = KL(D‖π_ref) − KL(D‖π*): D's texts rise exactly when the policy "
            "is nearer to D than the reference.",
            SIGN, f"largest |left − right| for chosen, rejected and both, {count}", general, at_most=1e-12,
        ),
        Claim(
            "The margin does not know the reference, nor β: it is the reward that chosen answers have over rejected.",
            SIGN, f"largest minus smallest β·(chosen − rejected) {count}", max(margins) - min(margins), at_most=1e-12,
        ),
    )  # fmt: skip


def _state_kl(tree: Tree, law: Float[Tensor, "X L"], star: Float[Tensor, "X L"]) -> Float[Tensor, " X"]:
    ref, other = tree.conditional(law), tree.log_conditional(star)
    at = (ref.exp() * (ref - other)).sum(-1)
    found: Tensor = (tree.visitation(law) * at).sum(-1)
    return found


def _signs(cells: list[Cell], *, own: bool) -> tuple[Claim, ...]:
    """What must fall, and, on the study's own world, what can rise: elsewhere no theorem says that it does."""
    by = {name: [cell for cell in cells if cell.name == name] for name in ("chosen", "both")}
    top = max(by["both"], key=lambda cell: cell.means["chosen"])
    rise = max(cell.means["chosen"] / cell.beta for cell in by["both"])
    span = f"over β from {BETAS[0]:g} to {BETAS[-1]:g}"
    rises = Claim(
        "… but the chosen answers can rise: where the pull to the reference is strong.",
        SIGN, f"β·E_chosen[log π*/π_ref] at β = {top.beta:g}, the largest {span}", top.means["chosen"], at_least=1e-6,
    )  # fmt: skip
    return (
        Claim(
            "With a reference that is the law of the chosen answers they fall at every β.",
            FALLS, f"largest β·E_chosen[log π*/π_ref] {span}", max(c.means["chosen"] for c in by["chosen"]),
            at_most=ROUNDING,
        ),
        Claim(
            "With the sampler of both as reference the mean of chosen and rejected falls at every β …",
            FALLS, f"largest β·(chosen + rejected)/2 {span}", max(c.means["both"] for c in by["both"]),
            at_most=ROUNDING,
        ),
        *([rises] if own else []),
        Claim(
            "They rise by no more than log 2 nats a text, however the policy is trained.",
            LOG2, f"largest E_chosen[log π*/π_ref] {span}, in units of log 2", rise / LOG2_NATS, at_most=1.0,
        ),
    )  # fmt: skip


LOG2_NATS = 0.6931471805599453


def _everywhere(world: World, laws: Laws) -> Claim:
    """The condition for falling on policies that no loss made."""
    random = torch.Generator().manual_seed(1)
    wrong = 0
    for _ in range(OTHERS):
        logits = torch.randn(world.ref.shape, generator=random, dtype=torch.float64)
        policy = torch.softmax(world.ref.log() + logits + world.reward * torch.rand((), generator=random), -1)
        for ref in laws.references.values():
            change = (laws.chosen * (policy / ref).log()).sum(-1)
            nearer = kl(laws.chosen, (laws.chosen / ref).log()) - kl(laws.chosen, (laws.chosen / policy).log())
            wrong += int(((change < 0) != (nearer < 0)).sum())
    return Claim(
        "Chosen answers fall exactly when KL(D_w‖π) > KL(D_w‖π_ref), for any policy.",
        SIGN, f"prompts on which it fails, {OTHERS} random policies × 4 references", float(wrong), at_most=0.0,
    )  # fmt: skip


def _solved(world: World, laws: Laws) -> Claim:
    apart = 0.0
    for ref in laws.references.values():
        for beta in SOLVED:
            own = replace(
                with_prompts(replace(world, tau=beta), pairs="sampler"),
                prompts=tuple(
                    replace(prompt, ref=one, sampler=mu, pairs="sampler")
                    for prompt, one, mu in zip(world.prompts, ref, laws.sampler, strict=True)
                ),
            )
            answer = verify.answer("dpo", verify.with_guides(own), overrides={})
            reached = torch.tensor(answer["reached"], dtype=torch.float64)
            apart = max(apart, exact.total_variation(reached, own.target))
    return Claim(
        "DPO on these pairs, solved on its own loss, ends at π_ref·exp(r/β)/Z for each of the references.",
        "Rafailov et al. 2023; here the pairs' sampler and the reference differ",
        f"largest total variation, four references × β = {' and '.join(f'{b:g}' for b in SOLVED)}",
        apart, at_most=1e-6,
    )  # fmt: skip
