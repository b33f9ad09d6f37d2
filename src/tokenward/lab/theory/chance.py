"""A finite decision process whose environment rolls dice: where an answer fixed in advance is not a policy.

Text is deterministic: the next state is the prefix with its token. With a tool or a search engine it is not, and two
facts of the token-level papers fail: the best fixed sequence of actions loses value (Zhong et al. 2024, Proposition
C.2), and the sum of β log π*/π_ref no longer is the return up to a constant (Eq. 4.3). `N`: states · `A`: actions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class ChanceProcess:
    """P(s′|s,a), r(s,a), the first state 0, and the number of steps."""

    move: Float[Tensor, "N A N"]
    reward: Float[Tensor, "N A"]
    steps: int

    def closed_loop(self) -> float:
        """The value of the best policy that sees each state."""
        value = torch.zeros_like(self.reward[:, 0])
        for _ in range(self.steps):
            value = (self.reward + self.move @ value).amax(-1)
        return float(value[0])

    def open_loop(self) -> float:
        """The value of the best sequence of actions that is fixed in advance."""
        return max(self._value_of(plan) for plan in itertools.product(range(self.reward.shape[1]), repeat=self.steps))

    def _value_of(self, plan: tuple[int, ...]) -> float:
        here, total = torch.eye(len(self.reward), dtype=torch.float64)[0], 0.0
        for action in plan:
            total += float(here @ self.reward[:, action])
            here = here @ self.move[:, action]
        return total

    def by_action(self) -> ChanceProcess:
        """The same states and rewards without dice: action a leads to the a-th of the states that could follow."""
        move = torch.zeros_like(self.move)
        for state, action in itertools.product(range(len(self.reward)), range(self.reward.shape[1])):
            could = self.move[state, action].nonzero().flatten()
            move[state, action, could[action % len(could)]] = 1.0
        return ChanceProcess(move, self.reward, self.steps)

    def telescoping_gap(self, *, beta: float) -> float:
        """Largest |Σ β log π*/π_ref − (Σ r − V*(s_0))| over trajectories that can happen; π_ref uniform."""
        values = [torch.zeros_like(self.reward[:, 0])]
        credit: list[Tensor] = []  # β log π*/π_ref = Q* − V* of each step, the last first
        actions = self.reward.shape[1]
        for _ in range(self.steps):
            q = self.reward + self.move @ values[-1]
            values.append(beta * (torch.logsumexp(q / beta, -1) - torch.log(torch.tensor(float(actions)))))
            credit.append(q - values[-1][:, None])
        first = -float(values[-1][0])
        gaps = {(0, first)}  # (state, Σ r − V* − Σ credit) of what can have happened
        for step in reversed(credit):
            gaps = {
                (after, gap + float(self.reward[state, action] - step[state, action]))
                for state, gap in gaps
                for action in range(actions)
                for after in self.move[state, action].nonzero().flatten().tolist()
            }
        return max(abs(gap) for _, gap in gaps)


def two_steps(*, other: float = 1.0) -> ChanceProcess:
    """Proposition C.2, as we read it: a coin falls, and the right action is the one that fits its side.

    Whatever is done first, state 1 or 2 follows with probability ½; in state 1 action 0 earns 1, in state 2 action 1
    earns `other`.

    >>> two_steps().open_loop(), two_steps().closed_loop()
    (0.5, 1.0)
    """
    move = torch.zeros(3, 2, 3, dtype=torch.float64)
    move[0, :, 1:] = 0.5
    move[1:, :, 0] = 1.0
    reward = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, other]], dtype=torch.float64)
    return ChanceProcess(move, reward, 2)
