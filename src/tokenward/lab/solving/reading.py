"""What a recipe's parts say of how it is solved: its stream, what moves the policy, whether sampling follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tokenward.errors import InputError
from tokenward.lab.solving.groups import ungrouped
from tokenward.lab.worlds.world import SamplerName, World
from tokenward.objective.fields import POLICY_FIELDS
from tokenward.objective.links import Link, Mirror
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale, SequenceReturn, Whiten
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, Statistic, Term, TokenTerm


def stream_kind(recipe: Recipe) -> str:
    """The kind of the recipe's first stream."""
    return recipe.streams[0].kind


def sampled(recipe: Recipe, world: World) -> World:
    """The world in which the recipe's stream says who writes the answers; "old" is π_ref, where the lab starts.

    A stream of pairs compares two independent draws. With "data", and for rollouts, the world stays as it is, but that
    several streams have infinite groups: what a group's size changes is known for one stream alone.
    """
    if stream_kind(recipe) == "rollouts" and any(prompt.samples for prompt in world.prompts):
        # its answers are drawn anew at each update, and so is what a judge says of them
        world = replace(world, prompts=tuple(replace(prompt, samples=None) for prompt in world.prompts))
    if len(recipe.streams) > 1 and any(prompt.group is not None for prompt in world.prompts):
        _refuse_group_parts(recipe)
        return ungrouped(world)
    named = {stream.sampler for stream in recipe.streams if stream.kind != "rollouts"} - {"data"}
    if not named:
        return world
    name = named.pop()
    if name == "greedy" or name == "mixture":  # of rollouts alone
        return world
    sampler: SamplerName = "reference" if name == "old" or name == "data" else name
    if stream_kind(recipe) == "pairs":
        prompts = tuple(replace(prompt, sampler=sampler, pairs="sampler") for prompt in world.prompts)
    else:
        prompts = tuple(replace(prompt, sampler=sampler) for prompt in world.prompts)
    return replace(world, prompts=prompts)


def _refuse_group_parts(recipe: Recipe) -> None:
    """Raise where a part's mean depends on how many answers a group has; a mean over pairs or rows does not."""
    parts = [type(step).__name__ for step in recipe.steps if isinstance(step, (GroupBaseline, GroupScale))]
    parts += [term.name for term in recipe.terms if term.scope == "group"]
    if parts or recipe.streams[0].keep == "mixed":
        what = " and ".join(parts) or "keep = 'mixed'"
        raise InputError(
            f"recipe {recipe.name}: {what} depends on the size of groups, which the lab knows for one stream alone; "
            "take group null (infinite)"
        )


def as_given(recipe: Recipe) -> Recipe:
    """A recipe on its own samples that reads no advantage, as one on given data whose sampler is the policy.

    The update is the same: the sampling has no gradient. Every other recipe stays as it is.
    """
    term, rollouts = recipe.terms[0], stream_kind(recipe) == "rollouts"
    if not rollouts or len(recipe.streams) > 1 or recipe.streams[0].keep != "all":
        return recipe
    if len(recipe.terms) > 1 or recipe.steps or not isinstance(term, (RowTerm, PairTerm)):
        return recipe
    if not isinstance(term.score, LogRatio) or term.score.anchor != "ref_logp":
        return recipe
    kind: Literal["pairs", "scores"] = "pairs" if isinstance(term, PairTerm) else "scores"
    return replace(recipe, streams=tuple(replace(s, kind=kind, sampler="policy") for s in recipe.streams))


def moving(recipe: Recipe) -> tuple[Term, ...]:
    """The terms that move the policy."""
    return tuple(term for term in recipe.terms if term.needs & POLICY_FIELDS)


def links(recipe: Recipe) -> list[Link]:
    """The links of those terms."""
    return [term.link for term in moving(recipe) if isinstance(term, (TokenTerm, RowTerm, PairTerm))]


def is_one_step(recipe: Recipe) -> bool:
    """Whether the recipe is one proximal step from the policy that sampled, without any pull to the reference."""
    if stream_kind(recipe) != "rollouts" or {"ref_logp", "kl_ref"} & recipe.needs:
        return False
    ahead = [term for term in moving(recipe) if term not in near(recipe)]
    held = near(recipe) or any(isinstance(link, Mirror) for link in links(recipe))
    return len(ahead) == 1 and (bool(held) or isinstance(ahead[0], PairTerm))


def near(recipe: Recipe) -> tuple[TokenTerm, ...]:
    """The terms that hold the policy near the one that sampled, by an exact KL(π‖π_old): no force where it samples."""
    return tuple(term for term in recipe.terms if isinstance(term, TokenTerm) and term.score == Statistic("kl_old"))


def is_pulled(recipe: Recipe) -> bool:
    """Whether something keeps the policy from running to a vertex: a reference, a guide, an opponent, another term."""
    alone = all("advantage" in term.reads for term in moving(recipe))
    return not alone or bool({"ref_logp", "kl_ref", "kl_old", "guide_logp", "pairs"} & recipe.needs)


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


def unscaled(recipe: Recipe, world: World) -> Recipe:
    """The recipe without the division of advantages by their standard deviation, where it does not move the optimum.

    That is where nothing else moves the policy, and the divisor is one positive number: of the batch (`Whiten`), of
    each prompt (`GroupScale`, infinite groups), or of a group whose advantages are all 0 at the optimum.
    """
    if not all("advantage" in term.reads for term in moving(recipe)) or is_one_step(recipe):
        return recipe
    steps = tuple(replace(step, scale="none") if isinstance(step, Whiten) else step for step in recipe.steps)
    if vanishes(recipe) or all(prompt.group is None for prompt in world.prompts):
        steps = tuple(step for step in steps if not isinstance(step, GroupScale))
    return replace(recipe, steps=steps)


def vanishes(recipe: Recipe) -> bool:
    """Whether the advantage of every row is one number, 0 on all rows where the regularized return is constant."""
    kinds = {type(step) for step in recipe.steps}
    return SequenceReturn in kinds and GroupBaseline in kinds


def scales(recipe: Recipe) -> list[GroupScale | Whiten]:
    """The steps that divide advantages by a standard deviation, which the policy itself makes."""
    steps = recipe.steps
    return [s for s in steps if isinstance(s, GroupScale) or (isinstance(s, Whiten) and s.scale == "std")]
