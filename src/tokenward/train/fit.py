"""Whether a recipe and the settings of a run fit, and what is known of the run: said before any model is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tokenward.data.tokenize import Demonstration, Example, Labeled, Pair, Scored, StepPair
from tokenward.errors import InputError
from tokenward.objective.advice import Facts, advise, errors
from tokenward.objective.fields import GIVEN_BY, POLICY_FIELDS
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.memory import Step
from tokenward.objective.terms import Term
from tokenward.objective.updates import ConstrainedStep
from tokenward.train.beside import without_demos
from tokenward.train.config import OPTIONS, RunConfig
from tokenward.train.critic_first import without_critic
from tokenward.train.partner import without_partner
from tokenward.train.probe import without_probe
from tokenward.train.samplers import reads_reference
from tokenward.train.settings import without_use


def on_policy(recipe: Recipe) -> bool:
    """Whether the recipe learns from fresh completions."""
    return any(stream.kind == "rollouts" for stream in recipe.streams)


def needs_probes(recipe: Recipe) -> bool:
    """Whether a step reads mismatched answers, which are drawn anew for each update (KTO's point)."""
    return any("point" in step.makes for step in recipe.steps)


def group_size(recipe: Recipe, config: RunConfig) -> int:
    """The policy's completions of each prompt."""
    return config.group or recipe.streams[0].group


def mini_rows(config: RunConfig) -> int:
    """Completions of each update."""
    return config.mini_rows or config.rollout_rows


def facts(recipe: Recipe, config: RunConfig, *, examples: Sequence[Example] = ()) -> Facts:
    """What advice asks about, as the settings and the rows of the data tell it."""
    lengths = {n for example in examples for n in _lengths(example)}
    if not on_policy(recipe):
        return Facts(lengths=_equal(lengths), labels=_labels([e for e in examples if isinstance(e, Pair | StepPair)]))
    return Facts(
        lengths="equal" if config.max_new_tokens == 1 else None,
        group=group_size(recipe, config),
        prompts=config.rollout_rows // group_size(recipe, config),
        longest=config.max_new_tokens,
        updates_per_batch=config.epochs * math.ceil(config.rollout_rows / mini_rows(config)),
        sampler_is_anchor=config.top_k is None and config.top_p is None,
    )


def check(recipe: Recipe, config: RunConfig) -> None:
    """Raise every mismatch of recipe and settings at once, before anything is read."""
    kinds = frozenset(stream.kind for stream in recipe.streams)
    sampled = {"ref_logp"} if reads_reference(recipe) or config.eval_data is not None else set()
    wrong = without_use(config, kinds=kinds, needs=recipe.needs | sampled)
    wrong += _streams(recipe) + _laws(recipe, config) + without_partner(recipe, config)
    wrong += [asks(recipe, name) for name in _absent(recipe, config)]
    if config.ref == "adapter" and not config.lora_rank:
        wrong.append("ref = adapter asks for the policy with its adapters off: give --lora-rank, or leave --ref out")
    if config.ref == "cached" and (on_policy(recipe) or needs_probes(recipe) or "kl_ref" in recipe.needs):
        wrong.append("ref = cached serves recipes that read ref_logp of the rows of a file alone: leave --ref out")
    wrong += without_probe(config)
    if on_policy(recipe):
        wrong += _rollout_sizes(recipe, config) + _unjudged(recipe, config)
        wrong += without_demos(recipe, config) + without_critic(recipe, config)
    if isinstance(recipe.update, ConstrainedStep):
        wrong += _constrained(recipe, config)
    if not wrong:
        wrong = [f"{recipe.name}: {line}" for line in errors(advise(recipe, facts=facts(recipe, config)))]
    if wrong:
        raise InputError("\n".join(wrong))


def asks(recipe: Recipe, field: str) -> str:
    """Which part of the recipe needs a field, and what gives it."""
    parts: tuple[Step | Term, ...] = (*recipe.steps, *recipe.terms)
    who = " and ".join(sorted({type(p).__name__ for p in parts if field in p.needs}))
    return f"{recipe.name}: {who} needs {field}: {GIVEN_BY[field]}"


def _absent(recipe: Recipe, config: RunConfig) -> list[str]:
    """Fields that the recipe needs and neither the settings nor the kind of data give."""
    found = [] if config.guide else ["guide_logp"]
    if on_policy(recipe):
        found += ["label", "pair_target", "normalizer"] + ([] if config.reward or config.environment else ["score"])
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


def _laws(recipe: Recipe, config: RunConfig) -> list[str]:
    """Settings that several laws, or dropped groups, do not go with."""
    wrong, mixed = [], recipe.streams[0].keep == "mixed"
    if not mixed and config.max_rounds != OPTIONS["max_rounds"].default:
        wrong.append(f"max_rounds = {config.max_rounds} has no effect: {recipe.name} drops no groups: leave it out")
    if mixed and config.reward is None and config.environment is None:
        wrong.append(f"{recipe.name} drops groups of equal scores and nothing scores: {GIVEN_BY['score']}")
    others = [stream for stream in recipe.streams[1:] if stream.kind == "rollouts"]
    if others and config.environment is not None:
        wrong.append(
            f"{recipe.name} compares the policy's answers with {others[0]}, which have no turns in an environment: "
            "leave environment out"
        )
    return wrong


def _rollout_sizes(recipe: Recipe, config: RunConfig) -> list[str]:
    least, group = recipe.streams[0].group, group_size(recipe, config)
    wrong = [] if group >= least else [f"group = {group}: {recipe.name} needs {least} or more completions of a prompt"]
    for name, rows in (("rollout_rows", config.rollout_rows), ("mini_rows", mini_rows(config))):
        if rows % group:
            wrong.append(f"{name} = {rows} must be a multiple of group = {group}: a group is never cut")
    if mini_rows(config) > config.rollout_rows:
        wrong.append(f"mini_rows = {config.mini_rows} is more than rollout_rows = {config.rollout_rows}")
    if config.old_logp == "sampler" and (config.top_k is not None or config.top_p is not None):
        wrong.append("old_logp = sampler with top_k or top_p: the kept set's law is not the policy's; use trainer")
    return wrong


def _unjudged(recipe: Recipe, config: RunConfig) -> list[str]:
    """One line for held-out prompts of a recipe that reads no score, where nothing else judges their completions."""
    if config.eval_data is None or "score" in recipe.needs or config.eval_reward or config.environment:
        return []
    return ["eval_data needs a reward: give --eval-reward"]


def _constrained(recipe: Recipe, config: RunConfig) -> list[str]:
    """What a constrained step cannot do: move a shared critic, part of a batch, or the same batch twice."""
    name, wrong = recipe.name, []
    if "value" in recipe.needs and config.critic in (None, "shared"):
        wrong.append(
            f"{name}: a shared critic is a head on the weights that the constraint is about: give --critic own, or a "
            "directory"
        )
    if not any(term.needs & POLICY_FIELDS for term in recipe.terms):
        wrong.append(f"{name}: a constrained step moves a policy, and no term here does: take update = Gradient()")
    wrong += [
        f"{name}: {term.name} moves policy and critic at once: a constrained step needs them in terms of their own"
        for term in recipe.terms
        if term.needs & POLICY_FIELDS and "value" in term.needs
    ]
    if on_policy(recipe) and (config.epochs > 1 or mini_rows(config) < config.rollout_rows):
        wrong.append(f"{name}: one constrained step takes the whole batch: leave out epochs and mini_rows")
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


def _labels(pairs: Sequence[Pair | StepPair]) -> Literal["hard", "soft"] | None:
    if not pairs:
        return None
    return "hard" if all(pair.target in (None, 0.0, 1.0) for pair in pairs) else "soft"
