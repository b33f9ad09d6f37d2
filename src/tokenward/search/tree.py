"""An enumerated tree of the lab as a search problem: the same searches, where everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.worlds.tree import Tree
from tokenward.search.problem import Moves

Place = tuple[int, int]  # (prompt, state), or (prompt, −1 − leaf)


@final
@dataclass(frozen=True)
class TreeProblem:
    """The prompts 0 … X−1 of a tree under a policy; one token read for each state and law.

    `logp`, `ref_logp` log π(a|s), log π_ref(a|s) · `reward` of each leaf · `value` of each state; the last three may be
    absent. Moves are all tokens.
    """

    tree: Tree
    logp: Float[Tensor, "X S V"]
    ref_logp: Float[Tensor, "X S V"] | None = None
    reward: Float[Tensor, "X L"] | None = None
    value: Float[Tensor, "X S"] | None = None

    def root(self, prompt: int) -> Place:
        return (prompt, 0)

    def expand(self, states: Sequence[Place]) -> Moves:
        prompts, rows = torch.tensor(states).unbind(-1)
        tokens = torch.arange(self.tree.vocab).expand(len(states), self.tree.vocab)
        ref = None if self.ref_logp is None else self.ref_logp[prompts, rows]
        value = None if self.value is None else self.value[prompts, rows]
        models = 1 + (ref is not None) + (value is not None)
        return Moves(tokens, self.logp[prompts, rows], ref, value, forwarded=models * len(states))

    def child(self, state: Place, token: int) -> Place:
        prompt, row = state
        leaf = int(self.tree.leaf[row, token])
        return (prompt, -1 - leaf) if leaf >= 0 else (prompt, int(self.tree.child[row, token]))

    def terminal(self, state: Place) -> bool:
        return state[1] < 0

    def score(self, states: Sequence[Place]) -> list[float]:
        if self.reward is None:
            raise InputError("this search has no reward; give one number for each leaf")
        return [float(self.reward[prompt, -1 - row]) for prompt, row in states]


def leaf_of(state: Place) -> int:
    """The leaf that a finished text is."""
    return -1 - state[1]
