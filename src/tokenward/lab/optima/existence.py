"""Whether a loss has a minimum at all: where one side always wins it falls for ever."""

from __future__ import annotations

import torch

from tokenward.lab.optima.comparisons import Comparisons, asked, comparisons, is_proper
from tokenward.lab.optima.graph import both_ways
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.reading import stream_kind
from tokenward.lab.solving.streams import sampling_law
from tokenward.objective.links import Link, Logistic
from tokenward.objective.recipe import Recipe
from tokenward.objective.targets import Label, PairTarget
from tokenward.objective.terms import PairTerm, RowTerm

_SATURATED = 25.0  # a margin beyond which a logistic slope is no longer told from 0


def has_optimum(recipe: Recipe, problem: Problem) -> bool:
    """Whether finite parameters minimize the loss of given pairs or labels; True for every other recipe.

    A class with features may have a minimum where all policies have none: there, whether margins stayed finite.
    """
    world, kind = problem.world, stream_kind(recipe)
    held = True
    for term in recipe.terms:
        if kind == "pairs" and isinstance(term, PairTerm):
            held = held and _pairs_hold(term.link, term.target, comparisons(world))
        if kind == "labels" and isinstance(term, RowTerm) and isinstance(term.target, Label) and is_proper(term.link):
            seen = world.desirable[sampling_law(kind, world, world.ref) > 0]
            held = held and bool(((seen > 0) & (seen < 1)).all())
    return held or (problem.features is not None and _widest(problem) < _SATURATED)


def _widest(problem: Problem) -> float:
    """The range of implicit rewards, or of a reward model's scores."""
    with torch.no_grad():
        tree, world = problem.world.tree, problem.world
        logp = tree.leaf_sum(problem.policy().table())
        score = problem.score if problem.score is not None else world.tau * (logp - world.ref.log())
        return float((score.amax(-1) - score.amin(-1)).max())


def _pairs_hold(link: Link, target: PairTarget, data: list[Comparisons]) -> bool:
    """Whether finite scores minimize the loss: in each component everyone is reached from everyone along wins.

    Ford 1957, for the Bradley–Terry likelihood; only pairs that one side always wins can break it.
    """
    if not (is_proper(link) or isinstance(link, Logistic)):
        return True
    for one in data:
        p = asked(target, one)
        if p is None:
            continue
        beats = (one.weight > 0) & (p > 0)
        if bool((beats & (p >= 1)).any()) and not bool(both_ways(beats.nonzero(), nodes=len(p)).all()):
            return False
    return True
