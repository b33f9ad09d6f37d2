"""Beam search on likelihood or implicit reward, many prompts in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.search.budget import Budget, Meter, Progress
from tokenward.search.problem import NEVER, Answer, By, Moves, Path, Problem, offered, ranked, scale, with_reference

Length = Literal["sum", "mean"]
Places = Literal["shared", "refilled"]
LOOK = 8  # times the width: how many children a refilled beam looks at for paths that go on


def beam_search(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    width: int,
    by: By = "likelihood",
    beta: float = 1.0,
    length: Length = "sum",
    places: Places = "shared",
    budget: Budget | None = None,
    tell: Progress | None = None,
) -> Answer[Any]:
    """The best finished path per prompt among those that a beam of `width` reaches.

    At each step the `width` best children of all live paths of a prompt are kept; those that end leave the beam.
    `places` says who follows: "shared" nobody, so the beam narrows as texts end; "refilled" the best that go on, so
    that `width` paths stay alive (transformers' `generate`: docs/search.md says when both give the same text). By
    likelihood and sum both find the same best text: what an end displaces is less likely than the text it ends.
    `by` says what a path is worth: Σ log π, or the implicit reward β Σ log π/π_ref. `length` says how finished paths of
    different lengths are compared: "sum" as they stand, so likelihood prefers short texts; "mean" divides by the number
    of tokens. Width 1 is greedy; a beam as wide as the tree finds the maximum (by likelihood and sum: the MAP text).
    By likelihood and sum a prompt is done when no live path can still be the best, because Σ log π only falls.
    """
    if width < 1:
        raise InputError(f"beam width must be 1 or more, got {width}")
    beta, meter = scale(beta) if by == "implicit" else beta, Meter(budget or Budget(), tell)
    live: list[list[Path[Any]]] = [[Path(problem.root(prompt))] for prompt in prompts]
    done: list[list[Path[Any]]] = [[] for _ in prompts]
    while any(live):
        if meter.spent:
            live, width = _narrowed(live, done), 1
            if not any(live):
                break
        flat = [path for paths in live for path in paths]
        moves = offered(problem.expand([path.state for path in flat]), by=by)
        meter.read(moves.forwarded)
        row = 0
        for number, paths in enumerate(live):
            ended, live[number] = _best_children(
                problem, paths, moves, row, width=width, by=by, beta=beta, places=places
            )
            row += len(paths)
            done[number] += ended
            if by == "likelihood" and length == "sum" and done[number]:
                best = max(path.logp for path in done[number])
                live[number] = [path for path in live[number] if path.logp > best]
    scores = [[path.total(by=by, beta=beta) / _divisor(path, length) for path in paths] for paths in done]
    return Answer(tuple(ranked(p, s) for p, s in zip(done, scores, strict=True)), meter.forwarded)


def _narrowed(live: list[list[Path[Any]]], done: list[list[Path[Any]]]) -> list[list[Path[Any]]]:
    """One path where no text is finished yet, and none elsewhere."""
    return [[] if ended else paths[:1] for paths, ended in zip(live, done, strict=True)]


def _best_children(
    problem: Problem[Any, Any],
    paths: list[Path[Any]],
    moves: Moves,
    first: int,
    *,
    width: int,
    by: By,
    beta: float,
    places: Places,
) -> tuple[list[Path[Any]], list[Path[Any]]]:
    """(those that end, those that go on) of the best one-token extensions of the paths, best first.

    The moves stand at rows first, first + 1, … An end counts if it is among the `width` best of all. They are compared
    where the model is: only those that are taken leave its device.
    """
    if not paths:
        return [], []
    rows = slice(first, first + len(paths))
    logp = moves.logp[rows].double()
    gain = logp if by == "likelihood" else beta * (logp - with_reference(moves.ref_logp)[rows].double())
    so_far = torch.tensor([path.total(by=by, beta=beta) for path in paths], dtype=torch.float64, device=logp.device)
    worth = (gain + so_far.unsqueeze(-1)).masked_fill(logp == NEVER, NEVER)
    best = _largest(worth.flatten(), width if places == "shared" else LOOK * width)
    gains = logp.flatten()[best].tolist()
    refs: list[float | None] = [None] * len(gains)
    if moves.ref_logp is not None:
        refs = moves.ref_logp[rows].flatten()[best].tolist()
    tokens = moves.tokens[rows].cpu()
    ended: list[Path[Any]] = []
    going: list[Path[Any]] = []
    for place, number in enumerate(best.tolist()):
        if len(going) >= width:
            break
        offset, move = divmod(number, logp.shape[-1])
        token = int(tokens[offset, move])
        state = problem.child(paths[offset].state, token)
        longer = paths[offset].step(state, token=token, logp=gains[place], ref_logp=refs[place])
        if not problem.terminal(state):
            going.append(longer)
        elif place < width:
            ended.append(longer)
    return ended, going


def _largest(worth: Float[Tensor, " N"], most: int) -> Int[Tensor, " K"]:
    """Places of the largest finite numbers, largest first; of equal ones the earlier (path, then move)."""
    least = worth.topk(min(most, len(worth))).values[-1]
    places = ((worth >= least) & (worth > NEVER)).nonzero().squeeze(-1)
    return places[worth[places].sort(descending=True, stable=True).indices[:most]]


def _divisor(path: Path[Any], length: Length) -> int:
    return len(path.tokens) if length == "mean" else 1
