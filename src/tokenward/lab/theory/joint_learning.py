"""Demonstrations and preferences learned together: one reward that explains both, and the policy that is best for it.

Alignment with integrated human feedback (AIHF, arXiv 2406.06874) in tabular form; its equations are reconstructed by us
from the abstract, reviews and derivation:

    max_R  w₁·E_{y~D} log π_R(y) + w₂·E_{(w≻l)~P} log σ(R_w − R_l),   π_R = π_ref·exp(R/β)/Z

Up to constants this is −w₁ KL(D‖π_R) − w₂ KL(P‖σ(ΔR)), concave in R. Its slope is (w₁/β)(D − π_R) + w₂ (BT's), the
contrast of inverse reinforcement learning and a reward model's. w₁ = 0: a reward model, then RLHF. As R = β log π/π_ref
reaches every policy, the same optimum is that of w₁ NLL + w₂ DPO. Derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.optima import exact
from tokenward.lab.worlds.world import Prompt, World, compared


@final
@dataclass(frozen=True)
class Joint:
    """The weights of both kinds of data in one world; β is its τ. `pull`: −½·pull·‖R‖² keeps unseen answers finite.

    Pairs are compared under π_ref where the world's pairs follow the sampler's policy.
    """

    world: World
    demos: float = 1.0
    preferences: float = 1.0
    pull: float = 0.0

    def __post_init__(self) -> None:
        if min(self.demos, self.preferences, self.pull) < 0 or self.demos + self.preferences == 0:
            raise InputError(
                f"joint learning with weights {self.demos:g} (demonstrations), {self.preferences:g} (preferences) and "
                f"pull {self.pull:g}: give numbers ≥ 0, one of the weights positive"
            )

    @cached_property
    def compared(self) -> Float[Tensor, "X L L"]:
        """ν_ij p_ij + ν_ji (1 − p_ji): how often i and j are compared and i wins."""
        return torch.stack([_wins(prompt, target) for prompt, target in zip(self.world.prompts, self.world.target)])

    @property
    def step(self) -> float:
        """The inverse of a bound on the curvature at every reward: along the slope this step cannot overshoot."""
        degree = float((self.compared + self.compared.mT).sum(-1).amax())
        return 1 / (self.demos / (2 * self.world.tau**2) + self.preferences * degree / 2 + self.pull)

    def policy(self, reward: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
        """π_R."""
        return exact.boltzmann(self.world.ref, reward, tau=self.world.tau)

    def misfit(self, reward: Float[Tensor, "X L"]) -> tuple[Float[Tensor, " X"], Float[Tensor, " X"]]:
        """KL(D‖π_R) of the demonstrations, and of the labels E KL(p‖σ(ΔR)), prompt by prompt, in nats."""
        demos, law, won = self.world.demos, self.policy(reward), self.compared
        of_demos = (torch.xlogy(demos, demos) - torch.xlogy(demos, law)).sum(-1)
        share = won / (won + won.mT).clamp(min=1e-300)
        margin = reward[..., :, None] - reward[..., None, :]
        of_labels = won * (share.clamp(min=1e-300).log() - torch.nn.functional.logsigmoid(margin))
        return of_demos, of_labels.sum((-1, -2))

    def objective(self, reward: Float[Tensor, "X L"]) -> Float[Tensor, " X"]:
        """The value to maximize, prompt by prompt, up to the entropies of the data."""
        of_demos, of_labels = self.misfit(reward)
        return -self.demos * of_demos - self.preferences * of_labels - self.pull * reward.square().sum(-1) / 2

    def slope(
        self, reward: Float[Tensor, "X L"], *, policy: Float[Tensor, "X L"] | None = None
    ) -> Float[Tensor, "X L"]:
        """∂/∂R, with π_R or with a policy that has not yet caught up with R."""
        law = self.policy(reward) if policy is None else policy
        lost = torch.sigmoid(reward[..., None, :] - reward[..., :, None])  # σ(−(R_i − R_j))
        force = self.compared * lost
        contrast = (self.world.demos - law) / self.world.tau
        return self.demos * contrast + self.preferences * (force.sum(-1) - force.sum(-2)) - self.pull * reward

    def curvature(self, reward: Float[Tensor, "X L"]) -> Float[Tensor, "X L L"]:
        """−∂²/∂R²: (w₁/β²)(diag π − ππᵀ) + w₂·(Laplacian of the pairs, each times σσ′) + pull."""
        law = self.policy(reward)
        lost = torch.sigmoid(reward[..., None, :] - reward[..., :, None])
        edge = (self.compared + self.compared.mT) * lost * (1 - lost)
        laplacian = torch.diag_embed(edge.sum(-1)) - edge
        spread = torch.diag_embed(law) - law[..., :, None] * law[..., None, :]
        kept = self.pull * torch.eye(law.shape[-1], dtype=law.dtype)
        return self.demos * spread / self.world.tau**2 + self.preferences * laplacian + kept


@final
@dataclass(frozen=True)
class Learned:
    """The reward, centered, its policy, and the largest slope that is left."""

    reward: Float[Tensor, "X L"]
    law: Float[Tensor, "X L"]
    residual: float


def joint_optimum(joint: Joint) -> Learned:
    """The maximum, by Newton steps that are halved while the value falls."""
    reward = torch.zeros_like(joint.world.ref)
    for _ in range(200):
        slope = joint.slope(reward)
        if float(slope.abs().max()) < 1e-14:
            break
        step = (torch.linalg.pinv(joint.curvature(reward), rtol=1e-12, hermitian=True) @ slope[..., None])[..., 0]
        value, size = joint.objective(reward), torch.ones(len(reward), 1, dtype=reward.dtype)
        rise = (slope * step).sum(-1)
        while float(size.min()) > 1e-4:
            ahead = reward + size * step
            low = joint.objective(ahead) < value + 1e-4 * size[:, 0] * rise - 1e-14
            if not bool(low.any()):
                break
            size = torch.where(low[:, None], size / 2, size)
        reward = reward + size * step
        reward = reward - reward.mean(-1, keepdim=True)
    return _learned(joint, reward, joint.policy(reward))


@final
@dataclass(frozen=True)
class Loop:
    """The single loop: total variation to a given policy after each round, and where it ended."""

    distance: tuple[float, ...]
    learned: Learned


def single_loop(joint: Joint, *, rounds: int, towards: Float[Tensor, "X L"]) -> Loop:
    """One soft policy improvement, then one step of the reward along its slope, in turn, from R = 0 and π_ref.

    π ← π_ref(a|s)·exp(Q^π(s,a)/β)/Z with the regularized Q of the policy before: with H tokens the policy is H rounds
    behind the reward. The reward's steps are of size `joint.step`.
    """
    world, tree, size = joint.world, joint.world.tree, joint.step
    ref = tree.conditional(world.ref)
    reward, logp, distance = torch.zeros_like(world.ref), ref, []
    for _ in range(rounds):
        q, _ = exact.values(tree, logp, tree.outcome(reward) - world.tau * (logp - ref))
        q = q + world.tau * (logp - ref)  # the token's own KL is paid in the policy's normalization
        logp = torch.log_softmax(ref + q / world.tau, dim=-1)
        law = tree.leaf_sum(logp).exp()
        reward = reward + size * joint.slope(reward, policy=law)
        distance.append(exact.total_variation(law, towards))
    return Loop(tuple(distance), _learned(joint, reward, tree.leaf_sum(logp).exp()))


def _learned(joint: Joint, reward: Float[Tensor, "X L"], law: Float[Tensor, "X L"]) -> Learned:
    residual = float(joint.slope(reward, policy=law).abs().max())
    return Learned(reward - reward.mean(-1, keepdim=True), law, residual)


def _wins(prompt: Prompt, target: Float[Tensor, " L"]) -> Float[Tensor, "L L"]:
    law = prompt.ref if prompt.on_policy() else prompt.sampler_law(prompt.ref, target=target)
    listed = compared(prompt, law)
    first, second = listed.pairs.unbind(-1)
    p = prompt.labels.prefer(prompt.reward, listed.pairs)
    won = torch.zeros(len(law), len(law), dtype=torch.float64)
    won.index_put_((first, second), listed.weight * p, accumulate=True)
    won.index_put_((second, first), listed.weight * (1 - p), accumulate=True)
    return won.fill_diagonal_(0)
