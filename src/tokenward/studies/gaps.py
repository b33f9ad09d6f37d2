"""What a pair's reward gap does to its speed under DPO's log-sigmoid: a fast start, a slow end."""

from __future__ import annotations

import math

import torch

from tokenward.lab.solving.problem import Problem
from tokenward.lab.worlds.tree import grow
from tokenward.lab.worlds.world import Listed, Prompt, World
from tokenward.recipes import build
from tokenward.studies.study import Claim, Figure, Series

GAPS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def gap_claims(tau: float) -> list[Claim]:
    """The force at the reference and the curvature at the optimum of one pair, against their formulas."""
    seen = [_speeds(gap, tau, "dpo") for gap in GAPS]
    start = max(abs(one[0] - tau / 2 * math.tanh(gap / 2)) for one, gap in zip(seen, GAPS, strict=True))
    end = max(abs(one[1] - tau**2 * _steep(gap)) for one, gap in zip(seen, GAPS, strict=True))
    rda = [_speeds(gap, tau, "rda")[1] for gap in GAPS]
    return [
        Claim(
            "Under DPO a pair starts with force ½τ·tanh(gap/2), growing with its reward gap, and ends with curvature "
            "τ²σ′(gap), falling with it: clear pairs start fast and finish slowly.",
            "derived here",
            f"largest error of the two formulas against the recipe's own derivatives, over {len(GAPS)} gaps",
            max(start, end),
            at_most=1e-9,
        ),
        Claim(
            "Reward differences (RDA) have no such effect.",
            "derived here",
            "largest over smallest curvature over the same gaps",
            max(rda) / min(rda),
            at_most=1 + 1e-9,
        ),
    ]


def gap_figure(tau: float) -> Figure:
    """Both against the gap, each over its largest."""
    seen = [_speeds(gap, tau, "dpo") for gap in GAPS]
    first, last = [one[0] for one in seen], [one[1] for one in seen]
    return Figure(
        name="gap",
        title="One pair under DPO",
        x_label="reward gap of the pair",
        y_label="share of the largest",
        series=(
            Series("force at the reference", GAPS, [x / max(first) for x in first]),
            Series("curvature at the optimum", GAPS, [x / max(last) for x in last]),
        ),
        caption="A pair with a clear winner pulls hard at first; what remains of its error then shrinks slowly, "
        "because the log-sigmoid is flat there. Pairs of equal answers: the reverse.",
    )


def _speeds(gap: float, tau: float, recipe: str) -> tuple[float, float]:
    """Slope by the winner's logit at π_ref, and half the curvature along (1, −1)/√2 at π^τ, of a world of one pair."""
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    reward = torch.tensor([gap, 0.0], dtype=torch.float64)
    one_pair = torch.tensor([[0, 1]])
    prompt = Prompt(ref=half, reward=reward, pairs=Listed(one_pair, torch.ones(1, dtype=torch.float64)))
    world = World(tau, grow(vocab=2, horizon=1, eos=None), (prompt,))
    problem = Problem(build(recipe, beta=tau), world, guide=None, old=None)
    problem.freeze_batch()
    force = -float(problem.gradient()[0][0, 0, 0])
    problem.move_to(world.target.log().flatten())
    _, hessian = problem.gradient_and_hessian()
    return force, float(hessian[0, 0])


def _steep(gap: float) -> float:
    """σ′(gap)."""
    p = 1 / (1 + math.exp(-gap))
    return p * (1 - p)
