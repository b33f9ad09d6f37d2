"""The models of a request, read from their directories; each must read the token ids of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenward.diagnose.lens.columns import Models
from tokenward.diagnose.lens.request import Meant, Request
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.value_head import load_value_head, value_model, value_source
from tokenward.models.vocabulary import same_tokens
from tokenward.objective.fields import GIVEN_BY
from tokenward.objective.recipe import Recipe


@final
@dataclass(frozen=True)
class Cast:
    """A policy with its reference and critic for each model of a pipeline; a recipe's guide and its reference."""

    voices: tuple[Models, ...]
    guide: Scorer | None = None
    guide_ref: Scorer | None = None

    @property
    def contexts(self) -> list[int | None]:
        """The longest row of each model."""
        others = (self.guide, self.guide_ref)
        found = [who for m in self.voices for who in (m.policy, m.reference, m.critic)]
        return [who.context for who in (*found, *others) if who is not None]


def cast(request: Request, asked: Meant, *, tokenizer: Any, recipe: Recipe | None) -> Cast:
    """Read every model that is asked for, and no other."""
    guided = recipe is not None and "guide_logp" in recipe.needs
    if recipe is not None:
        _complete(recipe, request, asked)
    if not guided and (request.guide is not None or request.guide_ref is not None):
        raise InputError(
            "guide and guide_ref are read by recipes with a guide, such as rto: give --recipe, or no guide"
        )
    values = None if asked.critic is None else value_source(asked.critic)[0]
    named = {"ref": asked.ref, "critic": values, "partner": asked.partner, "partner_ref": asked.partner_ref}
    named |= {"guide": request.guide, "guide_ref": request.guide_ref}
    for name, path in named.items():
        if path is not None and path != asked.model:
            same_tokens(
                path, tokenizer, what=f"{name} =", remedy="credit compares the same token ids under both models"
            )

    def model(path: str | None, *, head: bool = False) -> Scorer | None:
        if path is None:
            return None
        found = load.policy(path, dtype=request.dtype, device=request.device, value_head=head)
        return found.requires_grad_(False)

    policy, partner = model(asked.model, head=asked.value_head is not None), model(asked.partner)
    assert policy is not None  # a request has a model
    if asked.value_head is not None:
        load_value_head(policy, Path(asked.value_head))
    critic = None
    if asked.critic is not None:
        critic = value_model(asked.critic, dtype=request.dtype, device=request.device)
    heat, micro = asked.temperature, request.micro_tokens
    voices = [Models(policy, model(asked.ref), critic, temperature=heat, micro_tokens=micro)]
    if partner is not None:
        voices.append(Models(partner, model(asked.partner_ref), temperature=heat, micro_tokens=micro))
    return Cast(tuple(voices), model(request.guide), model(request.guide_ref))


def _complete(recipe: Recipe, request: Request, asked: Meant) -> None:
    """Refuse a recipe whose models are not given, before any model is read."""
    critic = asked.critic is not None or asked.value_head is not None
    given = {"guide_logp": request.guide, "ref_logp": asked.ref, "kl_ref": asked.ref, "old_value": critic or None}
    if absent := [name for name, model in given.items() if name in recipe.needs and model is None]:
        raise InputError(f"recipe {recipe.name} needs {absent[0]}: {GIVEN_BY[absent[0]]}")
