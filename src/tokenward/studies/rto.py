"""RTO's theory beside it: where it comes to rest, what its theorems say, and which of them need a correction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.reading import unscaled
from tokenward.lab.solving.solve import solve
from tokenward.lab.verify import with_guides
from tokenward.lab.worlds.world import World, default_world
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.placement import PlacementName
from tokenward.recipes import Setting, build
from tokenward.studies.gibbs import best_reward, reward_and_kl
from tokenward.studies.rto_theory import chance_claims, guarantee_parts, query_parts
from tokenward.studies.study import Claim, Figure, Series, Study
from tokenward.studies.worlds import described, population, with_prompts

PAPER = "Zhong et al. 2024"
DERIVED = "derived here from the reward of Zhong et al. 2024, Eq. 4.7"
RATIO = 0.6  # β_guide/β_kl
EXACT = 1e-8


def rto(world: World | None) -> Study:
    """Where RTO comes to rest, and the statements of its theory one by one."""
    world = with_guides(_own() if world is None else population(world))
    guide = torch.stack([prompt.guide for prompt in world.prompts if prompt.guide is not None])
    points = _frontier_points(world, guide)
    guaranteed, queried = guarantee_parts(), query_parts()
    return Study(
        name="rto",
        title="Reinforced token optimization: its theory beside it",
        question=(
            "RTO gives PPO a reward at every token, read off a guide that DPO trained. Which policy is optimal then, "
            "does it matter on which token the reward stands, and do the theorems hold where everything can be counted?"
        ),
        world=f"{described(world)}; the theorems on random problems of the study's own",
        claims=(
            *_optimum_claims(world, guide), *_placement_claims(world, guide), _frontier_claim(points),
            *guaranteed.claims, *queried.claims, *chance_claims(),
        ),
        figures=(_frontier_figure(world, points), *guaranteed.figures, *queried.figures),
        tables=(*guaranteed.tables, *queried.tables),
        notes=(
            f"β_kl = τ and β_guide = {RATIO:g}·τ unless said otherwise. The critic is exact or zero; what a dense "
            "reward does for a critic that is being learned is a matter of runs, not of optima.",
            "The theorems are about Algorithm 1, linear rewards and a pessimistic plan, not about the practical "
            "Algorithm 2, which has no guarantee.",
        ),
    )  # fmt: skip


def _own() -> World:
    """The built-in world with guides that misjudge: optimal for r + ½cos(n), not for r."""
    world = default_world()
    wrong = world.reward + 0.5 * torch.cos(torch.arange(world.tree.leaves, dtype=torch.float64))
    laws = exact.boltzmann(world.ref, wrong, tau=world.tau)
    return replace(world, prompts=tuple(replace(p, guide=law) for p, law in zip(world.prompts, laws, strict=True)))


def _recipe(placement: PlacementName, world: World, **settings: Setting) -> Recipe:
    own: dict[str, Setting] = {"beta_guide": RATIO * world.tau, "beta_kl": world.tau, "placement": placement}
    return build("rto", **{**own, **settings})


def _optimum_claims(world: World, guide: Float[Tensor, "X L"]) -> tuple[Claim, ...]:
    tree, tau = world.tree, world.tau
    step = RATIO * tau * (tree.conditional(guide) - tree.conditional(world.ref))
    clip = float(step.abs().median())
    closed = exact.extrapolated(world.ref, tree.leaf_sum(step), reward=world.reward, beta=tau)
    clipped = exact.extrapolated(
        world.ref, tree.leaf_sum(step.clamp(-clip, clip)), reward=world.reward, beta=tau
    )  # fmt: skip
    ppo = solve(build("ppo", beta_kl=tau), world).law
    dense, end, back = (solve(_recipe(where, world), world, guide=guide).law for where in ("token", "end", "residual"))
    cut = solve(_recipe("token", world, guide_clip=clip), world, guide=guide).law
    cut_back = solve(_recipe("residual", world, guide_clip=clip), world, guide=guide).law
    apart, check = exact.total_variation, "total variation between the two policies at rest"
    return (
        Claim(
            "RTO rests at π_ref·(π_guide/π_ref)^(β_guide/β_kl)·exp(r/β_kl)/Z: with β_guide > β_kl it extrapolates.",
            DERIVED, "total variation between this policy and where the recipe came to rest",
            apart(dense, closed), at_most=EXACT,
        ),
        Claim(
            "Putting the whole dense reward on the last token leaves the optimum as it is.",
            f"derived here; the ablation is in {PAPER}", check, apart(dense, end), at_most=EXACT,
        ),
        Claim(
            "Taking the dense reward back on the last token (pure shaping) gives PPO's optimum …",
            f"derived here; the ablation is in {PAPER}", check, apart(back, ppo), at_most=EXACT,
        ),
        Claim("… which is not RTO's.", DERIVED, check, apart(dense, ppo), at_least=1e-3),
        Claim(
            "A clip of each token's reward, which is in the authors' script and not in the paper, moves the optimum …",
            "derived here", f"{check}, with a clip at the median of |reward| over all tokens",
            apart(cut, dense), at_least=1e-4,
        ),
        Claim(
            "… to the policy whose token rewards are clipped before they are summed …",
            "derived here", "total variation between this policy and where the recipe came to rest",
            apart(cut, clipped), at_most=EXACT,
        ),
        Claim(
            "… unless the clipped sum is taken back at the end: then it is PPO's again.",
            "derived here", check, apart(cut_back, ppo), at_most=EXACT,
        ),
    )  # fmt: skip


def _placement_claims(world: World, guide: Float[Tensor, "X L"]) -> list[Claim]:
    """Placement in the expected update; and the one thing that a dense reward makes possible."""
    blind = with_prompts(world, critic="zero")
    somewhere = exact.boltzmann(world.ref, -0.5 * world.reward, tau=world.tau)

    def update(where: PlacementName, lam: float) -> Tensor:
        recipe = unscaled(_recipe(where, blind, lam=lam), blind)
        problem = Problem(recipe, blind, guide=guide, old=None)
        with torch.no_grad():
            problem.logits.copy_(policy_with(somewhere, tree=world.tree).logits)
        return problem.gradient()[0]

    gaps = {lam: float((update("token", lam) - update("end", lam)).abs().max()) for lam in (1.0, 0.9)}
    size = float(update("token", 1.0).abs().max())
    own = exact.boltzmann(world.ref, world.reward, tau=world.tau)
    near = {
        name: exact.total_variation(solve(build(name, beta_kl=world.tau, gamma=0.0), world, guide=own).law, own)
        for name in ("distill", "ppo")
    }
    claims = [
        Claim(
            "With λ = 1 the expected update does not see the placement, not even with a critic that knows nothing.",
            "derived here", "largest difference of the two expected slopes, relative to the largest slope; critic zero",
            gaps[1.0] / size, at_most=1e-10,
        ),
        Claim(
            "A perfect dense reward, β log π^τ/π_ref at each token, needs no look-ahead: γ = 0 already ends at π^τ.",
            "derived here; each token's reward is its optimal advantage, Rafailov et al. 2024, Eq. 10",
            "total variation to π^τ of distillation with γ = 0", near["distill"], at_most=EXACT,
        ),
    ]  # fmt: skip
    if world.tree.horizon == 1:
        return claims
    return [
        *claims,
        Claim(
            "With λ < 1 and that critic it does: what a dense reward changes, it changes through the critic's errors.",
            "derived here", "the same difference with λ = 0.9", gaps[0.9] / size, at_least=1e-4,
        ),
        Claim(
            "With one reward at the end, γ = 0 leads elsewhere.", "derived here",
            "total variation to π^τ of PPO with γ = 0", near["ppo"], at_least=1e-3,
        ),
    ]  # fmt: skip


@final
@dataclass(frozen=True)
class _Point:
    """One RTO optimum: its reward and KL, and the reward of PPO's optimum at the same KL."""

    ratio: float
    reward: float
    kl: float
    frontier: float


def _frontier_points(world: World, guide: Float[Tensor, "X L"]) -> list[_Point]:
    points = []
    for ratio in (0.0, 0.25, RATIO, 1.0, 2.0, 5.0):
        total = ratio * world.tau * (guide.log() - world.ref.log())
        law = exact.extrapolated(world.ref, total, reward=world.reward, beta=world.tau)
        reward, kl = reward_and_kl(world, law)
        points.append(_Point(ratio, reward, kl, best_reward(world, kl)))
    return points


def _frontier_claim(points: list[_Point]) -> Claim:
    return Claim(
        "Under the reward that it is given, no RTO optimum earns more than PPO's does at the same KL.",
        "derived here: PPO's optima, over β_kl, are the frontier of reward and KL; what RTO can bring is speed, or "
        "what a guide knows that the reward does not",
        f"smallest PPO reward − RTO reward at equal KL over β_guide/β_kl = {', '.join(f'{p.ratio:g}' for p in points)}",
        min(p.frontier - p.reward for p in points),
        at_least=-1e-6,
    )


def _frontier_figure(world: World, points: list[_Point]) -> Figure:
    guided = [p for p in points if p.ratio > 0]
    start, end = min(p.kl for p in points), max(p.kl for p in points)
    kls = torch.linspace(start, end, 33).tolist()
    return Figure(
        name="frontier",
        title="Reward and KL where RTO comes to rest",
        x_label="KL to the reference (nats)",
        y_label="expected reward",
        series=(
            Series("PPO's optimum at this KL", kls, [best_reward(world, kl) for kl in kls]),
            Series("RTO", [p.kl for p in guided], [p.reward for p in guided], style="points"),
        ),
        caption="Each point is RTO's optimum with another β_guide/β_kl (0.25, 0.6, 1, 2, 5; the more, the "
        "further from the reference). On the line: the guide adds nothing that another β_kl would not.",
    )
