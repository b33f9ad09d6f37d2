"""Closed forms on the tree: soft values, the Boltzmann policy in both its forms, and the other optima that are known.

Conventions. Q(s,a) = r(s,a) + V(s·a), V of a leaf 0, and V(s) = τ log Σ_a π_ref(a|s) e^{Q(s,a)/τ}; the papers on
token-level DPO and RTO put τ log π_ref into Q, we do not. A = Q − V = τ log π^τ/π_ref. Laws are `[X L]`, tables
`[X S V]` (lab/worlds/tree.py). Units: rewards in reward units, log-probabilities in nats.

Sources. Soft values and their sum over tokens: Rafailov et al. 2024, Eq. 5–7 and 10. RTO's optimum: from Zhong et al.
2024, Eq. 4.7, derived here. IPO: Azar et al. 2023, for pairs of one law; general pairs derived here. Everything else is
derived here and checked by enumeration in tests/lab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import RunError
from tokenward.lab.worlds.tree import Tree


@final
@dataclass(frozen=True)
class SoftValues:
    """Optimal KL-regularized values of every state and token; `logp` is π^τ in token form, log π^τ(a|s)."""

    q: Float[Tensor, "X S V"]
    v: Float[Tensor, "X S"]
    advantage: Float[Tensor, "X S V"]
    logp: Float[Tensor, "X S V"]


def boltzmann(ref: Float[Tensor, "X L"], reward: Float[Tensor, "X L"], *, tau: float) -> Float[Tensor, "X L"]:
    """π^τ in sequence form: π_ref·exp(R/τ)/Z."""
    return torch.softmax(ref.log() + reward / tau, dim=-1)


def soft_values(
    tree: Tree, ref_logp: Float[Tensor, "X S V"], reward: Float[Tensor, "X S V"], *, tau: float
) -> SoftValues:
    """π^τ in token form, by backward induction over token rewards."""
    q = torch.zeros_like(reward)
    v = torch.zeros_like(reward[..., 0])
    for level in reversed(tree.levels):
        q[:, level] = reward[:, level] + tree.ahead(v)[:, level]
        v[:, level] = tau * torch.logsumexp(ref_logp[:, level] + q[:, level] / tau, dim=-1)
    advantage = q - v[..., None]
    return SoftValues(q, v, advantage, ref_logp + advantage / tau)


def values(
    tree: Tree, logp: Float[Tensor, "X S V"], reward: Float[Tensor, "X S V"]
) -> tuple[Float[Tensor, "X S V"], Float[Tensor, "X S"]]:
    """Q^π(s,a) = r(s,a) + V^π(s·a) and V^π(s) = E_π Q^π of a fixed policy, without regularization."""
    q = torch.zeros_like(reward)
    v = torch.zeros_like(reward[..., 0])
    for level in reversed(tree.levels):
        q[:, level] = reward[:, level] + tree.ahead(v)[:, level]
        v[:, level] = (logp[:, level].exp() * q[:, level]).sum(-1)
    return q, v


def regularized_value(
    law: Float[Tensor, "X L"], *, ref: Float[Tensor, "X L"], reward: Float[Tensor, "X L"], tau: float
) -> Float[Tensor, " X"]:
    """J_τ(π) = E_π r − τ KL(π‖π_ref) of each prompt; its maximum is τ log Z, at π^τ."""
    return (law * reward - tau * (torch.xlogy(law, law) - torch.xlogy(law, ref))).sum(-1)


def bradley_terry(reward: Float[Tensor, "X L"], *, temperature: float = 1.0) -> Float[Tensor, "X L L"]:
    """P(i ≻ j) = σ((r_i − r_j)/T)."""
    return torch.sigmoid((reward[..., :, None] - reward[..., None, :]) / temperature)


def myopic(
    tree: Tree, ref_logp: Float[Tensor, "X S V"], reward: Float[Tensor, "X S V"], *, beta: float
) -> Float[Tensor, "X L"]:
    """The fixed point of a per-token KL loss: π(a|s) ∝ π_ref(a|s)·exp(Q^π(s,a)/β), Q^π without KL; backward.

    Such a loss drops what a token does to later KL. With one token per sequence it is π^β. Derived here.
    """
    v = torch.zeros_like(reward[..., 0])
    logp = torch.zeros_like(reward)
    for level in reversed(tree.levels):
        q = reward[:, level] + tree.ahead(v)[:, level]
        logp[:, level] = torch.log_softmax(ref_logp[:, level] + q / beta, dim=-1)
        v[:, level] = (logp[:, level].exp() * q).sum(-1)
    return tree.leaf_sum(logp).exp()


def myopic_per_token(
    tree: Tree,
    ref_logp: Float[Tensor, "X S V"],
    reward: Float[Tensor, "X S V"],
    *,
    beta: float,
    weight: Float[Tensor, " X"],
) -> Float[Tensor, "X L"]:
    """The same where the KL is a mean over tokens and the rest a mean over rows: temperature β/E|y|, E|y| its own.

    The root of b·E|y| = β, |y| under the myopic policy at b, by bisection; E|y| lies between the shortest and longest.
    """
    length = tree.length.to(reward.dtype)
    low, high = beta / float(length.max()), beta / float(length.min())
    for _ in range(100):
        middle = (low + high) / 2
        mean = float(weight @ (myopic(tree, ref_logp, reward, beta=middle) @ length))
        low, high = (middle, high) if middle * mean < beta else (low, middle)
    return myopic(tree, ref_logp, reward, beta=(low + high) / 2)


def per_state(
    tree: Tree, old_logp: Float[Tensor, "X S V"], reward: Float[Tensor, "X S V"], *, eta: float
) -> Float[Tensor, "X L"]:
    """One step of mirror descent at each state: π(a|s) ∝ π_old(a|s)·exp(η Q(s,a)), Q of π_old, without any KL.

    The minimum of E_{s∼π_old}[−E_π Q + (1/η) KL(π‖π_old)]. On sequences it is not π_old·exp(ηR)/Z, whose exponent is
    the soft value of what is to come, not its mean. Derived here.
    """
    q, _ = values(tree, old_logp, reward)
    return tree.leaf_sum(torch.log_softmax(old_logp + eta * q, dim=-1)).exp()


def tilted(ref: Float[Tensor, "X L"], score: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """π_ref·exp(score)/Z: what pair methods reach when they fix the log-ratio up to a constant."""
    return torch.softmax(ref.log() + score, dim=-1)


def extrapolated(
    ref: Float[Tensor, "X L"], total: Float[Tensor, "X L"], *, reward: Float[Tensor, "X L"], beta: float
) -> Float[Tensor, "X L"]:
    """RTO's optimum π_ref·exp((G + r)/β)/Z, G = Σ_t β_guide log π_guide/π_ref(y_t), each summand clipped if it is.

    Without a clip π_ref·(π_guide/π_ref)^{β_guide/β}·exp(r/β)/Z; the guide itself if β_guide = β and r = 0.
    """
    return torch.softmax(ref.log() + (total + reward) / beta, dim=-1)


def greedy(ref: Float[Tensor, "X L"], reward: Float[Tensor, "X L"]) -> Float[Tensor, "X L"]:
    """π^δ: π_ref restricted to the leaves of the largest reward; the limit of π^τ as τ → 0."""
    best = reward == reward.max(-1, keepdim=True).values
    law = torch.where(best, ref, torch.zeros_like(ref))
    return law / law.sum(-1, keepdim=True)


def length_power(
    length: Int[Tensor, " L"],
    score: Float[Tensor, "X L"],
    *,
    beta: float,
    ref: Float[Tensor, "X L"] | None = None,
    rounds: int = 200,
) -> Float[Tensor, "X L"]:
    """The optimum of losses on averaged log-ratios: π = π_ref·exp(|y|(u + c)/β), c by Σπ = 1; no `ref`: without π_ref.

    The sum grows in c, so bisection finds it. From β lr/|y| differing between two answers as their scores u do: SimPO
    at γ = 0 (no reference), IPO averaged. Derived here.
    """
    size = length.to(score.dtype)
    base = torch.zeros_like(score) if ref is None else ref.log()
    # The exponent of every leaf is ≤ 0 at the first bound less its own; at the second the best leaf alone is ≥ 1.
    least = (-score - beta * base / size).min(-1).values
    low = least - beta * torch.log(torch.tensor(float(len(length)), dtype=score.dtype)) / size.min()
    high = least
    for _ in range(rounds):
        middle = (low + high) / 2
        over = torch.logsumexp(base + size * (score + middle[:, None]) / beta, dim=-1) > 0
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    log = base + size * (score + ((low + high) / 2)[:, None]) / beta
    if float(torch.logsumexp(log, dim=-1).abs().max()) > 1e-9 * (1 + float((size * score).abs().max()) / beta):
        raise RunError("length_power: the normalizing constant was not found; the scores are too far apart")
    return torch.softmax(log, dim=-1)


def total_variation(law: Float[Tensor, "X L"], other: Float[Tensor, "X L"]) -> float:
    """½ Σ|π − π′|, of the prompt where it is largest."""
    return float(0.5 * (law - other).abs().sum(-1).max())
