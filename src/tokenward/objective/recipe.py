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
from tokenward.objective.signal import memory
from tokenward.objective.signal.memory import Memory, Step, Total
from tokenward.objective.terms import Term
from tokenward.objective.updates import Gradient, Update
from tokenward.types import Batch, Signal, TokenStats, present

SCENARIOS: dict[str, str] = {"everywhere": "BDA", "samples": "RA", "differences": "RDA", "labels": "PRA"}
_ORDER = ("everywhere", "samples", "differences", "labels")

Sampler = Literal["data", "reference", "uniform", "old", "policy", "policy-through", "target"]
_SAMPLERS: dict[str, tuple[str, ...]] = {
    "demos": ("data",),
    "rollouts": ("data", "policy", "reference", "greedy", "mixture"),
}


@final
@dataclass(frozen=True)
class Stream:
    """One kind of data a recipe takes: the rows' kind, the number of samples per prompt, who writes the answers.

    `sampler`: "data" what the file or the lab's world gives · "reference" · "uniform" · "old" the policy at the start
    · "policy" the current one, without gradient through the sampling · "policy-through" with it · "target" π^τ.
    All but "data" are for the lab on kinds other than rollouts.

    Rollouts of the first stream are samples of the current policy, `group` or more per prompt. Further streams of
    rollouts answer the same prompts, `group` times each: "reference" samples of π_ref · "greedy" the likeliest token at
    each place, once · "mixture" samples of the law ∝ π^{1−c}·π_ref^c, c = `mixture`, each token normalized by itself
    (the geometric mean of whole responses would be normalized once).
    keep "mixed": groups whose scores are all equal are dropped, and further prompts drawn (DAPO's dynamic sampling).
    """

    kind: Literal["demos", "pairs", "labels", "scores", "rollouts"]
    group: int = 1
    sampler: Sampler | Literal["greedy", "mixture"] = "data"
    mixture: float | None = None
    keep: Literal["all", "mixed"] = "all"

    def __post_init__(self) -> None:
        known = _SAMPLERS.get(self.kind, get_args(Sampler))
        if self.sampler not in known:
            raise InputError(
                f"a stream of {self.kind} has no sampler {self.sampler!r}: give {' or '.join(map(repr, known))}"
            )
        if (self.sampler == "mixture") != (self.mixture is not None) or not 0 <= (self.mixture or 0) <= 1:
            raise InputError(
                f"a stream from {self.sampler} with mixture = {self.mixture}: sampler 'mixture' takes the reference's "
                "share, between 0 and 1, and no other sampler has one"
            )
        if self.sampler == "greedy" and self.group != 1:
            raise InputError(f"a greedy stream of group {self.group}: there is one greedy answer to a prompt; give 1")
        if self.keep == "mixed" and (self.kind != "rollouts" or self.group < 2):
            raise InputError("keep = 'mixed' asks for rollouts in groups of 2 or more: a single score is never mixed")

    @property
    def own(self) -> bool:
        """Whether the answers are samples of the current policy."""
        return self.kind == "rollouts" and self.sampler in ("data", "policy")

    def __str__(self) -> str:
        least = "or more " if self.own or self.kind != "rollouts" else ""
        number = f", {self.group} {least}per prompt" if self.group > 1 else ""
        share = f" of reference^{self.mixture:g}" if self.mixture is not None else ""
        text = self.kind + number + (f", from {self.sampler}{share}" if self.sampler != "data" else "")
        return text + (", groups of equal scores dropped" if self.keep == "mixed" else "")


@final
@dataclass(frozen=True)
class Recipe:
    """A method as data: streams, signal steps, terms, update; `sources` are keys of the bibliography, or texts.

    >>> from tokenward.recipes import build
    >>> sorted(build("dpo").needs)
    ['logp', 'pairs', 'ref_logp']
    """

    name: str
    sources: tuple[str, ...]
    streams: tuple[Stream, ...]
    terms: tuple[Term, ...]
    steps: tuple[Step, ...] = ()
    update: Update = Gradient()

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
        self._check_streams()
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"recipe {self.name}: needs terms of distinct names, got {names}")

    def _check_streams(self) -> None:
        """Which streams may stand beside each other, and that parts name no other."""
        first, *others = self.streams
        if first.kind == "rollouts" and not first.own:
            raise InputError(f"recipe {self.name}: the first stream of rollouts is the policy's own, not {first}")
        odd = [s for s in others if first.kind != "rollouts" or s.kind not in ("rollouts", "demos") or s.keep != "all"]
        if odd:
            raise InputError(
                f"recipe {self.name}: {odd[0]} cannot stand beside {first}: rollouts take demos and rollouts beside "
                "them (groups are dropped by the scores of the first stream alone)"
            )
        named = max([*(max(pair) for pair in self.compared), *self.learned, *map(_beside, self.steps)], default=0)
        if named >= len(self.streams):
            raise InputError(f"recipe {self.name}: a part reads stream {named}, there are {len(self.streams)}")

    @property
    def compared(self) -> frozenset[tuple[int, int]]:
        """The streams whose answers are paired with each other, as the parts that read pairs ask for."""
        return frozenset(getattr(part, "streams", (0, 0)) for part in self._parts if "pairs" in part.needs)

    @property
    def learned(self) -> frozenset[int]:
        """The streams whose rows some term reads."""
        named = (getattr(term, "streams", (getattr(term, "stream", 0),)) for term in self.terms)
        return frozenset(number for numbers in named for number in numbers)

    @property
    def _parts(self) -> tuple[Step | Term, ...]:
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
    def scope(self) -> Literal["row", "pair", "group", "batch"]:
        """The smallest set of rows a micro-batch may not cut."""
        scopes = {term.scope for term in self.terms}
        return "batch" if "batch" in scopes else "group" if "group" in scopes else "pair" if "pair" in scopes else "row"

    @property
    def scenario(self) -> str | None:
        """BDA, RA, RDA or PRA by what the targets know of the reward; None where there is no reward."""
        judged = [getattr(step, "access", None) for step in self.steps if "score" in step.needs]
        seen = judged[0] if judged and all(judged) else None  # the reward itself is made of what a judge says
        access = {seen or term.access if "advantage" in term.reads else term.access for term in self.terms}
        return next((SCENARIOS[a] for a in _ORDER if a in access), None)

    @property
    def coefs(self) -> dict[str, float]:
        return {term.name: term.coef for term in self.terms}

    @property
    def memory(self) -> Memory:
        """What the steps that remember know before the first batch; empty for most recipes."""
        return memory.start(self.steps)

    def signal(self, batch: Batch, frozen: TokenStats, start: Signal | None = None) -> Signal:
        """Stage one: rewards, advantages, reference points; no gradient. A step that remembers knows this batch alone.

        Only rows of the first stream have weight there: the others (demonstrations beside rollouts, a greedy answer)
        do not enter a mean, but for the steps that name a stream `beside` it.
        """
        return self.signal_after(batch, frozen, self.memory, start=start)[0]

    def signal_after(
        self,
        batch: Batch,
        frozen: TokenStats,
        before: Mapping[str, Tensor],
        *,
        total: Total = dict,
        start: Signal | None = None,
    ) -> tuple[Signal, Memory]:
        """Stage one with a history: the signal, and the memory to give with the next batch."""
        with torch.no_grad():
            stats = frozen.masked(batch.mask)
            return memory.walk(self.steps, batch, stats, start or Signal(), memory=before, total=total)

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


def _beside(step: Step) -> int:
    return int(getattr(step, "beside", 0))


def _nonzero(weight: Tensor) -> Tensor:
    return torch.where(weight == 0, torch.ones_like(weight), weight)
