"""Static advice: what is known of a recipe's composition before anything runs.

Every statement says what a part does to the optimum or the fixed point, and what to do instead. No anchor here moves
and no link corrects for flipped labels, so there is none on those.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenward.objective.advice import given, groups, policy, reward, trust
from tokenward.objective.advice.statement import Advice, Facts
from tokenward.objective.recipe import Recipe

__all__ = ["Advice", "Facts", "advise", "errors"]
_ORDER = ("error", "warning", "note")


def advise(recipe: Recipe, *, facts: Facts) -> tuple[Advice, ...]:
    """All that is known of the composition, errors first; what depends on an unknown fact says so or is left out.

    >>> from tokenward.recipes import build
    >>> [(one.level, one.part) for one in advise(build("una"), facts=Facts())]
    [('warning', 'una: SquashedSquare without offset')]
    """
    books = (given, policy, groups, reward, trust)
    found = [one for book in books for check in book.CHECKS for one in check(recipe, facts)]
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.level)))


def errors(advice: Iterable[Advice]) -> list[str]:
    """One line for each error."""
    return [f"{one.part}: {one.text}" for one in advice if one.level == "error"]
