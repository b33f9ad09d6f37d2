"""A statement about a composition, the facts it may depend on, and how its terms are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, final

from tokenward.objective.recipe import Recipe
from tokenward.objective.robust import RobustTerm
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, Statistic, TokenTerm

Level = Literal["error", "warning", "note"]
Linked = TokenTerm | RowTerm | PairTerm | RobustTerm
DERIVED = "derived here"


@final
@dataclass(frozen=True)
class Facts:
    """What a caller knows of a run; None: unknown.

    `lengths` of the answers · `labels` of pairs: "hard" if each is 0 or 1 · `group` answers to a prompt · `prompts` of
    a batch · `longest` completion in tokens · `updates_per_batch` optimizer steps on one batch of answers
    · `sampler_is_anchor` whether the answers come from the law that the ratio divides by.
    """

    lengths: Literal["equal", "ragged"] | None = None
    labels: Literal["hard", "soft"] | None = None
    group: int | None = None
    prompts: int | None = None
    longest: int | None = None
    updates_per_batch: int | None = None
    sampler_is_anchor: bool | None = None


@final
@dataclass(frozen=True)
class Advice:
    """An "error" is refused by the trainer, a "warning" says that the optimum is another, a "note" is good to know."""

    level: Level
    part: str
    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.level}: {self.part}: {self.text} ({self.source})"


Check = Callable[[Recipe, Facts], Iterator[Advice]]


def linked(recipe: Recipe) -> Iterator[Linked]:
    """The terms with a link that move the policy."""
    for term in recipe.terms:
        if isinstance(term, (TokenTerm, RowTerm, PairTerm, RobustTerm)) and term.needs & {"logp", "kl_ref"}:
            yield term


def part(term: Linked) -> str:
    """The term and its link by name."""
    return f"{term.name}: {type(term.link).__name__}"


def on_policy(recipe: Recipe) -> bool:
    """Whether the answers are the current policy's, without gradient through the sampling."""
    return any(stream.kind == "rollouts" or stream.sampler == "policy" for stream in recipe.streams)


def anchored(term: Linked) -> bool:
    """Whether the score is a log-ratio to the reference."""
    return isinstance(term.score, LogRatio) and term.score.anchor == "ref_logp"


def pulls(term: Linked) -> bool:
    """Whether the term alone pulls to the reference: a score that knows it, and no target."""
    return (anchored(term) or term.score == Statistic("kl_ref")) and term.access is None
