"""Weighted votes among samples: the final answer that most of them, by weight, agree on."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

from tokenward.errors import InputError, RunError
from tokenward.own_file import Refused, module, raised
from tokenward.search.best_of_n import draws, scores_of
from tokenward.search.budget import Budget, Progress
from tokenward.search.problem import Answer, Found, Path, Problem, scale

Weight = Literal["count", "reward", "implicit"]
Extract = Callable[[Any], Hashable | None]  # a finished state: its final answer, None where it gives none


def weighted_vote(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    n: int,
    extract: Extract,
    weight: Weight = "count",
    beta: float = 1.0,
    seed: int = 0,
    budget: Budget | None = None,
    tell: Progress | None = None,
) -> Answer[Any]:
    """Of n samples, the text of the largest weight among those whose final answer has the largest sum of weights.

    `weight` "count" 1 (self-consistency: Wang et al. 2023) · "reward" exp(r/β), the one that reads `beta`, above 0 ·
    "implicit" π/π_ref, which is exp(r/β) of the implicit reward whatever β is. With samples of π_ref, exp(r/β) makes
    the share of an answer an importance-sampling estimate of its probability under π_ref·exp(r/β)/Z (derived here).
    Samples without an answer do not vote. Found.score is the winning answer's share of all weight; `compared` holds
    each text with its own share. Where no sample has an answer the heaviest text is taken, and every share is 0.
    """
    divisor = scale(beta) if weight == "reward" else 1.0
    groups, forwarded = draws(problem, prompts, n=n, seed=seed, budget=budget, tell=tell)
    found = []
    for paths in groups:
        if weight == "count":
            logs = [0.0] * len(paths)
        else:
            logs = [score / divisor for score in scores_of(problem, paths, by=weight, beta=divisor)]
        found.append(elected(paths, logs, [extract(path.state) for path in paths]))
    return Answer(tuple(found), forwarded)


def elected(paths: Sequence[Path[Any]], log_weights: Sequence[float], answers: Sequence[Hashable | None]) -> Found[Any]:
    """The winner of one vote; of equal answers and texts the earlier."""
    answered = [i for i, answer in enumerate(answers) if answer is not None]
    voting = answered or list(range(len(paths)))
    top = max(log_weights[i] for i in voting)
    weights = {i: math.exp(log_weights[i] - top) for i in voting}
    whole = math.fsum(weights.values())
    sums: dict[Hashable | None, float] = {}
    for i in voting:
        sums[answers[i]] = sums.get(answers[i], 0.0) + weights[i] / whole
    winner = max(sums, key=lambda answer: sums[answer])
    best = max((i for i in voting if answers[i] == winner), key=lambda i: (weights[i], -i))
    shares = sorted(((paths[i], weights.get(i, 0.0) / whole) for i in range(len(paths))), key=lambda one: -one[1])
    if not answered:
        return Found(paths[best], 0.0, tuple((path, 0.0) for path, _ in shares))
    return Found(paths[best], sums[winner], tuple(shares))


def by_answer(spec: str, text: Callable[[Any], str]) -> Extract:
    """What `--answer` asks for: FILE.py:function of a text, whose answer is a word or None, or else a pattern."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        return by_pattern(spec, text)
    try:
        function = getattr(module(pathlib.Path(file)), name, None)
    except Refused as error:
        raise InputError(f"--answer {spec}: {error}") from None
    if not callable(function):
        raise InputError(f"--answer {spec}: {file} has no function {name}")

    def extract(state: Any) -> str | None:
        try:
            found = function(text(state))
        except Exception as error:  # the user's own code: whatever it raises is reported as one line
            raise RunError(f"--answer {spec} raised {raised(error, file=pathlib.Path(file))}") from error
        return None if found is None else str(found)

    return extract


def by_pattern(pattern: str, text: Callable[[Any], str]) -> Extract:
    """The last match of a pattern in a state's text: its first group where it has one, spaces at its ends left out.

    An empty one is no answer.

    >>> by_pattern(r"= *([0-9]+)", lambda text: text)("2 + 2 = 4, so x = 5")
    '5'
    """
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--answer {pattern!r} is not a pattern: {error}") from None

    def extract(state: Any) -> str | None:
        found = list(known.finditer(text(state)))
        return ((found[-1][1] or "" if known.groups else found[-1][0]).strip() or None) if found else None

    return extract
