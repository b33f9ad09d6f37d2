"""The term of a recipe that follows the advantage, as far as the lab knows what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tokenward.lab.solving.reading import vanishes
from tokenward.lab.worlds.world import World
from tokenward.objective.capped import Capped
from tokenward.objective.links import Clipped, Mirror, Ratio, ScoreFunction, Square
from tokenward.objective.recipe import Recipe
from tokenward.objective.robust import ChiSquareBall, ChiSquareBound, KLBall, RobustTerm
from tokenward.objective.sequence_ratio import SequenceRatio
from tokenward.objective.signal.advantages import GAE
from tokenward.objective.targets import Advantage, AdvantageGap
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, Term, TokenTerm


@final
@dataclass(frozen=True)
class Push:
    """The term that follows the advantage: its link, its unit ("row" or an aggregation), and its slope at π = π_old."""

    link: object
    unit: str
    slope: float
    eta: float | None = None  # of a proximal step

    @staticmethod
    def of(term: Term) -> Push | None:
        score = getattr(term, "score", None)
        if isinstance(score, SequenceRatio):
            score = LogRatio("old_logp")  # at π = π_old both are 0, with the same gradient
        if not isinstance(score, LogRatio) or score.anchor == "ref_logp":
            return None
        anchored = score.anchor == "old_logp"
        if isinstance(term, PairTerm):
            fits = isinstance(term.target, AdvantageGap) and isinstance(term.link, Square) and anchored
            whole = score.pool == "sum" and term.compare == "difference"
            return Push(term.link, "pair", term.coef, 1 / score.beta) if fits and whole else None
        if not isinstance(term, (RowTerm, TokenTerm, RobustTerm)) or not isinstance(term.target, Advantage):
            return None
        if not (
            isinstance(term.link, ScoreFunction)
            or (anchored and isinstance(term.link, (Clipped, Ratio, Capped, Mirror)))
        ):
            return None
        eta = term.link.eta if isinstance(term.link, Mirror) else None
        if isinstance(term, TokenTerm):
            return Push(term.link, term.aggregation, term.coef * score.beta, eta)
        if isinstance(term, RobustTerm):
            unit = _unit_of_atoms(term)
            return Push(term.link, unit, term.coef * score.beta) if unit else None
        if term.offset is not None or (score.pool == "mean" and eta is not None):
            return None
        return Push(term.link, "row" if score.pool == "sum" else "sequence_mean", term.coef * score.beta, eta)


def _unit_of_atoms(term: RobustTerm) -> str | None:
    """The mean that a robust term of radius 0 is; "worst" where its weights are not negative."""
    if term.ambiguity in (KLBall(0.0), ChiSquareBall(0.0), ChiSquareBound(0.0)):
        whole = term.atoms == "trajectory"
        return "token_mean" if term.nominal == "tokens" else "sequence_mean" if whole else None
    return None if isinstance(term.ambiguity, ChiSquareBound) else "worst"


def silent(recipe: Recipe, world: World) -> bool:
    """Whether at π_ref·exp(R/β)/Z the advantage is 0 token by token, so that no weights of the rows move it.

    So it is with an exact critic, for every λ, and with one advantage a row less its mean. Derived here.
    """
    known = any(isinstance(step, GAE) for step in recipe.steps) and all(p.critic == "exact" for p in world.prompts)
    return known or vanishes(recipe)
