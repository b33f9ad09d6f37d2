"""Is the log-ratio credit? Against the exact optimal advantage: in the population, and from N pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.lab.optima.exact import SoftValues, soft_values
from tokenward.lab.solving.optimizers import descend
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.reading import sampled
from tokenward.lab.solving.solve import solve
from tokenward.lab.theory.ranking import ranked
from tokenward.lab.worlds.empirical import drawn
from tokenward.lab.worlds.tree import Tree, grow
from tokenward.lab.worlds.world import Labels, Prompt, Samples, World, default_world
from tokenward.recipes import build
from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table
from tokenward.studies.worlds import described, labeled

PAPER = "Rafailov et al. 2024, Eq. 10 and §4.2"
OURS = "derived here"
VOCAB, HORIZON, PLACE, WRONG, LOSS = 3, 3, 1, 0, 2.0  # one token decides: reward −LOSS where token PLACE is WRONG
PULLS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # how strongly the first token sets the odds of the deciding one
NUMBERS = (16, 64, 256, 1024)  # of pairs
SEEDS, STEPS = 8, 40
STUDENT = 2.36  # 0.975 quantile of Student's t with SEEDS − 1 degrees of freedom


def credit_lab(world: World | None) -> Study:
    """DPO's token log-ratios against exact advantages, and how well they find the token that decides."""
    given = labeled(world or default_world())
    one = deciding(pull=0.0)
    pulled = [(pull, *_exact(deciding(pull=pull))) for pull in PULLS]
    runs = {name: _runs(one, labels) for name, labels in LABELS.items()}
    return Study(
        name="credit-lab",
        title="Is the log-ratio credit?",
        question=(
            "DPO sees whole answers and labels of whole answers. Its token log-ratio τ log π/π_ref is called credit. "
            "Is it the advantage of the token, does it find the token that decides, and how many pairs does that take?"
        ),
        world=f"{described(given)}; one deciding token: {described(one)}",
        claims=(*_population_claims(given), *_deciding_claims(pulled), *_finite_claims(runs)),
        figures=(_number_figure(runs), _pull_figure(pulled)),
        tables=(_table(runs, one),),
        notes=(
            f"One deciding token: the reward is −{LOSS:g} where token {PLACE + 1} of {HORIZON} is a certain one of "
            f"{VOCAB}, 0 otherwise. Scores: −credit, and two baselines that read no label and are exact. AUC: for that "
            "token against every other token of texts of π_ref, each with its probability; at equal scores ½. "
            "Correlation: of −score with A*.",
            f"N pairs of two texts of π_ref with one drawn label; DPO with a free logit for each token of each state, "
            f"{STEPS} steps of gradient descent from π_ref (few pairs have no optimum). {SEEDS} draws of the pairs; "
            f"intervals are the mean ± {STUDENT:g} standard errors over them (95 %, Student's t), cut at the ends of "
            "what the number can be.",
            "Swapped labels have the optimum π_ref·exp(−r/τ)/Z: each credit changes sign but not by the same factor, "
            "so the AUC goes to 0 while the correlation with A* stays above −1.",
            "The wrong token is the likeliest of π_ref, so −log π_ref ranks it last: here likelihood does not pass for "
            "credit, in other worlds it may.",
        ),
    )


LABELS = {"true labels": Labels(), "random labels": Labels(noise=0.5), "swapped labels": Labels(noise=1.0)}


def deciding(*, pull: float) -> World:
    """One token decides; `pull` is how strongly π_ref's first token sets the odds of it (0: it stands alone).

    π_ref(a|s) ∝ exp(½ cos(1.3a + 0.7t)), at PLACE and a = WRONG exp(pull·(1 − y_1)) besides: the first token's three
    values make the wrong one likelier, leave it as it is, make it less likely.
    """
    tree = grow(vocab=VOCAB, horizon=HORIZON, eos=None)
    tokens = torch.arange(VOCAB, dtype=torch.float64)
    logits = torch.zeros(1, tree.states, VOCAB, dtype=torch.float64)
    for depth, level in enumerate(tree.levels):
        logits[0, level] = 0.5 * torch.cos(1.3 * tokens + 0.7 * depth)
    first = torch.zeros(tree.states, dtype=torch.long)
    first[tree.state] = tree.tokens[:, :1].expand(-1, HORIZON)  # the first token of the texts through a state
    logits[0, tree.levels[PLACE], WRONG] += pull * (1 - first[tree.levels[PLACE]].double())
    ref = tree.leaf_sum(torch.log_softmax(logits, -1))[0].exp()
    reward = -LOSS * (tree.tokens[:, PLACE] == WRONG).double()
    return World(0.7, tree, (Prompt(ref=ref / ref.sum(), reward=reward, pairs="sampler"),))


def optimum(world: World) -> SoftValues:
    """Exact soft values, Q, V and A of every token, for the reward at a text's last token."""
    return soft_values(world.tree, world.tree.conditional(world.ref), world.tree.outcome(world.reward), tau=world.tau)


def credit(world: World, law: Float[Tensor, "X L"]) -> Float[Tensor, "X S V"]:
    """τ (log π(a|s) − log π_ref(a|s)) of every token of every state."""
    return world.tau * (world.tree.conditional(law) - world.tree.conditional(world.ref))


def found(world: World, table: Float[Tensor, "X S V"]) -> float:
    """AUC of −table for the deciding token where it is wrong, against all other tokens of texts of π_ref."""
    tree = world.tree
    scores = -tree.rows(table)
    events = tree.leaves * tree.horizon
    area, _ = ranked(
        scores.flatten().round(decimals=9), positive=_decides(tree).flatten(), owner=torch.arange(events),
        copies=world.ref[0][:, None].expand(-1, tree.horizon).reshape(1, events),
    )  # fmt: skip
    return float(area[0])


def together(world: World, one: Float[Tensor, "X S V"], two: Float[Tensor, "X S V"]) -> float:
    """Correlation of two tables over the tokens of texts of π_ref, each with its probability."""
    weight = (world.ref[..., None] * world.tree.mask).flatten() / world.tree.mask.sum()
    weight = weight / weight.sum()
    columns = torch.stack([world.tree.rows(table).flatten() for table in (one, two)])
    rest = columns - (columns * weight).sum(-1, keepdim=True)
    moments = (weight * rest) @ rest.T
    return float(moments[0, 1] / (moments[0, 0] * moments[1, 1]).sqrt())


def _decides(tree: Tree) -> Bool[Tensor, "L T"]:
    wrong = torch.zeros(tree.leaves, tree.horizon, dtype=torch.bool)
    wrong[:, PLACE] = tree.tokens[:, PLACE] == WRONG
    return wrong


def _exact(world: World) -> tuple[float, float, float]:
    """AUC of the exact advantage; the share of Σ|A| before the deciding token, of texts of π_ref; the largest after."""
    advantage = optimum(world).advantage
    size = world.tree.rows(advantage).abs()
    by_place = (world.ref[0][:, None] * size).sum(0)
    return found(world, advantage), float(by_place[:PLACE].sum() / by_place.sum()), float(size[:, PLACE + 1 :].max())


def _population_claims(world: World) -> tuple[Claim, ...]:
    law = solve(build("dpo", beta=world.tau), world).law
    table, values = credit(world, law), optimum(world)
    total = world.tree.leaf_sum(table) - (world.reward - world.normalizer[:, None])
    return (
        Claim(
            "With every pair labeled by its probability, DPO's τ log π/π_ref of a token is its advantage A* = Q* − V*.",
            PAPER, "largest |τ log π/π_ref − A*| over all tokens; A* by backward induction, π where DPO came to rest",
            float((table - values.advantage).abs().max()), at_most=1e-5,
        ),
        Claim(
            "Over a text the credits add up to r − τ log Z: what the text is worth beyond what its prompt promised.",
            PAPER, "largest |Σ_t τ log π/π_ref − (r − τ log Z)| over all texts", float(total.abs().max()), at_most=1e-5,
        ),
    )  # fmt: skip


def _deciding_claims(pulled: list[tuple[float, float, float, float]]) -> tuple[Claim, ...]:
    (_, alone, _, _), (strongest, least, share, _) = pulled[0], pulled[-1]
    return (
        Claim(
            "When exactly one token matters and π_ref's odds of it do not depend on what stands before, credit finds "
            "it without fail.",
            OURS, "1 − AUC of −A* for the deciding token where it is wrong", 1 - alone, at_most=1e-9,
        ),
        Claim(
            "Nothing after the deciding token has credit, whatever π_ref is.",
            OURS, f"largest |A*| behind it, over {len(pulled)} references", max(row[3] for row in pulled), at_most=1e-9,
        ),
        Claim(
            "Where an earlier token sets the odds, that token takes the credit, and the wrong one is found less "
            "surely: credit is where the outcome was decided, not where the error can be read.",
            OURS, f"AUC of −A* where the first token multiplies the odds by e^±{strongest:g}; before the deciding "
            f"token lies {share:.0%} of Σ|A*|", least, at_most=0.99,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class Run:
    """What DPO learned from N pairs of one draw: AUC for the deciding token, correlation of its credit with A*."""

    number: int
    seed: int
    area: float
    correlation: float


def _runs(world: World, labels: Labels) -> list[Run]:
    exact = optimum(world).advantage
    runs = []
    for number in NUMBERS:
        for seed in range(SEEDS):
            table = credit(world, learned(world, labels, number=number, seed=seed))
            runs.append(Run(number, seed, found(world, table), together(world, table, exact)))
    return runs


def learned(world: World, labels: Labels, *, number: int, seed: int) -> Float[Tensor, "X L"]:
    """The policy of DPO after STEPS steps of gradient descent on N pairs of two texts of π_ref."""
    (prompt,) = world.prompts
    given = replace(world, prompts=(replace(prompt, labels=labels, samples=Samples(number, seed)),))
    recipe = build("dpo", beta=world.tau)
    problem = Problem(recipe, drawn(sampled(recipe, given)), guide=None, old=None)
    problem.freeze_batch()
    descend(problem, limit=STEPS)
    with torch.no_grad():
        return problem.policy().law()


def _finite_claims(runs: dict[str, list[Run]]) -> tuple[Claim, ...]:
    few, many = NUMBERS[0], NUMBERS[-1]
    ends = {name: _mean(runs[name], many, "area") for name in runs}
    start, coin = _mean(runs["true labels"], few, "area"), _mean(runs["random labels"], None, "area")
    check = "mean AUC over draws of the pairs; measured:"
    return (
        Claim(
            "More pairs, better credit.", "measured here",
            f"{check} lower end at N = {many} − upper end at N = {few}, {_shown(start)} then "
            f"{_shown(ends['true labels'])}", ends["true labels"][1] - start[2], at_least=0.0,
        ),
        Claim(
            "Labels of a coin teach nothing.", "measured here",
            f"{check} the interval's distance from ½, over every N: {_shown(coin)}",
            max(0.0, coin[1] - 0.5, 0.5 - coin[2]), at_most=0.0,
        ),
        Claim(
            "Swapped labels turn it round.", "measured here",
            f"{check} upper end at N = {many}: {_shown(ends['swapped labels'])}",
            ends["swapped labels"][2], at_most=0.5,
        ),
    )  # fmt: skip


def _mean(runs: list[Run], number: int | None, what: str) -> tuple[float, float, float]:
    """Mean over the draws of one number of pairs and the ends of its interval; None: of each seed's mean over all.

    The ends are cut where an AUC (0, 1) or a correlation (−1, 1) ends.
    """
    some = [run for run in runs if number in (None, run.number)]
    values = [fmean(float(getattr(run, what)) for run in some if run.seed == seed) for seed in range(SEEDS)]
    middle, reach = fmean(values), STUDENT * stdev(values) / SEEDS**0.5
    return middle, max(0.0 if what == "area" else -1.0, middle - reach), min(1.0, middle + reach)


def _shown(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


def baselines(world: World) -> dict[str, Float[Tensor, "X S V"]]:
    """What π_ref alone says of each token, which knows no label: tables that are low where it finds an error."""
    ref = world.tree.conditional(world.ref)
    entropy = torch.special.entr(ref.exp()).sum(-1)
    return {"−log π_ref": ref, "entropy of π_ref": -entropy[..., None].expand(ref.shape)}


def _table(runs: dict[str, list[Run]], world: World) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            f"credit, {name}",
            float(number),
            _shown(_mean(some, number, "area")),
            _shown(_mean(some, number, "correlation")),
        )
        for name, some in runs.items()
        for number in NUMBERS
    ]
    exact = optimum(world).advantage
    for name, table in baselines(world).items():
        rows.append((name, None, f"{found(world, table):z.3f}", f"{together(world, table, exact):z.3f}"))
    return Table(
        "Credit from N pairs", ("score", "N", "AUC for the deciding token", "correlation with A*"), tuple(rows)
    )


def _number_figure(runs: dict[str, list[Run]]) -> Figure:
    lines = []
    for name, some in runs.items():
        means = [_mean(some, number, "area") for number in NUMBERS]
        middle, low, high = (list(column) for column in zip(*means, strict=True))
        lines.append(Series(name, list(map(float, NUMBERS)), middle, low=low, high=high))
    return Figure(
        "number-of-pairs", "Finding the token that decides", "pairs", "AUC of −credit", tuple(lines),
        f"Mean over {SEEDS} draws of the pairs; bands: 95 % intervals of the mean. ½ is chance, 1 the exact advantage.",
        x_scale="log",
    )  # fmt: skip


def _pull_figure(pulled: list[tuple[float, float, float, float]]) -> Figure:
    pulls = [row[0] for row in pulled]
    return Figure(
        "earlier-token", "Credit moves to where the outcome is decided", "pull of the first token, nats", "",
        (Series("AUC of −A* for the wrong token", pulls, [row[1] for row in pulled]),
         Series("share of Σ|A*| before it", pulls, [row[2] for row in pulled])),
        "Exact advantages. At 0 π_ref's odds of the deciding token are the same in every context.",
    )  # fmt: skip
