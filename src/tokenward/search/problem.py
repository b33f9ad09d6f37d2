"""What a search asks of the thing it searches: a language model and an enumerated tree both answer.

A state is a prompt and what has been written since; it is opaque to a search and never changes. Everything is asked of
many states at once. The cost of a search is counted in tokens that models read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError

PromptT = TypeVar("PromptT", contravariant=True)
State = TypeVar("State")
T = TypeVar("T")
By = Literal["likelihood", "implicit"]
NEVER = -float("inf")  # log-probability of what is never written


@final
@dataclass(frozen=True)
class Moves:
    """The tokens that may follow each of N states: logp −∞ fills rows that have fewer than K.

    `ref_logp` the reference's (absent without one) · `value` a critic's V of each state (absent without one) ·
    `forwarded` tokens that models read to answer, padding left out. Log-probabilities in nats.
    """

    tokens: Int[Tensor, "N K"]
    logp: Float[Tensor, "N K"]
    ref_logp: Float[Tensor, "N K"] | None = None
    value: Float[Tensor, " N"] | None = None
    forwarded: int = 0


@runtime_checkable
class Problem(Protocol[PromptT, State]):
    """A tree of token sequences, one root per prompt."""

    def root(self, prompt: PromptT) -> State: ...

    def expand(self, states: Sequence[State]) -> Moves:
        """Moves of states that are not terminal."""
        ...

    def child(self, state: State, token: int) -> State:
        """The state after one of the moves of the last `expand` of this state."""
        ...

    def terminal(self, state: State) -> bool: ...

    def score(self, states: Sequence[State]) -> list[float]:
        """Rewards of terminal states; InputError where the problem has no reward."""
        ...


@final
@dataclass(frozen=True)
class Path(Generic[State]):
    """A state and how it was reached: Σ log π, Σ log π_ref (absent without a reference), and its tokens."""

    state: State
    logp: float = 0.0
    ref_logp: float | None = None
    tokens: tuple[int, ...] = ()

    def step(self, state: State, *, token: int, logp: float, ref_logp: float | None) -> Path[State]:
        """The path one token further."""
        ref = None if ref_logp is None else (self.ref_logp or 0.0) + ref_logp
        return replace(self, state=state, logp=self.logp + logp, ref_logp=ref, tokens=(*self.tokens, token))

    def total(self, *, by: By, beta: float = 1.0) -> float:
        """Σ_t log π ("likelihood"), or β Σ_t log π/π_ref ("implicit": the implicit reward, in reward units)."""
        if by == "likelihood" or not self.tokens:
            return self.logp
        ref = with_reference(self.ref_logp)
        if ref == NEVER:
            raise InputError("the reference never writes a text that was drawn: its implicit reward has no value")
        return beta * (self.logp - ref)


@final
@dataclass(frozen=True)
class Found(Generic[State]):
    """The answer for one prompt: the best path, its score, and all that were compared with theirs, best first."""

    path: Path[State]
    score: float
    compared: tuple[tuple[Path[State], float], ...]


@final
@dataclass(frozen=True)
class Answer(Generic[State]):
    """The answers for all prompts, and the tokens that models read for them."""

    found: tuple[Found[State], ...]
    forwarded: int


def ranked(paths: Sequence[Path[Any]], scores: Sequence[float]) -> Found[Any]:
    """The best of the paths; of equal ones the earlier."""
    order = sorted(range(len(paths)), key=lambda i: -scores[i])
    compared = tuple((paths[i], float(scores[i])) for i in order)
    return Found(compared[0][0], compared[0][1], compared)


def scale(beta: float) -> float:
    """β of an implicit reward or of weights exp(r/β), or one line: 0 compares nothing, below it the worst is best."""
    if not (math.isfinite(beta) and beta > 0):
        raise InputError(f"beta must be a finite number above 0, got {beta}")
    return beta


def with_reference(ref_logp: T | None) -> T:
    """The reference's log-probabilities, or one line where there are none."""
    if ref_logp is None:
        raise InputError("search by implicit reward compares with a reference; give --ref")
    return ref_logp


def offered(moves: Moves, *, by: str) -> Moves:
    """The moves that a search may take: by "implicit", those of them that the reference writes too.

    With π_ref = 0 the ratio has no value: such a move stays out, as it does of a combination of models.
    """
    if by != "implicit":
        return moves
    logp = moves.logp.masked_fill(with_reference(moves.ref_logp) == NEVER, NEVER)
    if bool((logp == NEVER).all(-1).any()):
        raise InputError(
            "the reference writes none of the moves on offer in some state: they have no implicit reward; raise "
            "--branch, or give another --ref"
        )
    return replace(moves, logp=logp)


def own_seed(seed: int, *place: str | int) -> int:
    """The seed of one stream of random numbers among those that a seed stands for: 32 bits, which torch reads."""
    return int.from_bytes(hashlib.sha256(repr((seed, *place)).encode()).digest()[:4], "big")


def double(x: Tensor) -> Tensor:
    """In float64 on the CPU: sums along a path do not round."""
    return x.detach().to("cpu", torch.float64)
