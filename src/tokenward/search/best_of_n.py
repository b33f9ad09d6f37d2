"""Best of n samples, by reward, implicit reward or likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from tokenward.errors import InputError
from tokenward.search.budget import Budget, Meter, Progress
from tokenward.search.problem import Answer, Path, Problem, double, ranked, scale

Best = Literal["reward", "likelihood", "implicit"]
ROUNDS = 8  # of samples, under a budget


def best_of_n(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    n: int,
    by: Best = "reward",
    beta: float = 1.0,
    seed: int = 0,
    budget: Budget | None = None,
    tell: Progress | None = None,
) -> Answer[Any]:
    """The best of n independent samples for each prompt.

    `by` "reward" asks the problem's own `score`; "implicit" is β Σ_t log π/π_ref; "likelihood" Σ_t log π.
    The samples follow π exactly when the problem offers every token as a move. With a budget, n is the most.
    """
    beta = scale(beta) if by == "implicit" else beta
    groups, forwarded = draws(problem, prompts, n=n, seed=seed, budget=budget, tell=tell)
    return Answer(tuple(ranked(paths, scores_of(problem, paths, by=by, beta=beta)) for paths in groups), forwarded)


def draws(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    n: int,
    seed: int = 0,
    budget: Budget | None = None,
    tell: Progress | None = None,
) -> tuple[list[list[Path[Any]]], int]:
    """n samples of each prompt, and the tokens read: all in one round, or under a budget in rounds until it is spent.

    A round is an eighth of n, whole texts of every prompt; each reads the prompts again.
    """
    meter = Meter(budget or Budget(), tell)
    size = n if budget is None else max(1, n // ROUNDS)
    found: list[list[Path[Any]]] = [[] for _ in prompts]
    for number, start in enumerate(range(0, max(n, 1), max(size, 1))):  # n < 1 is refused by `sample`
        if number and meter.spent:
            break
        each = min(size, n - start)
        copies = [prompt for prompt in prompts for _ in range(each)]
        paths, forwarded = sample(problem, copies, n=each, seed=seed + 1_000_003 * number)
        meter.read(forwarded)
        for place, paths_of_one in enumerate(found):
            paths_of_one += paths[place * each : (place + 1) * each]
    return found, meter.forwarded


def scores_of(problem: Problem[Any, Any], paths: Sequence[Path[Any]], *, by: Best, beta: float) -> list[float]:
    """What finished paths are ranked by."""
    if by == "reward":
        return problem.score([path.state for path in paths])
    return [path.total(by=by, beta=beta) for path in paths]


def sample(
    problem: Problem[Any, Any], prompts: Sequence[Any], *, n: int = 1, seed: int = 0
) -> tuple[list[Path[Any]], int]:
    """One finished path for each of the prompts, drawn token by token, and the tokens that models read for them.

    `n` copies of a prompt stand together and share their root, which is read once.
    """
    if n < 1:
        raise InputError(f"best of n needs n of 1 or more, got {n}")
    random = torch.Generator().manual_seed(seed)
    roots = [problem.root(prompt) for prompt in prompts[::n]]
    paths: list[Path[Any]] = [Path(roots[i // n]) for i in range(len(prompts))]
    forwarded = 0
    while live := [i for i, path in enumerate(paths) if not problem.terminal(path.state)]:
        row_of: dict[int, int] = {}  # equal states are read once
        for i in live:
            row_of.setdefault(id(paths[i].state), len(row_of))
        states = {id(paths[i].state): paths[i].state for i in live}
        moves = problem.expand([states[key] for key in row_of])
        forwarded += moves.forwarded
        rows = torch.tensor([row_of[id(paths[i].state)] for i in live])
        logp = double(moves.logp)[rows]
        chosen = torch.multinomial(logp.exp(), 1, generator=random)
        tokens = moves.tokens.cpu()[rows].gather(-1, chosen).squeeze(-1).tolist()
        gains = logp.gather(-1, chosen).squeeze(-1).tolist()
        refs: list[float | None] = [None] * len(live)
        if moves.ref_logp is not None:
            refs = double(moves.ref_logp)[rows].gather(-1, chosen).squeeze(-1).tolist()
        for i, token, gain, ref in zip(live, tokens, gains, refs, strict=True):
            paths[i] = paths[i].step(problem.child(paths[i].state, token), token=token, logp=gain, ref_logp=ref)
    return paths, forwarded


def kl_bound(n: int) -> float:
    """log n − (n−1)/n ≥ KL(best of n ‖ π), in nats (Beirami et al. 2024, Theorem 1).

    >>> round(kl_bound(8), 4)
    1.2044
    """
    return math.log(n) - (n - 1) / n
