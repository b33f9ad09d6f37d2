"""What a recipe makes of given texts: token rewards and advantages of its signal steps, and its token weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tokenward.diagnose.lens.columns import Columns, Models, bare
from tokenward.errors import InputError
from tokenward.masking import keep
from tokenward.models.forward import Scorer
from tokenward.models.roles import Roles
from tokenward.objective.fields import GIVEN_BY
from tokenward.objective.recipe import Recipe
from tokenward.types import Batch, TokenStats, present

_GUIDES = frozenset({"guide_logp", "guide_ref_logp"})


@final
@dataclass(frozen=True)
class Method:
    """A recipe, and the models that it alone reads."""

    recipe: Recipe
    guide: Scorer | None = None
    guide_ref: Scorer | None = None


def recipe_columns(method: Method, batch: Batch, *, said: Columns, models: Models) -> Columns:
    """reward and advantage of the recipe's signal steps, and weight = −∂(N·loss)/∂log π, 0 outside the mask.

    The texts are taken as just written: the old policy is the policy. The loss is that of all rows given as one batch;
    times N, its pairs (its rows where it compares none), a weight does not shrink as the texts get more: for DPO
    it is ±βσ(−z) at every token of a pair's two answers. What a loss sees through a whole law (an exact KL or
    entropy term) is not in the derivative by log π of the token.
    """
    recipe = method.recipe
    stats = _stats(method, batch, said, models)
    signal = recipe.signal(batch, stats)
    found = {"reward": signal.reward, "advantage": signal.advantage}
    if "logp" in recipe.trained:
        found["weight"] = units(batch) * recipe.token_weight(batch, stats)
    return {name: keep(value, batch.mask) for name, value in found.items() if value is not None}


def units(batch: Batch) -> int:
    """N: the pairs of a batch; its rows, those that are only looked at left out, where it has none."""
    return len(batch.pairs) if batch.pairs is not None else int((batch.weight > 0).sum())


def _stats(method: Method, batch: Batch, said: Columns, models: Models) -> TokenStats:
    """What the recipe reads of the models, all of it without gradient."""
    needs = method.recipe.needs
    known: dict[str, Tensor | None] = {
        **{name: said.get(name) for name in ("logp", "ref_logp", "entropy", "value")},
        "old_logp": said["logp"],
        "old_value": said.get("value"),
        "kl_ref": said.get("kl"),
        "kl_old": torch.zeros_like(said["logp"]),
        "kl_of_old": torch.zeros_like(said["logp"]),
    }
    if needs & _GUIDES:
        roles = Roles(
            policy=models.policy,
            reference=models.reference,
            guide=method.guide,
            guide_ref=method.guide_ref,
            temperature=models.temperature,
            micro_tokens=models.micro_tokens,
        )
        guided = present(roles.frozen(bare(batch, models.policy), needs & _GUIDES))
        known |= {name: value.cpu() for name, value in guided.items()}
    asked = needs & set(TokenStats.__dataclass_fields__)
    if absent := sorted(name for name in asked if known.get(name) is None):
        raise InputError(f"recipe {method.recipe.name} needs {absent[0]}: {GIVEN_BY[absent[0]]}")
    return TokenStats(**{name: known[name] for name in asked})
