"""Laws of several models made one, so that every search works on it: proxy tuning, decoding-time realignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.search.problem import NEVER, Moves, Problem, double, with_reference


@final
@dataclass(frozen=True)
class Both:
    """A state of the base and the same text as a state of the guide."""

    base: Any
    guide: Any


@final
class Combined:
    """π(a|s) ∝ π_base(a|s)·(π_proxy(a|s)/π_ref(a|s))^β, normalized at every token.

    `guide` is a problem of the proxy with its reference. β 0 is the base, β 1 with base = reference the proxy; a base
    that is the proxy's own reference gives the path from it to the proxy, and beyond. The reference of the combination
    is the base: its implicit reward is what the guide adds. A text ends where the base says so; its score is the
    base's. `branch` offers the likeliest tokens of the combination alone.

    Sources: Rafailov et al. 2024, Eq. 14; proxy tuning: Liu et al. 2024; emulated fine-tuning: Mitchell et al. 2024;
    decoding-time realignment, base = reference: Liu et al. 2024. Normalized token by token it is not the sequence law
    π_base·(π_proxy/π_ref)^β/Z unless β is 0, or base = reference and β is 1.
    """

    def __init__(
        self, base: Problem[Any, Any], guide: Problem[Any, Any], *, beta: float, branch: int | None = None
    ) -> None:
        if branch is not None and branch < 1:
            raise InputError(f"branch must be 1 or more, got {branch}")
        if not math.isfinite(beta):
            raise InputError(f"--proxy-beta must be finite, got {beta}")
        self.base, self.guide, self.beta, self.branch = base, guide, beta, branch

    def root(self, prompt: Any) -> Both:
        return Both(self.base.root(prompt), self.guide.root(prompt))

    def expand(self, states: Sequence[Both]) -> Moves:
        """Moves of both problems, combined; both must offer the same tokens in the same order."""
        base = self.base.expand([state.base for state in states])
        guide = self.guide.expand([state.guide for state in states])
        if base.tokens.shape != guide.tokens.shape or not torch.equal(base.tokens.cpu(), guide.tokens.cpu()):
            raise InputError(
                f"the base offers {base.tokens.shape[-1]} tokens and the guide {guide.tokens.shape[-1]}: they must "
                "share a vocabulary and offer all of it"
            )
        own = double(base.logp)
        law = combined_law(own, double(guide.logp), double(with_reference(guide.ref_logp)), beta=self.beta)
        tokens = base.tokens.cpu()
        if self.branch is not None and self.branch < law.shape[-1]:
            law, index = law.topk(self.branch, dim=-1)
            own, tokens = own.gather(-1, index), tokens.gather(-1, index)
        return Moves(tokens, law, own, base.value, base.forwarded + guide.forwarded)

    def child(self, state: Both, token: int) -> Both:
        return Both(self.base.child(state.base, token), self.guide.child(state.guide, token))

    def terminal(self, state: Both) -> bool:
        return self.base.terminal(state.base)

    def score(self, states: Sequence[Both]) -> list[float]:
        return self.base.score([state.base for state in states])


def combined_law(
    base: Float[Tensor, "N V"], proxy: Float[Tensor, "N V"], ref: Float[Tensor, "N V"], *, beta: float
) -> Float[Tensor, "N V"]:
    """log softmax(log π_base + β (log π_proxy − log π_ref)); β 0 is the base.

    A token that base, proxy or reference never writes stays out: with π_ref = 0 the ratio has no value. (Its limit for
    β > 0 would give such a token all the mass, on the word of the one model that the reference does not know.)
    """
    if beta == 0:
        return base.log_softmax(-1)
    never = (base == NEVER) | (proxy == NEVER) | (ref == NEVER)
    if bool(never.all(-1).any()):
        raise InputError("base, proxy and proxy-ref share no token in some state: their combination is no law")
    tilt = torch.where(never, torch.zeros_like(base), proxy - ref)
    return (base + beta * tilt).masked_fill(never, NEVER).log_softmax(-1)
