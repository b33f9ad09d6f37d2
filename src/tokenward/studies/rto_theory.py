"""The theorems of Zhong et al. 2024 on random problems that can be counted out, as claims and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch

from tokenward.lab.theory.chance import two_steps
from tokenward.lab.theory.pessimism import (
    Guarantees,
    compared_answers,
    estimate,
    guarantees,
    linear_rewards,
    performance_difference,
)
from tokenward.lab.theory.queries import Count, count, forced
from tokenward.lab.worlds.tree import grow
from tokenward.studies.study import Claim, Figure, Series, Table

PAPER = "Zhong et al. 2024"
PROBLEMS, TREES = 200, 300
NUMBERS = (64, 256, 1024, 4096, 16384, 65536)
REPEATS = 15
BOUND, SIZE, BETA = 4.0, 2.0, 0.5  # B, ‖θ*‖, β


@final
@dataclass(frozen=True)
class Parts:
    """What goes into the study."""

    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def guarantee_parts() -> Parts:
    """Theorem 4.2, Theorem B.1, Lemma A.2, and the rate in the number of comparisons."""
    many = [_one(seed, number=(8, 64, 512)[seed % 3], horizon=3) for seed in range(PROBLEMS)]
    grown = [[_one(seed, number=number, horizon=4) for seed in range(REPEATS)] for number in NUMBERS]
    medians = {
        "Theorem 4.2": [_median([g.tokens_bound for g in row]) for row in grown],
        "Theorem B.1": [_median([g.policies_bound for g in row]) for row in grown],
        "lost by Algorithm 1": [_median([g.tokens_lose for g in row]) for row in grown],
        "lost by the plan of B.1": [_median([g.policies_lose for g in row]) for row in grown],
    }
    slopes = {name: _slope(values) for name, values in medians.items()}
    rows = tuple((float(n), *(values[i] for values in medians.values())) for i, n in enumerate(NUMBERS))
    factor = 2 + 2 * math.cosh(2 * 4 * BOUND)
    note = (
        f"Medians over {REPEATS} draws. Horizon 4, 3 tokens, 6 features, ‖φ‖ = 1, ‖θ*‖ = {SIZE:g}, β = {BETA:g}. ϱ is "
        f"the oracle's ‖θ_MLE − θ*‖. The paper's own is a bound with a factor 1/Υ = 2 + e^{{2HLB}} + e^{{−2HLB}}, with "
        f"the bound B = {BOUND:g} on ‖θ‖ here {factor:.1e}: it says how fast, not how much."
    )
    table = Table("What is lost, and what the theorems allow", ("comparisons", *medians), rows, note)
    return Parts((*_theorem_claims(many), *_rate_claims(slopes)), (_rate_figure(medians),), (table,))


def _one(seed: int, *, number: int, horizon: int) -> Guarantees:
    eos = 2 if seed % 2 and horizon == 3 else None
    features = 4 if horizon == 3 else 6
    problem = linear_rewards(
        grow(vocab=3, horizon=horizon, eos=eos), features=features, beta=BETA, size=SIZE, seed=seed
    )  # fmt: skip
    gaps = compared_answers(problem, number=number, seed=1000 + seed)
    return guarantees(problem, estimate(problem, gaps, bound=BOUND))


def _theorem_claims(many: list[Guarantees]) -> list[Claim]:
    check = f"over {len(many)} random problems with 8 to 512 comparisons, with the oracle's radius"
    return [
        Claim(
            "Theorem 4.2: planning with pessimistic token rewards loses at most 2ϱ·E_{d*}‖φ‖ − β·E_{d*}KL(π*‖π̂).",
            f"{PAPER}, Theorem 4.2", f"largest loss/bound {check}",
            max(g.tokens_lose / g.tokens_bound for g in many), at_least=0.0, at_most=1.0,
        ),
        Claim(
            "Theorem B.1: planning for the worst reward of the whole ellipsoid loses at most 2ϱ·‖E_{d*}φ‖.",
            f"{PAPER}, Theorem B.1; the plan, by exchanging max and min, is derived here",
            f"largest loss/bound {check}",
            max(g.policies_lose / g.policies_bound for g in many), at_least=0.0, at_most=1.0,
        ),
        Claim(
            "The bound of B.1 is at most the first term of 4.2: doubt about a sum is at most the sum of doubts.",
            "Jensen's inequality", f"largest ratio {check}", max(g.policies_bound / g.coverage for g in many),
            at_most=1.0,
        ),
        Claim(
            "Lemma A.2: V^π − V^π′ = E_{d^π}[Q^π′ − V^π′ − β log π].",
            f"{PAPER}, Lemma A.2", "largest |left − right| over 20 pairs of random policies", _lemma_gap(),
            at_most=1e-10,
        ),
    ]  # fmt: skip


def _lemma_gap() -> float:
    worst, tree = 0.0, grow(vocab=3, horizon=3, eos=2)
    for seed in range(20):
        problem = linear_rewards(tree, features=4, beta=BETA, size=SIZE, seed=seed)
        near, far = (problem.best(sign * problem.theta.flip(0)) for sign in (1.0, -2.0))
        forms = [tree.conditional(law) for law in (near, far, problem.ref)]
        right = performance_difference(
            tree, forms[0], forms[1], ref_logp=forms[2], reward=problem.features @ problem.theta, beta=BETA
        )
        left = problem.suboptimality(far) - problem.suboptimality(near)
        worst = max(worst, abs(float(problem.weight @ right) - left))
    return worst


def _rate_claims(slopes: dict[str, float]) -> list[Claim]:
    check = f"slope of log median against log |D|, {NUMBERS[0]} to {NUMBERS[-1]:,} comparisons, {REPEATS} draws each"
    return [
        Claim(
            "The bound of Theorem 4.2 falls like |D|^(−1/2).", f"{PAPER}, after Theorem 4.2",
            check, slopes["Theorem 4.2"], at_least=-0.65, at_most=-0.4,
        ),
        Claim(
            "So does that of Theorem B.1.", f"{PAPER}, after Theorem 4.2",
            check, slopes["Theorem B.1"], at_least=-0.65, at_most=-0.4,
        ),
        Claim(
            "What is lost falls twice as fast, like |D|^(−1): it is β·KL(π̂‖π*), quadratic in the reward's error.",
            "derived here; the pull to the reference makes the value smooth in the reward",
            check, slopes["lost by Algorithm 1"], at_least=-1.25, at_most=-0.75,
        ),
    ]  # fmt: skip


def _rate_figure(medians: dict[str, list[float]]) -> Figure:
    x = [float(n) for n in NUMBERS]
    start = medians["Theorem 4.2"][0]
    half = Series("slope −½", x, [1.6 * start * math.sqrt(x[0] / n) for n in x])
    return Figure(
        name="comparisons",
        title="Loss and its bounds against the number of comparisons",
        x_label="comparisons |D|",
        y_label="value V_β",
        series=(*(Series(name, x, values) for name, values in medians.items()), half),
        caption="Medians. Above: what the theorems allow with the oracle's radius, along slope −½. Below: what the "
        "policies lose, along slope −1.",
        x_scale="log",
        y_scale="log",
    )


def query_parts() -> Parts:
    """Proposition 3.2: its count, where it fails, and the count that holds."""
    counts = _random_counts()
    broken = sum(one.revealed > one.claimed * (1 + 1e-9) for one in counts) / len(counts)
    single = [_single(horizon) for horizon in range(1, 11)]
    source = f"{PAPER}, Proposition 3.2, as we read it"
    claims = (
        Claim(
            "The count A^min(ξ+1, H) of answers to score with token rewards is too small.",
            f"{source}; that it fails is found here",
            f"share of {len(counts)} random trees in which the proof's prefixes outnumber it",
            broken, at_least=0.5,
        ),
        Claim(
            "Their number is 1 + (A−1)·Σ_{h<H} |heavy prefixes of length h| …",
            "derived here", "largest difference over the same trees",
            float(max(abs(one.revealed - one.corrected) for one in counts)), at_most=0.0,
        ),
        Claim(
            "… and at most 1 + (A−1)·H·A^ξ, which is still exponentially below A^H.",
            "derived here", "largest number/bound over the same trees",
            max(one.revealed / one.bound for one in counts), at_most=1.0 + 1e-9,
        ),
        Claim(
            "One certain answer of 3 tokens, 2 to choose from: an adversary forces 3 scored answers, not 2.",
            f"{source} claims A^(ξ+1) = 2; the counter-example is found here",
            "answers forced, by search of the whole game in which a score shows the first wrong token",
            float(forced(vocab=2, horizon=3, shown="tokens")), at_least=3.0, at_most=3.0,
        ),
        Claim(
            "With one reward for the whole answer it forces all but one of the 2³: token rewards do help.",
            source, "answers forced, by search of the game in which a score shows only whether all is right",
            float(forced(vocab=2, horizon=3, shown="answer")), at_least=7.0, at_most=7.0,
        ),
    )  # fmt: skip
    return Parts(claims, (_single_figure(single), _random_figure(counts)), ())


def _single(horizon: int) -> Count:
    return count(grow(vocab=2, horizon=horizon, eos=None), torch.eye(2**horizon, dtype=torch.float64)[0])


def _random_counts() -> list[Count]:
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 3), (2, 5), (2, 7), (3, 3), (3, 4), (4, 3))
    trees = [grow(vocab=vocab, horizon=horizon, eos=None) for vocab, horizon in shapes]
    counts = []
    for i in range(TREES):
        tree = trees[i % len(trees)]
        spread = 10 * torch.rand((), generator=random, dtype=torch.float64)
        law = torch.softmax(spread * torch.randn(tree.leaves, generator=random, dtype=torch.float64), 0)
        counts.append(count(tree, law))
    return counts


def _single_figure(single: list[Count]) -> Figure:
    x = [float(h) for h in range(1, len(single) + 1)]
    return Figure(
        name="certain-answer",
        title="Scored answers that find one certain answer, two tokens to choose from",
        x_label="tokens H",
        y_label="scored answers",
        series=(
            Series("one reward per answer: 2^H", x, [2.0**h for h in x]),
            Series("token rewards: 1 + H", x, [float(one.revealed) for one in single]),
            Series("claimed for token rewards: 2", x, [one.claimed for one in single]),
        ),
        caption="ξ = 0. Each scored answer shows its first wrong token and nothing behind it.",
        y_scale="log",
    )


def _random_figure(counts: list[Count]) -> Figure:
    top = max(max(one.claimed, one.revealed) for one in counts)
    return Figure(
        name="queries",
        title="The count of Proposition 3.2 on random trees",
        x_label="claimed: A^min(ξ+1, H)",
        y_label="prefixes that answers can reveal",
        series=(
            Series("equal", [1.0, top], [1.0, top]),
            Series("a random tree", [one.claimed for one in counts], [float(one.revealed) for one in counts], "points"),
        ),
        caption="Above the line the claimed count is too small.",
        x_scale="log",
        y_scale="log",
    )


def chance_claims() -> tuple[Claim, ...]:
    """What fails when the environment rolls dice."""
    coin, lopsided = two_steps(), two_steps(other=0.25)
    return (
        Claim(
            "Proposition C.2: where the environment rolls dice, the best answer fixed in advance can lose ½ of 1.",
            f"{PAPER}, Proposition C.2", "value of the best policy − value of the best fixed sequence; one fair coin",
            coin.closed_loop() - coin.open_loop(), at_least=0.5, at_most=0.5,
        ),
        Claim(
            "There Σ β log π*/π_ref is no longer the return up to a constant: the implicit reward of DPO breaks.",
            f"{PAPER}, the term (★) of Eq. 4.3", "largest deviation over trajectories, β = 1, rewards 1 and ¼",
            lopsided.telescoping_gap(beta=1.0), at_least=0.1,
        ),
        Claim(
            "Without dice it is: the same sum, where the next state is the prefix with its token.",
            "Rafailov et al. 2024, Eq. 7–8", "the same deviation with the coin replaced by the action",
            lopsided.by_action().telescoping_gap(beta=1.0), at_most=1e-12,
        ),
    )  # fmt: skip


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def _slope(values: list[float]) -> float:
    x = torch.tensor(NUMBERS, dtype=torch.float64).log()
    y = torch.tensor(values, dtype=torch.float64).log()
    x = x - x.mean()
    return float(x @ y / (x @ x))
