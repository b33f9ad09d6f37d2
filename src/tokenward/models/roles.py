"""Who says what about a batch: the policy, its reference, the guide and the critic.

The reference is a model (a frozen copy, or the policy with its adapters off) or a cache of log-probabilities.
Where a recipe asks how far the policy has moved, `old` holds it as it was: only weights that train are stored twice.
One temperature holds for all of them: it redefines the model, so that a policy equal to its reference has KL 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor, nn

from tokenward.errors import InputError
from tokenward.models.actors import by_actor
from tokenward.models.adapters import adapters_off
from tokenward.models.cache import RefCache
from tokenward.models.forward import Scorer
from tokenward.models.frozen import score
from tokenward.types import Batch, TokenStats, present

FROZEN_FIELDS = frozenset({"old_logp", "old_value", "ref_logp", "guide_logp", "guide_ref_logp"})
Forward = Callable[..., TokenStats]


@dataclass(frozen=True)
class AdapterOff:
    """The reference is the policy with its LoRA adapters switched off."""


Reference = AdapterOff | Scorer | RefCache
STEP0_TOLERANCE: dict[str, float] = {"adapter-off": 1e-5, "model": 1e-5, "cached": 1e-4, "bfloat16": 0.1}


@final
@dataclass(eq=False)
class Roles:
    """The models of a run, and the two questions asked of them: `frozen` (no gradient) and `current`.

    `critic` None: values come from the policy's own value head. `guide_ref` None: the reference. `policy_call` and
    `critic_call` are what `current` runs: the modules themselves, or a data-parallel wrapper around them. `old` is the
    policy when `remember` was last called (see `trailing`). `partner` is the second model of a pipeline with roles of
    its own: it is asked about the rows whose actor is 1, and knows no further partner.
    """

    policy: Scorer
    critic: Scorer | None = None
    reference: Reference | None = None
    guide: Scorer | None = None
    guide_ref: Reference | None = None
    old: Scorer | None = None
    partner: Roles | None = None
    temperature: float = 1.0
    micro_tokens: int = 16384
    policy_call: Forward | None = field(default=None, repr=False)
    critic_call: Forward | None = field(default=None, repr=False)

    def trainable_modules(self) -> dict[str, Scorer]:
        """What the optimizer owns: {"policy": …}, and the critic that has its own trunk, and the partner, by name."""
        others = {"critic": self.critic, "partner": None if self.partner is None else self.partner.policy}
        return {"policy": self.policy} | {name: model for name, model in others.items() if model is not None}

    @property
    def context(self) -> int | None:
        """Longest row that every model which writes was made for."""
        return min((n for roles in self._actors if (n := roles.policy.context) is not None), default=None)

    @property
    def _actors(self) -> tuple[Roles, ...]:
        return (self,) if self.partner is None else (self, self.partner)

    def frozen(self, batch: Batch, needs: frozenset[str]) -> TokenStats:
        """The no-gradient statistics that `needs` names (others of its names are not this function's)."""
        return by_actor(batch, [partial(roles._frozen, needs=needs) for roles in self._actors])

    def current(self, batch: Batch, fields: frozenset[str]) -> TokenStats:
        """Statistics with gradient, for a micro-batch: the policy's, and the critic's values."""
        return by_actor(batch, [partial(roles._current, fields=fields) for roles in self._actors])

    def _frozen(self, batch: Batch, needs: frozenset[str]) -> TokenStats:
        wanted = needs & FROZEN_FIELDS
        out: dict[str, Tensor] = {}
        if wanted & {"old_logp", "old_value"}:
            out |= self._old(batch, wanted)
        if "ref_logp" in wanted:
            out["ref_logp"] = self._anchor(batch, self.reference, "ref_logp")
        if "guide_logp" in wanted:
            if self.guide is None:
                raise InputError("guide_logp is needed and there is no guide; give --guide MODEL")
            out["guide_logp"] = self._logp(self.guide, batch)
        if "guide_ref_logp" in wanted:
            if self.guide_ref is None and "ref_logp" in out:
                out["guide_ref_logp"] = out["ref_logp"]
            else:
                anchor = self.reference if self.guide_ref is None else self.guide_ref
                out["guide_ref_logp"] = self._anchor(batch, anchor, "guide_ref_logp")
        return TokenStats(**out)

    def _current(self, batch: Batch, fields: frozenset[str]) -> TokenStats:
        own = fields if self.critic is None else fields - {"value"}
        reference = self._model_reference() if "kl_ref" in fields else None
        out: dict[str, Tensor] = {}
        if own:
            call: Forward = self.policy_call or self.policy
            out |= present(call(batch, fields=own, temperature=self.temperature, reference=reference, old=self.old))
        if own != fields and self.critic is not None:
            critic: Forward = self.critic_call or self.critic
            out |= present(critic(batch, fields=frozenset({"value"}), temperature=1.0, reference=None))
        return TokenStats(**out)

    @torch.no_grad()
    def remember(self) -> None:
        """Make `old` the policy of this moment; nothing where no `old` is held."""
        for _, mine, was in self._followed():
            was.copy_(mine)

    @torch.no_grad()
    def go_back(self) -> None:
        """Make the policy what it was when `remember` was last called, to the bit."""
        for _, mine, was in self._followed():
            mine.copy_(was)

    def remembered(self) -> dict[str, Tensor]:
        """The weights of `old` that the policy's may differ from, by name; empty where none is held."""
        return {name: was.data for name, _, was in self._followed()}

    @torch.no_grad()
    def recall(self, weights: Mapping[str, Tensor]) -> None:
        """Give `old` the weights that `remembered` gave; none: it stays as it is."""
        for name, _, was in self._followed() if weights else []:
            was.copy_(weights[name])

    def _followed(self) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """(name, the policy's, the old policy's) of every weight that trains."""
        if self.old is None:
            return []
        both = zip(self.policy.named_parameters(), self.old.parameters(), strict=True)
        return [(name, mine, was) for (name, mine), was in both if mine.requires_grad]

    def step0_gap(self, batch: Batch) -> float:
        """max |log π − log π_ref| over trainable tokens, in nats: the implicit reward before the first step."""
        stats = self.frozen(batch, frozenset({"old_logp", "ref_logp"}))
        assert stats.old_logp is not None and stats.ref_logp is not None  # asked for above
        return float((stats.old_logp - stats.ref_logp).abs().max())

    def step0_tolerance(self) -> float:
        """The largest `step0_gap` that rounding explains on this path, when the policy starts as its reference."""
        low = STEP0_TOLERANCE["bfloat16"] if self.policy.compute is not None else 0.0
        return max(low, STEP0_TOLERANCE[self.reference_kind()])

    def reference_kind(self) -> Literal["adapter-off", "model", "cached"]:
        """How the reference is held."""
        if isinstance(self.reference, AdapterOff):
            return "adapter-off"
        return "cached" if isinstance(self.reference, RefCache) else "model"

    def _old(self, batch: Batch, wanted: frozenset[str]) -> dict[str, Tensor]:
        asked = {"old_logp": "logp", "old_value": "value"}
        names = {asked[name] for name in wanted & set(asked)}
        own = frozenset(names if self.critic is None else names - {"value"})
        got: dict[str, Tensor] = present(self._score(self.policy, batch, own)) if own else {}
        if self.critic is not None and "value" in names:
            got |= present(self._score(self.critic, batch, frozenset({"value"})))
        return {f"old_{name}": value for name, value in got.items()}

    def _anchor(self, batch: Batch, who: Reference | None, name: str) -> Tensor:
        if who is None:
            raise InputError(f"{name} is needed and there is no reference; give --ref or --guide-ref")
        if isinstance(who, RefCache):
            return who.lookup(batch)
        if isinstance(who, AdapterOff):
            with adapters_off(self.policy):
                return self._logp(self.policy, batch)
        return self._logp(who, batch)

    def _model_reference(self) -> Scorer | None:
        if isinstance(self.reference, AdapterOff):
            return self.policy
        return self.reference if isinstance(self.reference, Scorer) else None

    def _logp(self, who: Scorer, batch: Batch) -> Tensor:
        logp = self._score(who, batch, frozenset({"logp"})).logp
        assert logp is not None  # asked for above
        return logp

    def _score(self, who: Scorer, batch: Batch, fields: frozenset[str]) -> TokenStats:
        return score(who, batch, fields, temperature=self.temperature, micro_tokens=self.micro_tokens)


def trailing(policy: Scorer) -> Scorer:
    """The policy as it is, frozen: its trainable weights copied, all others shared (with LoRA: the adapters alone)."""
    shared = {id(p): p for p in policy.parameters() if not p.requires_grad}
    return copy.deepcopy(policy, memo=dict(shared)).requires_grad_(False)


def frozen_copy(scorer: Scorer) -> Scorer:
    """A copy of a Scorer that never trains: the reference of a fully trained policy."""
    return copy.deepcopy(scorer).requires_grad_(False)
