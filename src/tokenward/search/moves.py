"""Moves that are whole sentences or turns: a problem around another, so that every search can take larger steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final
from weakref import WeakKeyDictionary

import torch

from tokenward.errors import InputError
from tokenward.search.best_of_n import sample
from tokenward.search.problem import Moves, Path, Problem, own_seed


@final
@dataclass(frozen=True, eq=False)
class Spanned:
    """Some spans of a text: the state of the inner problem and its sums, token by token.

    `before`: V of the inner state before the last token, as it was read when the last span was drawn; None without one.
    """

    path: Path[Any]
    before: float | None = None


@final
class Spans:
    """A problem whose moves are spans of another's: each ends after one of the tokens `ends`, or after `most` tokens.

    A state offers up to `count` different spans, drawn from the policy as far as the inner problem offers its tokens
    (duplicates are one, so there may be fewer). A move's log π and log π_ref are the span's sums. Tokens of Moves are
    numbers of spans; the text itself, token by token, is a state's `path`. What a state offered is remembered while it
    lives; asked again, it draws again. `seed` decides what is drawn. The value of a state is the inner problem's.
    """

    def __init__(
        self, problem: Problem[Any, Any], *, ends: frozenset[int], count: int = 4, most: int = 32, seed: int = 0
    ) -> None:
        if count < 1 or most < 1:
            raise InputError(f"count and most must be 1 or more, got {count} and {most}")
        self.problem, self.ends, self.count, self.most, self.seed = problem, ends, count, most, seed
        self._asked = 0
        self._offered: WeakKeyDictionary[Spanned, list[Path[Any]]] = WeakKeyDictionary()

    def root(self, prompt: Any) -> Spanned:
        return Spanned(Path(self.problem.root(prompt)))

    def terminal(self, state: Spanned) -> bool:
        return self.problem.terminal(state.path.state)

    def score(self, states: Sequence[Spanned]) -> list[float]:
        return self.problem.score([state.path.state for state in states])

    def expand(self, states: Sequence[Spanned]) -> Moves:
        """The spans that may follow; all states are written on together."""
        within = _OneSpan(self.problem, self.ends, self.most)
        roots = [state.path.state for state in states]
        self._asked += 1
        copies = [root for root in roots for _ in range(self.count)]
        paths, forwarded = sample(within, copies, n=self.count, seed=own_seed(self.seed, "spans", self._asked))
        found = [paths[i : i + self.count] for i in range(0, len(paths), self.count)]
        offered = [list({path.tokens: path for path in spans}.values()) for spans in found]
        for state, spans in zip(states, offered, strict=True):
            self._offered[state] = spans
        return self._moves(offered, [within.values.get(id(root)) for root in roots], forwarded)

    def child(self, state: Spanned, token: int) -> Spanned:
        span, before = self._offered[state][token], state.path
        ref = None if span.ref_logp is None else (before.ref_logp or 0.0) + span.ref_logp
        longer = Path(span.state.inner, before.logp + span.logp, ref, (*before.tokens, *span.tokens))
        return Spanned(longer, span.state.before)

    def _moves(self, offered: list[list[Path[Any]]], values: list[float | None], forwarded: int) -> Moves:
        shape = (len(offered), max(map(len, offered)))
        logp = torch.full(shape, -torch.inf, dtype=torch.float64)
        ref = torch.zeros(shape, dtype=torch.float64)
        for row, spans in enumerate(offered):
            logp[row, : len(spans)] = torch.tensor([span.logp for span in spans], dtype=torch.float64)
            known = [span.ref_logp for span in spans if span.ref_logp is not None]
            ref[row, : len(known)] = torch.tensor(known, dtype=torch.float64)
        given = [value for value in values if value is not None]
        value = torch.tensor(given, dtype=torch.float64) if len(given) == len(values) else None
        compared = offered[0][0].ref_logp is not None
        return Moves(torch.arange(shape[1]).expand(shape), logp, ref if compared else None, value, forwarded)


def onward(problem: Problem[Any, Any]) -> _OneSpan:
    """The problem from given states on, to the ends of their texts: what a rollout walks."""
    return _OneSpan(problem, frozenset(), sys.maxsize)


@final
@dataclass(frozen=True, eq=False)
class _Within:
    """A state of the inner problem, and how many tokens of the span lead to it; `ended`: the span is whole.

    `before`: V of the inner state one token earlier.
    """

    inner: Any
    written: int = 0
    ended: bool = False
    before: float | None = None


@final
@dataclass
class _OneSpan:
    """One span from given states on: its prompts are states of the inner problem; `values` of what was read, by id."""

    problem: Problem[Any, Any]
    ends: frozenset[int]
    most: int
    values: dict[int, float] = field(default_factory=dict)

    def root(self, prompt: Any) -> _Within:
        return _Within(prompt)

    def terminal(self, state: _Within) -> bool:
        return state.ended

    def expand(self, states: Sequence[_Within]) -> Moves:
        moves = self.problem.expand([state.inner for state in states])
        if moves.value is not None:
            read = zip(states, moves.value.tolist(), strict=True)
            self.values |= {id(state.inner): value for state, value in read}
        return moves

    def child(self, state: _Within, token: int) -> _Within:
        after, written = self.problem.child(state.inner, token), state.written + 1
        ended = token in self.ends or written >= self.most or self.problem.terminal(after)
        return _Within(after, written, ended, self.values.get(id(state.inner)))

    def score(self, states: Sequence[_Within]) -> list[float]:
        raise InputError("a span has no reward of its own")
