"""What a recipe's parts say of how it is solved: its stream, what moves the policy, whether sampling follows it."""

from __future__ import annotations

from dataclasses import replace

from tokenward.errors import InputError
from tokenward.lab.world import World
from tokenward.objective.advantages import GroupScale, Whiten
from tokenward.objective.links import Link, Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import PairTerm, RowTerm, Term, TokenTerm

_MOVES = frozenset({"logp", "kl_ref", "entropy"})  # fields through which a term moves the policy


def stream_kind(recipe: Recipe) -> str:
    """The kind of the recipe's one stream."""
    kinds = {stream.kind for stream in recipe.streams}
    if len(kinds) != 1:
        raise InputError(f"recipe {recipe.name}: the lab runs recipes of one stream, got {', '.join(sorted(kinds))}")
    return kinds.pop()


def moving(recipe: Recipe) -> tuple[Term, ...]:
    """The terms that move the policy."""
    return tuple(term for term in recipe.terms if term.needs & _MOVES)


def links(recipe: Recipe) -> list[Link]:
    """The links of those terms."""
    return [term.link for term in moving(recipe) if isinstance(term, (TokenTerm, RowTerm, PairTerm))]


def is_one_step(recipe: Recipe) -> bool:
    """Whether the recipe is one proximal step from the policy that sampled, without any pull to the reference."""
    if stream_kind(recipe) != "rollouts" or {"ref_logp", "kl_ref"} & recipe.needs:
        return False
    return len(moving(recipe)) == 1 and all(
        isinstance(term, PairTerm) or any(isinstance(link, Mirror) for link in links(recipe)) for term in moving(recipe)
    )


def follows_policy(recipe: Recipe, world: World) -> bool:
    """Whether rows or pairs are drawn from the current policy, without gradient through the sampling."""
    if stream_kind(recipe) == "rollouts":
        return not is_one_step(recipe)
    return "policy" in _samplers(recipe, world)


def passes_through(recipe: Recipe, world: World) -> bool:
    """Whether rows or pairs are drawn from the current policy, with gradient through the sampling."""
    return "policy-through" in _samplers(recipe, world)


def _samplers(recipe: Recipe, world: World) -> set[str]:
    """Names of the samplers in use where a policy is trained on given data."""
    kind = stream_kind(recipe)
    used = [p for p in world.prompts if kind in ("labels", "scores") or (kind == "pairs" and p.pairs == "sampler")]
    return {p.sampler for p in used if isinstance(p.sampler, str)} if "logp" in recipe.trained else set()


def unscaled(recipe: Recipe) -> Recipe:
    """The recipe without the division of advantages by their standard deviation, where the lab leaves it out."""
    alone = all("advantage" in term.reads for term in moving(recipe))
    steps = [Whiten(scale="none") if isinstance(step, Whiten) else step for step in recipe.steps]
    return replace(recipe, steps=tuple(step for step in steps if not (alone and isinstance(step, GroupScale))))
