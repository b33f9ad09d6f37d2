"""Beam search on likelihood or implicit reward, many prompts in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tokenward.errors import InputError
from tokenward.search.problem import Answer, By, Moves, Path, Problem, double, ranked, with_reference

Length = Literal["sum", "mean"]


def beam_search(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    width: int,
    by: By = "likelihood",
    beta: float = 1.0,
    length: Length = "sum",
) -> Answer[Any]:
    """The best finished path per prompt among those that a beam of `width` reaches.

    At each step the `width` best children of all live paths of a prompt are kept; those that end leave the beam.
    `by` says what a path is worth: Σ log π, or the implicit reward β Σ log π/π_ref. `length` says how finished paths of
    different lengths are compared: "sum" as they stand, so likelihood prefers short texts; "mean" divides by the number
    of tokens. Width 1 is greedy; a beam as wide as the tree finds the maximum (by likelihood and sum: the MAP text).
    By likelihood and sum a prompt is done when no live path can still win, because Σ log π only falls.
    """
    if width < 1:
        raise InputError(f"beam width must be 1 or more, got {width}")
    live: list[list[Path[Any]]] = [[Path(problem.root(prompt))] for prompt in prompts]
    done: list[list[Path[Any]]] = [[] for _ in prompts]
    forwarded = 0
    while any(live):
        flat = [path for paths in live for path in paths]
        moves = problem.expand([path.state for path in flat])
        forwarded += moves.forwarded
        row = 0
        for number, paths in enumerate(live):
            kept = _best_children(problem, paths, moves, row, width=width, by=by, beta=beta)
            row += len(paths)
            done[number] += [path for path in kept if problem.terminal(path.state)]
            live[number] = [path for path in kept if not problem.terminal(path.state)]
            if by == "likelihood" and length == "sum" and done[number] and live[number]:
                best = max(path.logp for path in done[number])
                live[number] = [path for path in live[number] if path.logp > best]
    scores = [[path.total(by=by, beta=beta) / _divisor(path, length) for path in paths] for paths in done]
    return Answer(tuple(ranked(p, s) for p, s in zip(done, scores, strict=True)), forwarded)


def _best_children(
    problem: Problem[Any, Any], paths: list[Path[Any]], moves: Moves, first: int, *, width: int, by: By, beta: float
) -> list[Path[Any]]:
    """The best `width` one-token extensions of the paths, whose moves stand at rows first, first + 1, …"""
    options: list[tuple[float, int, int]] = []  # (worth, path, move); ties go to the earlier path and lower move
    for offset, path in enumerate(paths):
        row = first + offset
        logp = double(moves.logp[row])
        gain = logp if by == "likelihood" else beta * (logp - double(with_reference(moves.ref_logp)[row]))
        worth = (gain + path.total(by=by, beta=beta)).masked_fill(logp == -float("inf"), -float("inf"))
        values, index = worth.sort(descending=True, stable=True)
        found = zip(values[:width].tolist(), index[:width].tolist(), strict=True)
        options += [(-value, offset, move) for value, move in found if value > -float("inf")]
    kept = []
    for _, offset, move in sorted(options)[:width]:
        token, row = int(moves.tokens[first + offset, move]), first + offset
        ref = None if moves.ref_logp is None else float(moves.ref_logp[row, move])
        state = problem.child(paths[offset].state, token)
        kept.append(paths[offset].step(state, token=token, logp=float(moves.logp[row, move]), ref_logp=ref))
    return kept


def _divisor(path: Path[Any], length: Length) -> int:
    return len(path.tokens) if length == "mean" else 1
