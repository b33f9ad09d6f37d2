"""A recipe: which parts make a method, as data.

Nothing else in the program knows which method is running.

    loss = Σ_terms coef · Σ_units w_u · link( pool(log π_θ − log anchor) + offset ; target_u )  ÷  Σ_units w_u

Stage one (`signal`) runs once per batch of whole groups without gradient; terms run on micro-batches with gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.objective.bibliography import bibtex
from tokenward.objective.fields import GIVEN_BY, TRAINED
from tokenward.objective.rewards import SignalStep
from tokenward.objective.terms import Term
from tokenward.types import Batch, Signal, TokenStats, present, stream_weight

SCENARIOS: dict[str, str] = {"everywhere": "BDA", "samples": "RA", "differences": "RDA", "labels": "PRA"}
_ORDER = ("everywhere", "samples", "differences", "labels")

Sampler = Literal["data", "reference", "uniform", "old", "policy", "policy-through", "target"]


@final
@dataclass(frozen=True)
class Stream:
    """One kind of data a recipe takes: the rows' kind, the least number of samples per prompt, who writes the answers.

    `sampler`: "data" what the file or the lab's world gives · "reference" · "uniform" · "old" the policy at the start
    · "policy" the current one, without gradient through the sampling · "policy-through" with it · "target" π^τ.
    Rollouts are samples of the current policy. All but "data" are for the lab on the other kinds.
    """

    kind: Literal["demos", "pairs", "labels", "scores", "rollouts"]
    group: int = 1
    sampler: Sampler = "data"

    def __post_init__(self) -> None:
        known = {"demos": ("data",), "rollouts": ("data", "policy")}.get(self.kind, get_args(Sampler))
        if self.sampler not in known:
            raise InputError(
                f"a stream of {self.kind} has no sampler {self.sampler!r}: give {' or '.join(map(repr, known))}"
            )

    def __str__(self) -> str:
        least = f", {self.group} or more per prompt" if self.group > 1 else ""
        return self.kind + least + (f", from {self.sampler}" if self.sampler != "data" else "")


@final
@dataclass(frozen=True)
class Gradient:
    """One optimizer step per update on the gradient of the loss."""


@final
@dataclass(frozen=True)
class Recipe:
    """A method as data: streams, signal steps, terms, update; `sources` are keys of the bibliography.

    >>> from tokenward.recipes import build
    >>> sorted(build("dpo").needs)
    ['logp', 'pairs', 'ref_logp']
    """

    name: str
    sources: tuple[str, ...]
    streams: tuple[Stream, ...]
    terms: tuple[Term, ...]
    steps: tuple[SignalStep, ...] = ()
    update: Gradient = Gradient()

    def __post_init__(self) -> None:
        made: set[str] = set()
        for part in self._parts:
            if missing := part.reads - made:
                word = min(missing)
                raise InputError(
                    f"recipe {self.name}: {type(part).__name__} reads {word}, but no step before it makes it: "
                    f"{GIVEN_BY[word]}"
                )
            made |= getattr(part, "makes", frozenset())
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"recipe {self.name}: needs terms of distinct names, got {names}")

    @property
    def _parts(self) -> tuple[SignalStep | Term, ...]:
        return (*self.steps, *self.terms)

    @property
    def needs(self) -> frozenset[str]:
        """Fields of Batch and TokenStats that some part reads."""
        return frozenset().union(*(part.needs for part in self._parts))

    @property
    def trained(self) -> frozenset[str]:
        """The fields of TokenStats that must carry gradient when the terms run."""
        return frozenset().union(*(term.needs for term in self.terms)) & TRAINED

    @property
    def scope(self) -> Literal["row", "pair", "group"]:
        """The smallest set of rows a micro-batch may not cut."""
        scopes = {term.scope for term in self.terms}
        return "group" if "group" in scopes else "pair" if "pair" in scopes else "row"

    @property
    def scenario(self) -> str | None:
        """BDA, RA, RDA or PRA by what the targets know of the reward; None where there is no reward."""
        access = {term.access for term in self.terms}
        return next((SCENARIOS[a] for a in _ORDER if a in access), None)

    @property
    def coefs(self) -> dict[str, float]:
        return {term.name: term.coef for term in self.terms}

    def signal(self, batch: Batch, frozen: TokenStats, start: Signal | None = None) -> Signal:
        """Stage one: rewards, advantages, reference points; no gradient.

        Only rows of the first stream have weight there: the others (demonstrations beside rollouts, a greedy answer)
        do not enter a mean, and what a step writes on them is read by no term.
        """
        signal = start or Signal()
        with torch.no_grad():
            stats = frozen.masked(batch.mask)
            batch = replace(batch, weight=stream_weight(batch, 0))
            for step in self.steps:
                signal = step(batch, stats, signal)
        return signal

    def weights(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """What each term's sum over the whole batch is divided by; known before any forward pass."""
        return {term.name: term.weight(batch) for term in self.terms}

    def sums(self, batch: Batch, stats: TokenStats, signal: Signal) -> dict[str, Float[Tensor, ""]]:
        """Each term's weighted sum over the rows given (a micro-batch), with gradient."""
        stats = stats.masked(batch.mask)
        return {term.name: term.sum(batch, stats, signal) for term in self.terms}

    def loss(self, sums: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Σ coef · sum / weight: the one place that divides. A term that no row of the batch enters counts 0."""
        parts = [term.coef * sums[term.name] / _nonzero(weights[term.name]) for term in self.terms]
        return torch.stack([part.reshape(()) for part in parts]).sum()

    def value(self, batch: Batch, stats: TokenStats, start: Signal | None = None) -> Float[Tensor, ""]:
        """The loss of a whole batch, both stages, differentiable in stats.logp, value, model_score, kl_ref.

        >>> from tokenward.recipes import build
        >>> row = dict(length=torch.tensor([2, 2]), group=torch.tensor([0, 0]), weight=torch.ones(2))
        >>> mask, zero = torch.tensor([[False, True], [False, True]]), torch.zeros(2, 2)
        >>> batch = Batch(tokens=torch.zeros(2, 2, dtype=torch.long), mask=mask, pairs=torch.tensor([[0, 1]]), **row)
        >>> build("dpo").value(batch, TokenStats(logp=zero, ref_logp=zero))  # log 2 at the reference
        tensor(0.6931)
        """
        frozen = TokenStats(**{name: value.detach() for name, value in present(stats).items()})
        signal = self.signal(batch, frozen, start)
        return self.loss(self.sums(batch, stats, signal), self.weights(batch))

    def token_weight(self, batch: Batch, stats: TokenStats, start: Signal | None = None) -> Float[Tensor, "B T"]:
        """−∂value/∂logp: how hard the loss pushes each token up (loss units; not credit)."""
        if stats.logp is None:
            raise InputError(f"recipe {self.name}: token_weight needs logp in TokenStats; it is the derivative by it")
        logp = stats.logp.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(batch, replace(stats, logp=logp), start)
        (gradient,) = torch.autograd.grad(value, logp, allow_unused=True)
        return torch.zeros_like(logp) if gradient is None else -gradient

    def cite(self) -> str:
        """BibTeX of the method and its parts."""
        return bibtex(self.sources)

    def __str__(self) -> str:
        rows = [("recipe", self.name), ("scenario", self.scenario or "none (no reward)")]
        rows += [("stream", str(stream)) for stream in self.streams]
        rows += [("signal", repr(step)) for step in self.steps] + [("term", repr(term)) for term in self.terms]
        rows += [("update", repr(self.update)), ("needs", ", ".join(sorted(self.needs)))]
        return "\n".join(f"{left:<9} {right}" for left, right in rows)


def _nonzero(weight: Tensor) -> Tensor:
    return torch.where(weight == 0, torch.ones_like(weight), weight)
