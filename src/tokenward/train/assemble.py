"""From settings to the parts of a run: recipe, tokenizer, models, data, optimizer, and how long to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import nn

from tokenward.data import dataset
from tokenward.data.dataset import Dataset
from tokenward.data.encode import Encoder
from tokenward.data.formats import Kind
from tokenward.data.sentences import sentence_ends, with_sentences
from tokenward.data.sources import OfflineSource
from tokenward.data.tokenize import Limits, Prompt
from tokenward.environments.load import environment
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.roles import Roles
from tokenward.objective.advice import Advice, advise
from tokenward.objective.recipe import Recipe, Stream
from tokenward.recipes import build, idle
from tokenward.rollout import rewards
from tokenward.rollout.environment import EpisodeSampler
from tokenward.rollout.sampler import GenerateSampler
from tokenward.rollout.source import RolloutSource
from tokenward.train import vocabulary
from tokenward.train.beside import Beside, updates_per_batch, with_demos
from tokenward.train.cast import cached_reference, optimizer, roles
from tokenward.train.config import RunConfig
from tokenward.train.critic_first import nothing_else
from tokenward.train.fit import asks, check, facts, group_size, needs_probes, on_policy
from tokenward.train.heldout import SEED, HeldOut, held_out
from tokenward.train.partner import check_steps
from tokenward.train.probe import Probe, make_probe
from tokenward.train.runtime import Runtime
from tokenward.train.samplers import policy_sampler, writers_beside
from tokenward.train.settings import Settings
from tokenward.types import Batch


@runtime_checkable
class Source(Protocol):
    """Where batches come from: a file, or a sampler."""

    def next(self) -> Batch: ...
    def update(self, policy: Scorer) -> None: ...
    def metrics(self) -> dict[str, float]: ...
    def where(self, group: int) -> str: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@final
@dataclass(frozen=True)
class Run:
    """Everything a run is made of; only the parts' own contents change while it is on."""

    settings: Settings
    recipe: Recipe
    runtime: Runtime
    tokenizer: Any
    roles: Roles
    source: Source
    optimizer: torch.optim.Optimizer
    total: int
    inputs: dict[str, str]
    notes: tuple[str, ...]
    advice: tuple[Advice, ...]
    sentence_ends: frozenset[int] | None = None
    heldout: HeldOut | None = None
    probe: Probe | None = None

    @property
    def config(self) -> RunConfig:
        return self.settings.config

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return dict(self.roles.trainable_modules())


def assemble(settings: Settings, runtime: Runtime) -> Run:
    """Every part of a run; what is wrong with recipe and settings is said before any model is read."""
    config = settings.config
    recipe = build(settings.recipe, **settings.keywords)
    check(recipe, config)
    _check_rewards(config)
    tokenizer = vocabulary.tokenizer(config)
    cast = roles(recipe, config, runtime)
    data = _data(recipe, config, tokenizer=tokenizer, context=cast.context)
    check_steps(data, recipe, config)
    source: OfflineSource | RolloutSource | Beside
    heldout: HeldOut | None = None
    if on_policy(recipe):
        rollouts = _rollouts(data, recipe, config, cast=cast)
        heldout = None if config.eval_data is None else _held_out(data, recipe, config, rollouts=rollouts, cast=cast)
        source = with_demos(rollouts, recipe, config, tokenizer=tokenizer, context=cast.policy.context)
        per_pass = source.batches_per_pass * updates_per_batch(config)
    else:
        source = _offline(data, recipe, config, context=cast.context)
        per_pass = source.updates_per_pass
        if config.ref == "cached":
            cast = cached_reference(cast, source, config)
    total = config.updates or max(1, math.ceil((config.passes or 1.0) * per_pass - 1e-9))
    if wrong := nothing_else(config, total=total):
        raise InputError("\n".join(wrong))
    lines = _notes(recipe, settings, data, cast, per_pass=per_pass, total=total)
    advice = advise(recipe, facts=facts(recipe, config, examples=data.examples))
    inputs, made = _inputs(config, data, source, heldout), optimizer(cast, config)
    ends = sentence_ends(data.encoder, characters=config.sentence_ends) if "segment" in recipe.needs else None
    probe = make_probe(data, config, roles=cast)
    return Run(
        settings, recipe, runtime, tokenizer, cast, source, made, total, inputs, lines, advice, ends, heldout, probe
    )


def _check_rewards(config: RunConfig) -> None:
    """What is wrong with either reward; the time-out is for the one that has a function, or both."""
    seconds, own = config.reward_timeout_s, None
    if config.eval_reward is not None:
        with vocabulary.naming("eval_reward", config.eval_reward):
            own = rewards.timed(config.eval_reward, seconds)
            rewards.check(config.eval_reward, timeout_s=own)
    rewards.check(config.reward, timeout_s=seconds if own is None else rewards.timed(config.reward, seconds))


def _limits(recipe: Recipe, config: RunConfig, *, context: int | None) -> Limits:
    """Row and prompt limits; a prompt leaves room for its completion."""
    longest = min([n for n in (config.max_tokens, context) if n is not None], default=None)
    prompt = config.max_prompt_tokens
    if on_policy(recipe) and longest is not None:
        room = longest - config.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_new_tokens = {config.max_new_tokens} leaves no room for a prompt in {longest} tokens"
            )
        prompt = min(prompt or room, room)
    return Limits(max_tokens=longest, max_prompt_tokens=prompt)


def _data(recipe: Recipe, config: RunConfig, *, tokenizer: Any, context: int | None) -> Dataset:
    """The rows of the run's data as token examples of the recipe's kind."""
    kind: Kind = "prompts" if on_policy(recipe) else recipe.streams[0].kind  # type: ignore[assignment]
    return dataset.load(
        config.data,
        tokenizer=tokenizer,
        kind=kind,
        asked_by=recipe.name,
        split=config.split,
        limits=_limits(recipe, config, context=context),
        max_dropped=config.max_dropped,
    )


def _offline(data: Dataset, recipe: Recipe, config: RunConfig, *, context: int | None) -> OfflineSource:
    """Batches from the file; a column that the recipe needs and the file lacks is said now."""
    source = OfflineSource(
        data,
        rows_per_update=config.rows_per_update,
        order=config.order,
        seed=config.seed,
        probes="mismatched" if needs_probes(recipe) else "none",
        max_tokens=_limits(recipe, config, context=context).max_tokens,
    )
    first = next(source.every_row())
    first = with_sentences(first, ends=frozenset())  # of these the tokenizer knows
    absent = [f.name for f in fields(Batch) if f.name in recipe.needs and getattr(first, f.name) is None]
    if absent:
        raise InputError("\n".join(f"{config.data}: {asks(recipe, name)}" for name in absent))
    return source


def _rollouts(data: Dataset, recipe: Recipe, config: RunConfig, *, cast: Roles) -> RolloutSource:
    """Prompts, samplers and reward as one source."""
    group, encoder = group_size(recipe, config), data.encoder
    prompts = [example for example in data.examples if isinstance(example, Prompt)]
    scorer = None
    if config.reward is not None:
        rewards.check_prompts(config.reward, prompts)
        device = str(cast.policy.device)
        with vocabulary.naming("reward", config.reward):
            scorer = rewards.reward(
                config.reward,
                tokenizer=encoder.tokenizer,
                dtype=config.dtype,
                device=device,
                timeout_s=rewards.timed(config.reward, config.reward_timeout_s),
            )
    return RolloutSource(
        prompts,
        sampler=_episodes(policy_sampler(cast.policy, config, encoder), config, encoder),
        reward=scorer,
        pad_id=encoder.pad,
        group=group,
        prompts_per_batch=config.rollout_rows // group,
        beside=writers_beside(recipe, config, cast=cast, encoder=encoder),
        compared=recipe.compared,
        keep=recipe.streams[0].keep,
        max_rounds=config.max_rounds,
        order=config.order,
        seed=config.seed,
    )


def _episodes(sampler: GenerateSampler, config: RunConfig, encoder: Encoder) -> GenerateSampler | EpisodeSampler:
    """The sampler itself, or within the environment that is asked for."""
    if config.environment is None:
        return sampler
    return EpisodeSampler(
        sampler,
        environment(config.environment),
        name=config.environment,
        encoder=encoder,
        max_turns=config.max_turns,
        seconds=config.environment_seconds,
    )


def _held_out(data: Dataset, recipe: Recipe, config: RunConfig, *, rollouts: RolloutSource, cast: Roles) -> HeldOut:
    """The held-out prompts, with a sampler whose random numbers are not those of training."""
    apart, encoder = replace(config, seed=(config.seed + SEED) % 2**63), data.encoder
    return held_out(
        config,
        sampler=_episodes(policy_sampler(cast.policy, apart, encoder), apart, encoder),
        reward=rollouts.reward,
        tokenizer=encoder.tokenizer,
        limits=_limits(recipe, config, context=cast.policy.context),
        pad_id=encoder.pad,
        device=str(cast.policy.device),
    )


def _inputs(config: RunConfig, data: Dataset, source: Source, heldout: HeldOut | None) -> dict[str, str]:
    """Hashes of what the run reads: the data, and the models in their roles."""
    models = {name: load.fingerprint(path) for name, path in vocabulary.models(config).items()}
    demos = {"demos": source.demos.data.data_hash} if isinstance(source, Beside) else {}
    held = {} if heldout is None else {"eval_data": heldout.data_hash}
    return {"data": data.data_hash, **demos, **held, **models}


def _notes(
    recipe: Recipe, settings: Settings, data: Dataset, cast: Roles, *, per_pass: int, total: int
) -> tuple[str, ...]:
    """What was derived from the settings, for whoever watches."""
    config = settings.config
    trained = sum(p.numel() for m in cast.trainable_modules().values() for p in m.parameters() if p.requires_grad)
    lines = [f"{recipe.name}: {len(data.examples)} {data.schema.kind} from {data.source}; {trained:,} weights train"]
    lines += idle(settings.recipe, settings.keywords)
    if dropped := data.tally.summary():
        lines.append(dropped)
    if on_policy(recipe):
        group = group_size(recipe, config)
        beside = "".join(f" and {_answers(stream)}" for stream in recipe.streams[1:] if stream.kind == "rollouts")
        size = f"{_many(config.rollout_rows // group, 'prompt')} × {_many(group, 'completion')}{beside}, "
        size += f"{_many(config.epochs, 'epoch')} of {_many(updates_per_batch(config) // config.epochs, 'update')}"
        if config.reward is not None:
            lines.append(rewards.described(config.reward))
    else:
        size = f"{config.rows_per_update} rows an update"
    return (*lines, f"{_many(total, 'update')}, {per_pass} a pass; {size}")


def _answers(stream: Stream) -> str:
    """The answers of a further stream to each prompt, and who writes them."""
    if stream.sampler == "greedy":
        return "1 greedy answer"
    return f"{stream.group} of the {stream.sampler}"


def _many(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
