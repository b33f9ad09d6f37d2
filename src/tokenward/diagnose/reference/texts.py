"""Texts of one origin under policy and reference: columns by place in the response, and their means with errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.data.collate import rollouts_batch
from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.models.two_laws import COLUMNS, TwoLaws, two_laws
from tokenward.types import Rollout

Ids = tuple[int, ...]


@final
@dataclass(frozen=True)
class Text:
    """One answer: its prompt's ids, its own, which of them the answer wrote, and whether it ended by itself."""

    prompt: Ids
    tokens: Ids
    ended: bool
    trainable: tuple[bool, ...] | None = None


@final
@dataclass(frozen=True)
class Scored:
    """N texts and what both models say; column t of `laws` is the t-th trainable token of a text, where `valid`."""

    texts: tuple[Text, ...]
    valid: Bool[Tensor, "N W"]
    laws: TwoLaws

    def only(self, where: Bool[Tensor, " N"]) -> Scored:
        """Some of the texts."""
        kept = tuple(text for text, here in zip(self.texts, where.tolist(), strict=True) if here)
        return Scored(kept, self.valid[where], TwoLaws(**{name: getattr(self.laws, name)[where] for name in COLUMNS}))

    def first(self, most: int) -> Scored:
        """At most so many tokens of each text, the first ones that its writer wrote."""
        laws = {name: getattr(self.laws, name)[:, :most] for name in COLUMNS}
        return Scored(self.texts, self.valid[:, :most], TwoLaws(**laws))

    @property
    def prompts(self) -> list[Hashable]:
        return [text.prompt for text in self.texts]

    @property
    def length(self) -> Float[Tensor, " N"]:
        """Trainable tokens, the end token included."""
        return self.valid.sum(-1).double()

    @property
    def ratio(self) -> Float[Tensor, " N"]:
        """Σ_t log π/π_ref of each text, nats."""
        return (self.laws.logp - self.laws.ref_logp).sum(-1)

    def mean(self, values: Float[Tensor, " N"]) -> Estimate:
        """Mean over texts; the standard error counts the texts of one prompt as one."""
        return estimate(values.tolist(), clusters=self.prompts)

    def token_mean(self, values: Float[Tensor, "N W"]) -> Estimate:
        """Mean over tokens Σx/Σn; its standard error from the texts' residuals x_i − mean·n_i, clustered by prompt."""
        sums, counts = torch.where(self.valid, values, 0.0).sum(-1), self.length
        mean = float(sums.sum() / counts.sum())
        if not math.isfinite(mean):
            return Estimate(mean, math.nan, len(self.texts), len(set(self.prompts)))
        return estimate((mean + (sums - mean * counts) / counts.mean()).tolist(), clusters=self.prompts)


def scored(
    texts: Sequence[Text],
    *,
    policy: Scorer,
    reference: Scorer,
    pad_id: int,
    temperature: float = 1.0,
    micro_tokens: int = 16384,
) -> Scored:
    """Both models' numbers of each text."""
    if not texts:
        raise InputError("there is no text to score")
    batch = rollouts_batch([[_rollout(text)] for text in texts], pad_id=pad_id)
    if not bool(batch.mask.any(-1).all()):
        raise InputError("a text without a token that its writer wrote cannot be scored")
    laws = two_laws(policy, reference, batch, temperature=temperature, micro_tokens=micro_tokens)
    order = torch.argsort((~batch.mask).to(torch.int8), dim=-1, stable=True)[:, : int(batch.mask.sum(-1).max())]
    columns = {name: getattr(laws, name).gather(-1, order) for name in COLUMNS}
    return Scored(tuple(texts), batch.mask.gather(-1, order), TwoLaws(**columns))


def _rollout(text: Text) -> Rollout:
    number = len(text.tokens)
    wrote = text.trainable or (True,) * number
    return Rollout(0, text.prompt, text.tokens, wrote, (0.0,) * number, "stop" if text.ended else "length")


def by_prompt(one: Scored, mine: Float[Tensor, " N"], two: Scored, theirs: Float[Tensor, " M"]) -> Estimate:
    """Mean over the prompts of both of (mean of mine − mean of theirs), with its standard error over prompts."""
    left, right = _means(one, mine), _means(two, theirs)
    both = [prompt for prompt in left if prompt in right]
    if not both:
        raise InputError("two sets of texts share no prompt: there is nothing to compare prompt by prompt")
    return estimate([left[prompt] - right[prompt] for prompt in both])


def _means(of: Scored, values: Float[Tensor, " N"]) -> dict[Hashable, float]:
    rows: dict[Hashable, list[float]] = {}
    for prompt, value in zip(of.prompts, values.tolist(), strict=True):
        rows.setdefault(prompt, []).append(value)
    return {prompt: math.fsum(row) / len(row) for prompt, row in rows.items()}


def repetition(tokens: Sequence[int], *, size: int = 3) -> float:
    """Share of the text's runs of `size` tokens that stood in it before; 0 for a text shorter than that.

    >>> round(repetition([5, 6, 5, 6, 5]), 4)
    0.3333
    """
    runs = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
