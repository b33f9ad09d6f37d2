"""What do demonstrations and preferences say together?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.theory.joint_learning import Joint, Learned, Loop, joint_optimum, single_loop
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.world import Prompt, Samples, World, all_compared, default_world
from tokenward.recipes import build
from tokenward.studies.study import Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import bandit, described, listed, population, with_prompts

PAPER = "AIHF, arXiv 2406.06874; its equations are reconstructed by us"
DERIVED = "derived here"
SHARES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0)  # of the weight, on demonstrations
MOST_ROUNDS = 4000
DEMOS, PAIRS, DRAWS = 60, 120, 200  # the study of finite data
PULL = 1e-3


def demonstrations(world: World | None) -> Study:
    """One reward learned from demonstrations and preferences: what it ends at, and when it pays."""
    given = population(world or default_world())
    agreeing = with_prompts(given, demos=None)
    disagreeing = given if any(p.demos is not None for p in given.prompts) else _other_taste(given)
    path = [joint_optimum(Joint(disagreeing, share, 1 - share)) for share in SHARES]
    middle = Joint(disagreeing, 0.5, 0.5)
    best = path[SHARES.index(0.5)]
    rounds = _rounds(middle, best)
    loop = None if rounds > MOST_ROUNDS else single_loop(middle, rounds=rounds, towards=best.law)
    errors = _finite()
    return Study(
        name="demonstrations",
        title="Demonstrations and preferences, learned together",
        question=(
            "Some answers were written to be imitated, others were compared. One reward can explain both: "
            "max_R w₁·E_D log π_R + w₂·E_P log σ(R_w − R_l), π_R = π_ref·exp(R/β)/Z. Where does that end, alone and "
            "together, and is it worth it?"
        ),
        world=f"{described(given)}; finite data on {described(bandit())}",
        claims=(
            *_end_claims(agreeing, disagreeing, path), *_between_claims(disagreeing, path),
            *_loop_claims(middle, best, loop), *_finite_claims(errors),
        ),
        figures=(
            _trade_figure(disagreeing, path), *([] if loop is None else [_loop_figure(loop)]), _finite_figure(errors),
        ),
        tables=(_table(disagreeing, path),),
        notes=(
            "β is the world's τ. Where a world has no demonstrations of its own, they are those of a writer of another "
            "taste: optimal for the rewards shifted by one sequence.",
            *([] if loop else [f"The single loop would need more than {MOST_ROUNDS} rounds here and was not run."]),
            "The rates and experiments of the paper are not repeated here.",
        ),
    )  # fmt: skip


def _other_taste(world: World) -> World:
    laws = exact.boltzmann(world.ref, world.reward.roll(1, -1), tau=world.tau)
    return replace(world, prompts=tuple(replace(p, demos=law) for p, law in zip(world.prompts, laws, strict=True)))


def _show_the_reward(world: World) -> bool:
    """Whether every label is σ of the difference of rewards and comparisons link every two answers."""
    for prompt, target in zip(world.prompts, world.target, strict=True):
        labels, law = prompt.labels, prompt.ref if prompt.on_policy() else prompt.sampler_law(prompt.ref, target=target)
        if labels.matrix is not None or labels.kind != "bradley-terry" or not all_compared(prompt, law):
            return False
        if labels.temperature != 1 or labels.noise != 0:
            return False
    return True


def _end_claims(agreeing: World, disagreeing: World, path: list[Learned]) -> list[Claim]:
    apart = exact.total_variation
    demos, reward = path[-1].law, path[0].law
    claims = [
        Claim(
            "Demonstrations alone are imitated: the policy is their law.",
            f"{PAPER} (w₂ = 0)", "total variation between policy and demonstrations",
            apart(demos, disagreeing.demos), at_most=1e-8,
        ),
        Claim(
            "NLL + DPO with the same weights has the same optimum, as β log π/π_ref reaches every policy.",
            f"{PAPER} (AIHF-DPO there); that the optima coincide is derived here",
            "largest slope of ½·SFT + ½·DPO, of the recipes' own losses, at the joint optimum",
            _slope_of_recipes(disagreeing, path[SHARES.index(0.5)].law), at_most=1e-8,
        ),
    ]  # fmt: skip
    if not _show_the_reward(agreeing):
        return claims
    together = max(
        apart(joint_optimum(Joint(agreeing, *weights)).law, agreeing.target)
        for weights in ((1.0, 1.0), (0.1, 3.0), (5.0, 0.2))
    )
    return [
        Claim(
            "Preferences alone are a reward model and then RLHF: π_ref·exp(r/β)/Z.",
            f"{PAPER} (w₁ = 0)", "total variation between policy and π^τ",
            apart(reward, disagreeing.target), at_most=1e-8,
        ),
        *claims,
        Claim(
            "Where both come from one reward, every weighing ends at the Boltzmann policy.",
            DERIVED, "largest total variation to π^τ over weights (1, 1), (0.1, 3), (5, 0.2); demonstrations from π^τ",
            together, at_most=1e-8,
        ),
    ]  # fmt: skip


def _slope_of_recipes(world: World, law: Float[Tensor, "X L"]) -> float:
    if any(p.pairs == "sampler" and p.on_policy() for p in world.prompts):
        world = with_prompts(world, sampler="reference")
    total = torch.zeros(())
    for recipe in (build("sft", aggregation="token_sum"), build("dpo", beta=world.tau)):
        problem = Problem(recipe, world, guide=None, old=None)
        problem.move_to(policy_with(law, tree=world.tree).logits.flatten())
        total = total + 0.5 * problem.gradient()[0]
    return float(total.abs().max())


def _misfits(world: World, path: list[Learned]) -> tuple[list[float], list[float]]:
    """KL(D‖π_R) and the labels' KL along the path, means over prompts."""
    both = [Joint(world).misfit(one.reward) for one in path]
    means = [(float(world.weight @ a), float(world.weight @ b)) for a, b in both]
    return [max(a, 0.0) for a, _ in means], [max(b, 0.0) for _, b in means]  # a rounded 0 is not below 0


def _between_claims(world: World, path: list[Learned]) -> list[Claim]:
    of_demos, of_labels = _misfits(world, path)
    if of_demos[0] < 1e-9:
        return []  # they agree
    half = SHARES.index(0.5)
    falls = max(after - before for before, after in pairwise(of_demos))
    rises = min(after - before for before, after in pairwise(of_labels))
    return [
        Claim(
            "Where they disagree, the policy is a compromise: with more weight on demonstrations their misfit falls …",
            DERIVED, f"largest change of KL(D‖π_R) from one of {len(SHARES)} weights to the next (nats)",
            falls, at_most=1e-12,
        ),
        Claim(
            "… and that of the preferences rises: no weighing is best for both.",
            DERIVED, "smallest change of E KL(p‖σ(R_w − R_l)) from one weight to the next (nats)",
            rises, at_least=-1e-12,
        ),
        Claim(
            "With equal weights each misfit is below that of the policy that was learned from the other kind alone.",
            DERIVED, "the larger of the two ratios", max(of_demos[half] / of_demos[0], of_labels[half] / of_labels[-1]),
            at_least=0.0, at_most=0.999,
        ),
    ]  # fmt: skip


def _rounds(joint: Joint, best: Learned) -> int:
    """Rounds that shrink the slowest error by e^25: 25/(step·λ), λ the least curvature but that of constants."""
    slowest = float(torch.linalg.eigvalsh(joint.curvature(best.reward))[..., 1].min())
    return int(min(25 / max(joint.step * slowest, 1e-12), 1e9)) + joint.world.tree.horizon


def _loop_claims(joint: Joint, best: Learned, loop: Loop | None) -> list[Claim]:
    balance = Claim(
        "The joint optimum is where the contrast of inverse reinforcement learning and Bradley–Terry's slope cancel.",
        DERIVED, "largest |(w₁/β)(D − π_R) + w₂·(wins − expected wins)| at the optimum",
        float(joint.slope(best.reward).abs().max()), at_most=1e-10,
    )  # fmt: skip
    if loop is None:
        return [balance]
    return [
        Claim(
            "One policy step and one reward step in turn end at the joint optimum: no inner loop is needed.",
            f"{PAPER}; checked, not proved, here",
            f"total variation to the optimum after {len(loop.distance)} rounds of one soft policy improvement and one "
            "step along the slope",
            loop.distance[-1], at_most=1e-6,
        ),
        balance,
    ]  # fmt: skip


@final
@dataclass(frozen=True)
class _Errors:
    """Total variation to π^τ of policies learned from draws, [draws shares], when w₁ = share·N."""

    shares: tuple[float, ...]
    apart: Float[Tensor, "D K"]

    @property
    def mean(self) -> list[float]:
        return [float(x) for x in self.apart.mean(0)]

    def half(self) -> list[float]:
        """Half of a 95% interval of each mean."""
        return [1.96 * float(x) / len(self.apart) ** 0.5 for x in self.apart.std(0)]


@cache
def _finite() -> _Errors:
    """Draws of demonstrations and pairs that agree; the weights that count each observation once, and others."""
    answers = bandit().tree.leaves
    world = with_prompts(bandit(), pairs=listed([(i, j) for i in range(answers) for j in range(i)]))
    shares = (0.0, 0.1, 0.2, DEMOS / (DEMOS + PAIRS), 0.5, 0.7, 0.9, 1.0)
    prompts: list[Prompt] = []
    for seed in range(DRAWS):
        demos = drawn(with_prompts(world, samples=Samples(DEMOS, 2 * seed))).prompts[0].demos
        (prompt,) = drawn(with_prompts(world, samples=Samples(PAIRS, 2 * seed + 1))).prompts
        prompts.append(replace(prompt, demos=demos))
    draws = replace(world, prompts=tuple(prompts))  # one prompt each: solved side by side
    laws = [joint_optimum(Joint(draws, s, 1 - s, pull=PULL / (DEMOS + PAIRS))).law for s in shares]
    return _Errors(shares, torch.stack([0.5 * (law - world.target).abs().sum(-1) for law in laws], dim=-1))


def _finite_claims(errors: _Errors) -> list[Claim]:
    each_once = errors.apart[:, errors.shares.index(DEMOS / (DEMOS + PAIRS))]
    check = f"mean, over {DRAWS} draws of {DEMOS} demonstrations and {PAIRS} pairs, of the total variation to π^τ"
    claims = []
    for name, column in (("demonstrations", -1), ("preferences", 0)):
        gain = errors.apart[:, column] - each_once
        low = float(gain.mean() - 1.96 * gain.std() / DRAWS**0.5)
        claims.append(
            Claim(
                f"With little data that agree, both kinds together are closer to π^τ than {name} alone.",
                "derived here: with weights in proportion to the counts it is the likelihood of all observations",
                f"{check}, {name} alone − together: lower end of its 95% interval", low, at_least=0.0,
            )
        )  # fmt: skip
    return claims


def _trade_figure(world: World, path: list[Learned]) -> Figure:
    of_demos, of_labels = _misfits(world, path)
    return Figure(
        name="compromise",
        title="The misfit of each kind of data along the weights",
        x_label="share of the weight on demonstrations",
        y_label="nats",
        series=(
            Series("KL(demonstrations‖policy)", list(SHARES), of_demos),
            Series("KL(labels‖σ(R_w − R_l))", list(SHARES), of_labels),
        ),
        caption="Left: preferences alone, a reward model and RLHF. Right: demonstrations alone, imitation.",
    )


def _loop_figure(loop: Loop) -> Figure:
    reached = next((i for i, d in enumerate(loop.distance) if d < 1e-13), len(loop.distance))
    kept = list(loop.distance[: reached + 1])
    return Figure(
        name="single-loop",
        title="One policy step and one reward step in turn",
        x_label="rounds",
        y_label="total variation to the joint optimum",
        series=(Series("single loop", [float(i + 1) for i in range(len(kept))], [max(d, 1e-16) for d in kept]),),
        caption="Weights ½ and ½; the step is the inverse of a bound on the curvature.",
        y_scale="log",
    )


def _finite_figure(errors: _Errors) -> Figure:
    mean, half = errors.mean, errors.half()
    return Figure(
        name="little-data",
        title=f"{DEMOS} demonstrations and {PAIRS} pairs that agree",
        x_label="share of the weight on demonstrations",
        y_label="total variation to π^τ",
        series=(
            Series(
                "mean and 95% interval", list(errors.shares), mean,
                low=[m - h for m, h in zip(mean, half, strict=True)],
                high=[m + h for m, h in zip(mean, half, strict=True)],
            ),
        ),
        caption=f"The share that counts every observation once is {DEMOS / (DEMOS + PAIRS):.2f}.",
    )  # fmt: skip


def _table(world: World, path: list[Learned]) -> Table:
    of_demos, of_labels = _misfits(world, path)
    rows = tuple(
        (
            f"{share:g}", exact.total_variation(one.law, world.demos), exact.total_variation(one.law, path[0].law),
            of_demos[i], of_labels[i],
        )
        for i, (share, one) in enumerate(zip(SHARES, path, strict=True))
    )  # fmt: skip
    columns = ("share on demonstrations", "tv to demonstrations", "tv to preferences alone", "KL(D‖π)", "KL of labels")
    return Table("Along the weights", columns, rows, "tv: the largest total variation of a prompt; KL: means, nats.")
