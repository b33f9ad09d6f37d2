"""Value-guided decoding: one token after another from the policy's law, reweighted by what the next state is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.search.budget import Budget, Meter, Progress
from tokenward.search.leaves import Ends, before_the_end, critic_values
from tokenward.search.problem import (
    NEVER,
    Answer,
    Moves,
    Path,
    Problem,
    double,
    offered,
    ranked,
    scale,
    with_reference,
)

By = Literal["critic", "implicit"]
Take = Literal["sample", "argmax", "rerank"]


def guided(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    by: By,
    take: Take = "argmax",
    eta: float = 1.0,
    beta: float = 1.0,
    top: int | None = None,
    ends: Ends = "score",
    budget: Budget | None = None,
    seed: int = 0,
    tell: Progress | None = None,
) -> Answer[Any]:
    """One text for each prompt, token by token among the `top` likeliest tokens (None: all on offer).

    q(a|s) ∝ π(a|s)·exp(Q(s,a)/η): `take` "sample" draws from q, "argmax" takes its likeliest token, and "rerank" the
    token of the largest Q alone. `by` "critic": Q(s,a) = V(s·a), which reads every candidate; an end is worth its
    score, or with `ends` "critic" V of the state before its last token · "implicit": Q(s,a) = β log π/π_ref(a|s), an
    optimal advantage, which reads nothing more. With π = π_ref, V = V* and η = τ, q is π^τ exactly where the reward
    comes at the end (derived here: π^τ ∝ π_ref·exp(Q*/τ)). Once the budget is spent texts go on by the policy's
    likeliest token.

    Sources: q with a learned V: Han et al. 2024 (value augmented sampling); Mudgal et al. 2024 (controlled decoding).
    """
    if not (math.isfinite(eta) and eta > 0) or (top is not None and top < 1):
        raise InputError(f"guided decoding needs a finite eta above 0 and top of 1 or more, got {eta} and {top}")
    beta = scale(beta) if by == "implicit" else beta
    meter, random = Meter(budget or Budget(), tell), torch.Generator().manual_seed(seed)
    paths: list[Path[Any]] = [Path(problem.root(prompt)) for prompt in prompts]
    opened: Moves | None = None  # of the live paths' states, where the last step has read them
    while live := [i for i, path in enumerate(paths) if not problem.terminal(path.state)]:
        if opened is None:
            opened = offered(problem.expand([paths[i].state for i in live]), by=by)
            meter.read(opened.forwarded)
        longer, moves = _children(problem, [paths[i] for i in live], opened, top=top)
        if meter.spent:
            chosen = [0] * len(live)  # the likeliest: moves stand in that order
            opened = None
        else:
            q, after = _worth(problem, longer, moves, meter, by=by, ends=ends, beta=beta)
            chosen = pick(moves.logp, q, take=take, eta=eta, random=random)
            opened = _next(longer, chosen, after)
        for i, row, move in zip(live, longer, chosen, strict=True):
            paths[i] = row[move]
    totals = [path.total(by="implicit", beta=beta) if by == "implicit" else path.logp for path in paths]
    return Answer(tuple(ranked([p], [t]) for p, t in zip(paths, totals, strict=True)), meter.forwarded)


def guided_law(logp: Float[Tensor, "N K"], q: Float[Tensor, "N K"], *, eta: float) -> Float[Tensor, "N K"]:
    """log softmax(log π + Q/η); what π never writes stays out."""
    return torch.where(logp == NEVER, logp, logp + q / eta).log_softmax(-1)


def pick(
    logp: Float[Tensor, "N K"], q: Float[Tensor, "N K"], *, take: Take, eta: float, random: torch.Generator
) -> list[int]:
    """The number of the move that each state takes; of equal ones the likelier."""
    if take == "rerank":
        found: list[int] = q.masked_fill(logp == NEVER, NEVER).argmax(-1).tolist()
        return found
    law = guided_law(logp, q, eta=eta)
    drawn: Tensor = law.argmax(-1) if take == "argmax" else torch.multinomial(law.exp(), 1, generator=random)[:, 0]
    return [int(move) for move in drawn]


def _children(
    problem: Problem[Any, Any], paths: Sequence[Path[Any]], moves: Moves, *, top: int | None
) -> tuple[list[list[Path[Any]]], Moves]:
    """Every path's candidates, likeliest first, and their moves in that order."""
    logp, order = double(moves.logp).sort(dim=-1, descending=True, stable=True)
    logp, order = (part[:, :top] for part in (logp, order))
    tokens = moves.tokens.cpu().gather(-1, order)
    ref = None if moves.ref_logp is None else double(moves.ref_logp).gather(-1, order)
    rows: list[list[Path[Any]]] = []
    for number, path in enumerate(paths):
        real = int((logp[number] > NEVER).sum())
        rows.append(
            [
                path.step(
                    problem.child(path.state, token), token=token, logp=float(logp[number, k]),
                    ref_logp=None if ref is None else float(ref[number, k]),
                )
                for k, token in enumerate(tokens[number, :real].tolist())
            ]
        )  # fmt: skip
    return rows, Moves(tokens, logp, ref, moves.value)


def _worth(
    problem: Problem[Any, Any],
    rows: Sequence[Sequence[Path[Any]]],
    moves: Moves,
    meter: Meter,
    *,
    by: By,
    ends: Ends,
    beta: float,
) -> tuple[Float[Tensor, "N K"], dict[int, tuple[Moves, int]]]:
    """Q of every candidate, and what was read of it: by the identity of its path, (moves, row)."""
    if by == "implicit":
        return beta * (moves.logp - with_reference(moves.ref_logp)), {}
    q = torch.zeros_like(moves.logp)
    before = critic_values(moves)
    flat = [(n, k, path) for n, row in enumerate(rows) for k, path in enumerate(row)]
    done = [one for one in flat if problem.terminal(one[2].state)]
    going = [one for one in flat if not problem.terminal(one[2].state)]
    scores = problem.score([path.state for _, _, path in done]) if ends == "score" and done else None
    for place, (n, k, path) in enumerate(done):
        q[n, k] = before_the_end(path.state, before[n]) if scores is None else scores[place]
    if not going:
        return q, {}
    read = problem.expand([path.state for _, _, path in going])
    meter.read(read.forwarded)
    for (n, k, _), value in zip(going, critic_values(read), strict=True):
        q[n, k] = value
    return q, {id(path): (read, row) for row, (_, _, path) in enumerate(going)}


def _next(
    rows: Sequence[Sequence[Path[Any]]], chosen: Sequence[int], after: dict[int, tuple[Moves, int]]
) -> Moves | None:
    """The moves of the chosen candidates that go on, if they were read with the others."""
    kept = [after[id(row[k])] for row, k in zip(rows, chosen, strict=True) if id(row[k]) in after]
    if not kept:
        return None
    read, index = kept[0][0], torch.tensor([row for _, row in kept])
    ref = None if read.ref_logp is None else read.ref_logp[index]
    return Moves(read.tokens[index], read.logp[index], ref, None if read.value is None else read.value[index])
