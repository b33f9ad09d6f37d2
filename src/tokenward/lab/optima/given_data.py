"""Closed forms for recipes on given data: demonstrations, pairs, labels, scores. Read off the recipe's one term."""

from __future__ import annotations

from tokenward.lab.optima.given_pairs import pair_optimum
from tokenward.lab.optima.given_rows import row_optimum
from tokenward.lab.optima.prediction import NONE, Prediction
from tokenward.lab.solving.reading import passes_through, stream_kind
from tokenward.lab.worlds.world import World
from tokenward.objective.links import NegativeLogLikelihood
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, TokenTerm


def optimum(recipe: Recipe, world: World) -> Prediction:
    """The closed form for a recipe on demonstrations, pairs, labels or scores."""
    if len(recipe.terms) != 1:
        return NONE
    term, kind = recipe.terms[0], stream_kind(recipe)
    if passes_through(recipe, world):  # π^τ may be the one minimum inside the simplex, but a face of it may be as good
        return NONE
    if isinstance(term, TokenTerm) and kind == "demos":
        return _demonstrations(term, world)
    if isinstance(term, RowTerm) and kind in ("scores", "labels"):
        return row_optimum(term, world)
    if isinstance(term, PairTerm) and kind == "pairs":
        return pair_optimum(term, world)
    return NONE


def _demonstrations(term: TokenTerm, world: World) -> Prediction:
    likelihood = isinstance(term.link, NegativeLogLikelihood) and term.score == LogRatio()
    if not likelihood or (term.aggregation == "sequence_mean" and world.tree.ragged):
        return NONE
    return Prediction("demonstrations", world.demos)
