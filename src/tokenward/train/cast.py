"""Who plays which role in a run: the models that the recipe needs, and the optimizer of those that learn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tokenward.data.sources import OfflineSource
from tokenward.models import load
from tokenward.models.cache import RefCache
from tokenward.models.forward import Scorer
from tokenward.models.roles import AdapterOff, Reference, Roles, frozen_copy, trailing
from tokenward.objective.recipe import Recipe
from tokenward.objective.updates import ConstrainedStep
from tokenward.train.config import RunConfig
from tokenward.train.runtime import Runtime
from tokenward.train.samplers import reads_reference

VALUES = frozenset({"value", "old_value"})
ANCHORED = frozenset({"ref_logp", "kl_ref", "guide_ref_logp"})
CACHE = "reference.safetensors"


def roles(recipe: Recipe, config: RunConfig, runtime: Runtime) -> Roles:
    """The models that the recipe needs, and no other."""
    device, needs = str(runtime.device), recipe.needs
    shared = bool(needs & VALUES) and config.critic in (None, "shared")
    if config.learns == "partner":
        policy = _frozen(config.model, config, device)
    else:
        policy = _learner(config.model, config, device, value_head=shared or "model_score" in needs)
    critic = None
    if needs & VALUES and not shared:
        path = config.model if config.critic == "own" else str(config.critic)
        critic = load.critic(path, dtype=config.dtype, device=device)
    return Roles(
        policy=policy,
        critic=critic,
        reference=_reference(policy, config.ref, config, device)
        if needs & ANCHORED or reads_reference(recipe) or config.eval_data is not None
        else None,
        guide=_frozen(str(config.guide), config, device) if "guide_logp" in needs else None,
        guide_ref=_frozen(config.guide_ref, config, device) if config.guide_ref is not None else None,
        old=trailing(policy) if "kl_old" in needs or isinstance(recipe.update, ConstrainedStep) else None,
        partner=None if config.partner is None else _partner(config.partner, recipe, config, device),
        temperature=config.temperature,
        micro_tokens=2 * config.micro_tokens,  # without gradient a token takes about half the memory
    )


def _partner(path: str, recipe: Recipe, config: RunConfig, device: str) -> Roles:
    """The second model of a pipeline and its reference: what `check` lets through reads log-probs alone."""
    policy = (_frozen if config.learns == "model" else _learner)(path, config, device)
    return Roles(
        policy=policy,
        reference=_reference(policy, config.partner_ref, config, device) if "ref_logp" in recipe.needs else None,
        temperature=config.temperature,
        micro_tokens=2 * config.micro_tokens,
    )


def _learner(path: str, config: RunConfig, device: str, *, value_head: bool = False) -> Scorer:
    """A language model to train, whole or through adapters."""
    return load.policy(
        path,
        dtype=config.dtype,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha or 2.0 * max(config.lora_rank, 1),
        lora_targets=_names(config.lora_targets),
        value_head=value_head,
        seed=config.seed,
        device=device,
    )


def optimizer(found: Roles, config: RunConfig) -> torch.optim.AdamW:
    """AdamW: policy and partner at their rate; an own critic and every value or score head at the critic's."""
    heads = [p for p in (found.policy.value_head or nn.Identity()).parameters() if p.requires_grad]
    heads += [p for p in (found.critic.parameters() if found.critic is not None else ()) if p.requires_grad]
    chosen = {id(p) for p in heads}
    own = [p for p in found.policy.parameters() if p.requires_grad and id(p) not in chosen]
    others = [p for p in (found.partner.policy.parameters() if found.partner is not None else ()) if p.requires_grad]
    rate = config.learning_rate
    rates = (rate, config.critic_learning_rate or rate, rate)
    groups = [{"params": ps, "lr": r, "base_lr": r} for ps, r in zip((own, heads, others), rates, strict=True) if ps]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, betas=betas, weight_decay=config.weight_decay, fused=True)


def cached_reference(found: Roles, source: OfflineSource, config: RunConfig) -> Roles:
    """Roles whose reference is a cache of the policy's log-probs of every row, from the run directory if it has one."""
    key = {"model": load.fingerprint(config.model), "data": source.data.data_hash}
    key |= {"dtype": config.dtype, "temperature": f"{config.temperature:g}"}
    path = Path(config.out) / CACHE
    if path.is_file():
        found.reference = RefCache.load(path, key=key)
        return found
    cache = RefCache(key)
    cache.fill(found.policy, source.every_row(), temperature=found.temperature, micro_tokens=found.micro_tokens)
    found.reference = cache
    return found


def _reference(policy: Scorer, asked: str | None, config: RunConfig, device: str) -> Reference | None:
    """The reference as asked: adapters off, a frozen copy, or another model; a cache is made when the data are read.

    A model that does not learn is its own.
    """
    if asked == "cached":
        return None
    if asked is None and not any(p.requires_grad for p in policy.parameters()):
        return policy
    if asked == "adapter" or (asked is None and config.lora_rank):
        return AdapterOff()
    if asked in (None, "copy"):
        return frozen_copy(policy)
    return _frozen(str(asked), config, device)


def _frozen(path: str, config: RunConfig, device: str) -> Scorer:
    return load.policy(path, dtype=config.dtype, device=device).requires_grad_(False)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
