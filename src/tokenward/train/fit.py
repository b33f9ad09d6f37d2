"""Whether a recipe and the settings of a run fit, and what is known of the run: said before any model is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tokenward.data.tokenize import Demonstration, Example, Labeled, Pair, Scored
from tokenward.errors import InputError
from tokenward.objective.advice import Facts, advise, errors
from tokenward.objective.fields import GIVEN_BY
from tokenward.objective.recipe import Recipe
from tokenward.objective.rewards import SignalStep
from tokenward.objective.terms import Term
from tokenward.train.config import RunConfig
from tokenward.train.settings import without_use


def on_policy(recipe: Recipe) -> bool:
    """Whether the recipe learns from fresh completions."""
    return any(stream.kind == "rollouts" for stream in recipe.streams)


def needs_probes(recipe: Recipe) -> bool:
    """Whether a step reads mismatched answers, which are drawn anew for each update (KTO's point)."""
    return any("point" in step.makes for step in recipe.steps)


def group_size(recipe: Recipe, config: RunConfig) -> int:
    """Completions of each prompt."""
    return config.group or max(stream.group for stream in recipe.streams)


def mini_rows(config: RunConfig) -> int:
    """Completions of each update."""
    return config.mini_rows or config.rollout_rows


def facts(recipe: Recipe, config: RunConfig, *, examples: Sequence[Example] = ()) -> Facts:
    """What advice asks about, as the settings and the rows of the data tell it."""
    lengths = {n for example in examples for n in _lengths(example)}
    if not on_policy(recipe):
        return Facts(lengths=_equal(lengths), labels=_labels([e for e in examples if isinstance(e, Pair)]))
    return Facts(
        lengths="equal" if config.max_new_tokens == 1 else None,
        group=group_size(recipe, config),
        updates_per_batch=config.epochs * math.ceil(config.rollout_rows / mini_rows(config)),
        sampler_is_anchor=config.top_k is None and config.top_p is None,
    )


def check(recipe: Recipe, config: RunConfig) -> None:
    """Raise every mismatch of recipe and settings at once, before anything is read."""
    kinds = frozenset(stream.kind for stream in recipe.streams)
    wrong = without_use(config, kinds=kinds, needs=recipe.needs)
    if len(kinds) != 1:
        wrong.append(f"{recipe.name} learns from {' and '.join(sorted(kinds))}: a run reads one kind of data")
    wrong += _streams(recipe)
    wrong += [asks(recipe, name) for name in _absent(recipe, config)]
    if config.ref == "adapter" and not config.lora_rank:
        wrong.append("ref = adapter asks for the policy with its adapters off: give --lora-rank, or leave --ref out")
    if config.ref == "cached" and (on_policy(recipe) or needs_probes(recipe) or "kl_ref" in recipe.needs):
        wrong.append("ref = cached serves recipes that read ref_logp of the rows of a file alone: leave --ref out")
    if on_policy(recipe):
        wrong += _rollout_sizes(recipe, config)
    if not wrong:
        wrong = [f"{recipe.name}: {line}" for line in errors(advise(recipe, facts=facts(recipe, config)))]
    if wrong:
        raise InputError("\n".join(wrong))


def asks(recipe: Recipe, field: str) -> str:
    """Which part of the recipe needs a field, and what gives it."""
    parts: tuple[SignalStep | Term, ...] = (*recipe.steps, *recipe.terms)
    who = " and ".join(sorted({type(p).__name__ for p in parts if field in p.needs}))
    return f"{recipe.name}: {who} needs {field}: {GIVEN_BY[field]}"


def _absent(recipe: Recipe, config: RunConfig) -> list[str]:
    """Fields that the recipe needs and neither the settings nor the kind of data give."""
    found = [] if config.guide else ["guide_logp"]
    if on_policy(recipe):
        found += ["label", "pair_target", "normalizer"] + ([] if config.reward else ["score"])
    return [name for name in found if name in recipe.needs]


def _streams(recipe: Recipe) -> list[str]:
    """Samplers that only the lab has, and groups that a file does not keep together."""
    if on_policy(recipe):
        return []
    wrong = [
        f"{recipe.name}: sampler = {stream.sampler} is for the lab: a run learns from the answers of its file; "
        "leave sampler out"
        for stream in recipe.streams
        if stream.sampler != "data"
    ]
    if recipe.scope == "group" and not wrong:
        names = " and ".join(term.name for term in recipe.terms if term.scope == "group")
        wrong.append(
            f"{recipe.name}: {names} reads all answers to a prompt at once, and the rows of a file come in any order: "
            "learn from rollouts (sampler = policy)"
        )
    return wrong


def _rollout_sizes(recipe: Recipe, config: RunConfig) -> list[str]:
    least, group = max(stream.group for stream in recipe.streams), group_size(recipe, config)
    wrong = [] if group >= least else [f"group = {group}: {recipe.name} needs {least} or more completions of a prompt"]
    for name, rows in (("rollout_rows", config.rollout_rows), ("mini_rows", mini_rows(config))):
        if rows % group:
            wrong.append(f"{name} = {rows} must be a multiple of group = {group}: a group is never cut")
    if mini_rows(config) > config.rollout_rows:
        wrong.append(f"mini_rows = {config.mini_rows} is more than rollout_rows = {config.rollout_rows}")
    if config.old_logp == "sampler" and (config.top_k is not None or config.top_p is not None):
        wrong.append("old_logp = sampler with top_k or top_p: the kept set's law is not the policy's; use trainer")
    return wrong


def _lengths(example: Example) -> tuple[int, ...]:
    """Tokens of the example's answers."""
    if isinstance(example, Pair):
        return len(example.chosen.tokens), len(example.rejected.tokens)
    if isinstance(example, Demonstration | Labeled | Scored):
        return (len(example.response.tokens),)
    return ()


def _equal(lengths: set[int]) -> Literal["equal", "ragged"] | None:
    return None if not lengths else "equal" if len(lengths) == 1 else "ragged"


def _labels(pairs: Sequence[Pair]) -> Literal["hard", "soft"] | None:
    if not pairs:
        return None
    return "hard" if all(pair.target in (None, 0.0, 1.0) for pair in pairs) else "soft"
