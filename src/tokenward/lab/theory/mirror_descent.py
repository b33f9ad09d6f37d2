"""Mirror descent on policies: its step at each state, its off-policy loss, and soft actor-critic as a case of it.

    π_{k+1} = argmin_π E_{s∼ρ, a∼π}[log π(a|s) − log π_k(a|s) − t Q(s,a)]  ⇒  π_{k+1} ∝ π_k·exp(tQ)

for every ρ that is positive at every state: a buffer changes which states are learned first, not where. Tomar et al.
2020, §4; soft actor-critic's policy step is the same with the uniform policy in the place of π_k and t = 1/α. Iterates
on a fixed Q add up to π_0·exp(Σt Q): they turn greedy, unless Q carries a pull to a reference, which makes each step a
contraction toward π_ref·exp(Q/β)/Z in log π, by 1 − tβ. The last two are derived here.

Laws and values are tables `[X S V]` (lab/worlds/tree.py) in nats and reward units; t in 1/reward units.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.worlds.tree import Tree

Table = Float[Tensor, "X S V"]


def boltzmann_step(anchor: Table, q: Table, *, t: float) -> Table:
    """log π_{k+1}(a|s) = log π_k + tQ − log Z(s), the anchor π_k given by its logarithm."""
    return torch.log_softmax(anchor + t * q, dim=-1)


def off_policy_loss(logp: Table, anchor: Table, q: Table, *, t: float, visits: Float[Tensor, "X S"]) -> Tensor:
    """Σ_s ρ(s) Σ_a π (log π − log π_k − tQ), with gradient through both the sampling and log π.

    Its minimum over π is −Σ_s ρ(s) log Σ_a π_k·exp(tQ).
    """
    return (visits * (logp.exp() * (logp - anchor - t * q)).sum(-1)).sum()


def soft_actor_critic_loss(logp: Table, q: Table, *, alpha: float, visits: Float[Tensor, "X S"]) -> Tensor:
    """Σ_s ρ(s) Σ_a π (α log π − Q): the policy step of soft actor-critic."""
    return (visits * (logp.exp() * (alpha * logp - q)).sum(-1)).sum()


def uniform(like: Table) -> Table:
    """log 1/V at every state: the anchor that makes mirror descent soft actor-critic."""
    return torch.log_softmax(torch.zeros_like(like), dim=-1)


def iterates(
    tree: Tree, start: Table, reward: Table, *, t: float, steps: int, ref: Table | None = None, beta: float = 0.0
) -> list[Table]:
    """log π_0, log π_1, …: each step with the Q of π_k, of token rewards r − β log(π_k/π_ref) of this and later tokens.

    With a pull β > 0 and tβ ≤ 1 they approach π_ref·exp(r/β)/Z in token form; without, the best answers.
    """
    found = [start]
    for _ in range(steps):
        now = found[-1]
        shaped = reward if ref is None else reward - beta * (now - ref)
        q, _ = exact.values(tree, now, shaped)
        found.append(boltzmann_step(now, q, t=t))
    return found
