"""A few texts of the reference, made once at the start: by them a run follows its KL to the policy as it trains.

E_{π_ref}[log π/π_ref] = −KL(π_ref‖π) (sequences; per state Rafailov et al. 2024, Eq. 16), so `reference/log_ratio`
should fall as `reference/kl` grows. No gradient enters these texts and no generator of the run is used for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tokenward.data.collate import rollouts_batch
from tokenward.data.dataset import Dataset
from tokenward.data.sources import shuffled
from tokenward.data.tokenize import Demonstration, Example, Labeled, Pair, Prompt, Scored
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.roles import AdapterOff, Roles
from tokenward.models.two_laws import two_laws
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.train.config import RunConfig
from tokenward.types import Batch

SEED = 15_485_863  # from the run's seed to the one of the probe's texts


@final
@dataclass(frozen=True)
class Probe:
    """Texts of the reference, looked at before every update whose number of updates made is a multiple of `every`."""

    batch: Batch
    every: int

    def numbers(self, roles: Roles) -> dict[str, float]:
        """reference/log_ratio mean Σ_t log π/π_ref of the texts, and its s.e. · reference/kl mean Σ_t KL(π_ref‖π)(s_t)
        along them, the KL of their law in nats · reference/z (log_ratio + kl) in its own standard errors.
        """
        laws = two_laws(
            roles.policy, _model(roles), self.batch, temperature=roles.temperature, micro_tokens=roles.micro_tokens
        )
        ratio, kl = (laws.logp - laws.ref_logp).sum(-1), laws.back.sum(-1)
        gap, number = ratio + kl, len(ratio)
        errors = [float(x.std(correction=1)) / math.sqrt(number) for x in (ratio, gap)]
        return {
            "reference/log_ratio": float(ratio.mean()), "reference/log_ratio_se": errors[0],
            "reference/kl": float(kl.mean()), "reference/z": float(gap.mean()) / errors[1] if errors[1] else 0.0,
        }  # fmt: skip


def probed(probe: Probe | None, roles: Roles, *, update: int) -> dict[str, float]:
    """The numbers of the probe where they are due after `update` updates; nothing elsewhere."""
    return {} if probe is None or update % probe.every else probe.numbers(roles)


def without_probe(config: RunConfig) -> list[str]:
    """One line where a probe is asked for and its reference is no model of its own, or too few texts are."""
    if not config.probe_samples:
        return []
    wrong = []
    if config.probe_samples < 2:
        wrong.append(f"probe_samples = {config.probe_samples} has no error: give 2 or more, or 0 for none")
    if config.ref == "cached":
        wrong.append("probe_samples asks the reference about texts of its own; ref = cached holds the rows of the file")
    if config.partner is not None:
        wrong.append("probe_samples follows one model; with a partner leave it out")
    return wrong


def make_probe(data: Dataset, config: RunConfig, *, roles: Roles) -> Probe | None:
    """The probe of a run, the same whenever the run is opened; None where none is asked for.

    Its prompts are drawn from the rows by the seed, its texts as long as the data's longest answer at most.
    """
    if not config.probe_samples:
        return None
    prompts = _prompts(data.examples, config)
    longest = max((_length(example) for example in data.examples), default=0) or config.max_new_tokens
    context = roles.policy.context
    if context is not None:
        longest = min(longest, context - max(len(prompt.tokens) for prompt in prompts))
    if longest < 1:
        raise InputError("probe_samples: the data's prompts leave no room for a text in the model's context")
    sampler = GenerateSampler(
        _model(roles), end_ids=load.end_ids(roles.policy, data.encoder.tokenizer), pad_id=data.encoder.pad,
        max_new_tokens=longest, law=Law(temperature=config.temperature), rows=config.probe_samples,
        seed=config.seed + SEED, adapters="off" if isinstance(roles.reference, AdapterOff) else "on",
    )  # fmt: skip
    groups = list(sampler.generate(prompts, group=1, version=0))
    return Probe(rollouts_batch(groups, pad_id=data.encoder.pad), config.probe_every)


def _model(roles: Roles) -> Scorer:
    """The reference as a model; the policy itself where its adapters are switched off."""
    if isinstance(roles.reference, AdapterOff):
        return roles.policy
    assert isinstance(roles.reference, Scorer)  # `without_use` and `without_probe` refuse all else
    return roles.reference


def _prompts(examples: Sequence[Example], config: RunConfig) -> list[Prompt]:
    """As many prompts as texts, distinct rows first, in an order that the seed decides."""
    order = shuffled(len(examples), seed=config.seed + SEED, number=0)
    rows = [examples[order[i % len(order)]] for i in range(config.probe_samples)]
    return [row if isinstance(row, Prompt) else row.prompt for row in rows]


def _length(example: Example) -> int:
    """Tokens of the row's longest answer; 0 for a prompt."""
    if isinstance(example, Pair):
        return max(len(example.chosen.tokens), len(example.rejected.tokens))
    return len(example.response.tokens) if isinstance(example, Demonstration | Labeled | Scored) else 0
