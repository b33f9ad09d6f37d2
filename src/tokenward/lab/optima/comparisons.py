"""What pairs say: who is compared with whom, the probabilities that a loss asks for, and the scores that give them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima.graph import components, consistent
from tokenward.lab.solving.streams import sampling_law
from tokenward.lab.worlds.world import Prompt, World, all_compared, compared
from tokenward.objective.games import Judged
from tokenward.objective.links import BernoulliKL, Link, Logistic, SquashedSquare
from tokenward.objective.targets import Majority, PairTarget, Probability, ScorePreference, Won

_EXACT = 1e-12  # balance of forces that counts as 0


@final
@dataclass(frozen=True)
class Comparisons:
    """One prompt's comparisons; `law` is that of single responses, at π_ref where it follows the policy."""

    prompt: Prompt
    law: Float[Tensor, " L"]

    @cached_property
    def linked(self) -> bool:
        return all_compared(self.prompt, self.law)

    @property
    def follows_policy(self) -> bool:
        """Whether the weights of the pairs change with the policy."""
        return self.prompt.pairs == "sampler" and self.prompt.on_policy()

    @cached_property
    def weight(self) -> Float[Tensor, "L L"]:
        """w_ij = ν_ij + ν_ji, 0 on the diagonal."""
        listed, number = compared(self.prompt, self.law), len(self.law)
        weight = torch.zeros(number, number, dtype=torch.float64)
        weight.index_put_(tuple(listed.pairs.T), listed.weight, accumulate=True)
        return (weight + weight.T).fill_diagonal_(0)

    @cached_property
    def wins(self) -> Float[Tensor, "L L"]:
        """P(i wins) of each pair of leaves; ½ on the diagonal."""
        number = torch.arange(len(self.law))
        p = self.prompt.labels.prefer(self.prompt.reward, torch.cartesian_prod(number, number))
        return p.reshape(len(number), len(number)).clone().fill_diagonal_(0.5)

    def groups(self) -> list[list[int]]:
        """The leaves of each connected component of two or more."""
        label = components((self.weight > 0).nonzero(), nodes=len(self.law))
        found = ((label == first).nonzero().flatten().tolist() for first in torch.unique(label).tolist())
        return [leaves for leaves in found if len(leaves) > 1]


def comparisons(world: World) -> list[Comparisons]:
    """The comparisons of each prompt."""
    laws = sampling_law("pairs", world, world.ref)
    return [Comparisons(prompt, law) for prompt, law in zip(world.prompts, laws, strict=True)]


def asked(target: PairTarget, one: Comparisons) -> Float[Tensor, "L L"] | None:
    """The probability that the target asks for on each pair; None for a target that is no preference."""
    if isinstance(target, Won):
        return (1 - 2 * target.smoothing) * one.wins + target.smoothing
    if isinstance(target, Probability):
        return one.wins
    if isinstance(target, Majority):
        return (torch.sign(one.wins - 0.5) + 1) / 2
    if isinstance(target, Judged):
        if one.prompt.labels.matrix is None:
            return asked(ScorePreference(target.temperature), one)
        return one.wins if target.temperature else (torch.sign(one.wins - 0.5) + 1) / 2
    if isinstance(target, ScorePreference):
        gap = one.prompt.reward[:, None] - one.prompt.reward
        p = torch.sigmoid(gap / target.temperature) if target.temperature else (torch.sign(gap) + 1) / 2
        return (1 - 2 * target.smoothing) * p + target.smoothing
    return None


def temperature(target: PairTarget, one: Comparisons) -> float | None:
    """T where the target asks for σ((r_i − r_j)/T) on every pair; None elsewhere."""
    labels = one.prompt.labels
    if isinstance(target, Judged):
        return None if labels.matrix is not None else target.temperature or None
    if isinstance(target, ScorePreference):
        return target.temperature if target.temperature and not target.smoothing else None
    if not isinstance(target, (Won, Probability)) or (isinstance(target, Won) and target.smoothing):
        return None
    plain = labels.matrix is None and labels.kind == "bradley-terry" and labels.noise == 0
    return labels.temperature if plain else None


def is_proper(link: Link) -> bool:
    """Whether the link is minimal exactly where σ(z) is the target."""
    return isinstance(link, (BernoulliKL, SquashedSquare)) or (isinstance(link, Logistic) and link.margin == 0)


def label_scores(link: Link, target: PairTarget, data: list[Comparisons]) -> Float[Tensor, "X L"] | None:
    """Scores u with σ(u_i − u_j) = what the target asks for, on every compared pair; None: no such.

    Or, for the cross-entropy, the reward where its forces balance: Σ_j w_ij (p_ij − σ(r_i − r_j)) = 0 for every i.
    """
    if not is_proper(link):
        return None
    found: list[Tensor] = []
    for one in data:
        scale, p = temperature(target, one), asked(target, one)
        if scale is not None:
            found.append(one.prompt.reward / scale)
            continue
        if p is None:
            return None
        score = consistent(one.weight, torch.logit(p), within=1e-6)
        if score is None and not isinstance(link, SquashedSquare) and not one.follows_policy:
            reward = one.prompt.reward
            force = one.weight * (p - torch.sigmoid(reward[:, None] - reward))
            score = reward if float(force.sum(-1).abs().max()) <= _EXACT else None
        if score is None:
            return None
        found.append(score)
    return torch.stack(found)


def is_product(one: Comparisons) -> bool:
    """Whether the joint law of winner and loser is a product off the diagonal: q_ij = a_i b_j for i ≠ j, n ≥ 3.

    Then log q_ij = α_i + β_j; row and column sums without the diagonal fix α and β up to one constant.
    """
    joint, number = one.weight * one.wins, len(one.law)
    off = ~torch.eye(number, dtype=torch.bool)
    if number < 3 or not bool((joint[off] > 0).all()):
        return False
    log = torch.where(off, torch.where(off, joint, 1.0).log(), 0.0)
    rows, columns = log.sum(1), log.sum(0)
    total = rows.sum() / (number - 1)
    second = ((number - 1) * (columns - total) + rows) / ((number - 1) ** 2 - 1)
    first = (rows + second) / (number - 1)
    return float(torch.where(off, log - first[:, None] - second, 0.0).abs().max()) <= 1e-6
