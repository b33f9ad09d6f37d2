"""Who writes the completions of each stream: the policy, its reference, both together, or the policy without chance."""

from __future__ import annotations

from dataclasses import replace

from tokenward.data.encode import Encoder
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.roles import AdapterOff, Reference, Roles
from tokenward.objective.recipe import Recipe, Stream
from tokenward.rollout.mixture import Mixture
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.rollout.source import Writer
from tokenward.train.config import RunConfig

SAMPLED_ROWS = 256  # completions that one call of `generate` makes side by side
_APART = 1_000_003  # between the seeds of two streams: equal ones would draw equal answers of equal models


def policy_sampler(policy: Scorer, config: RunConfig, encoder: Encoder) -> GenerateSampler:
    """The policy's own completions."""
    return _sampler(policy, Stream("rollouts"), 0, config, encoder)


def writers_beside(recipe: Recipe, config: RunConfig, *, cast: Roles, encoder: Encoder) -> list[Writer]:
    """The writers of the rollout streams after the first, in their order."""
    streams = enumerate(recipe.streams)
    beside = [(place, stream) for place, stream in streams if place and stream.kind == "rollouts"]
    return [Writer(_beside(stream, place, config, cast, encoder), stream.group) for place, stream in beside]


def reads_reference(recipe: Recipe) -> bool:
    """Whether some stream's answers are the reference's, or half of them."""
    return any(stream.kind == "rollouts" and stream.sampler in ("reference", "mixture") for stream in recipe.streams)


def _beside(stream: Stream, place: int, config: RunConfig, cast: Roles, encoder: Encoder) -> GenerateSampler:
    """The sampler of a stream by who writes it."""
    off = isinstance(cast.reference, AdapterOff)
    if stream.sampler == "reference":
        made = _sampler(_model(cast.reference, cast.policy), stream, place, config, encoder)
        made.adapters = "off" if off else "on"
        return made
    made = _sampler(cast.policy, stream, place, config, encoder)
    if stream.sampler == "mixture":
        other = _model(cast.reference, cast.policy)
        made.mixture = Mixture(other, stream.mixture or 0.0, "off" if off else "on")
    return made


def _sampler(model: Scorer, stream: Stream, place: int, config: RunConfig, encoder: Encoder) -> GenerateSampler:
    law = Law(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    return GenerateSampler(
        model,
        end_ids=load.end_ids(model, encoder.tokenizer),
        pad_id=encoder.pad,
        max_new_tokens=config.max_new_tokens,
        law=replace(law, temperature=0.0) if stream.sampler == "greedy" else law,
        rows=min(config.rollout_rows, SAMPLED_ROWS),
        seed=config.seed + _APART * place,
    )


def _model(reference: Reference | None, policy: Scorer) -> Scorer:
    """The model whose answers are the reference's; the policy itself where its adapters are switched off."""
    if isinstance(reference, Scorer):
        return reference
    if isinstance(reference, AdapterOff):
        return policy
    raise InputError("answers of the reference need a reference that is a model: give --ref adapter, copy or DIR")
