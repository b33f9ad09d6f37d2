"""The best reward that any policy can have at a given KL to the SFT policy, estimated from SFT samples alone.

π_β ∝ π_sft·exp(r/β) maximizes E[r] − β KL(π‖π_sft), so the points (KL, reward) of all β are the frontier: no policy is
above it. Each prompt has its own samples, and one β serves all prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.intervals import estimate
from tokenward.errors import InputError

LEAST_SAMPLES = 50.0  # effective samples of the poorest prompt, below which a point is not drawn


@final
@dataclass(frozen=True)
class Point:
    """The Gibbs policy of one β: reward, KL to the SFT policy (nats), their standard errors over prompts.

    `effective` is the least effective sample size over the prompts, (Σw)²/Σw².
    """

    beta: float
    reward: float
    reward_se: float
    kl: float
    kl_se: float
    effective: float


def gibbs_point(rewards: Float[Tensor, "P N"], *, beta: float) -> Point:
    """Self-normalized importance weights w ∝ exp(r/β) over the N samples of each of P prompts.

    reward = mean_p Σ_i w_pi r_pi; KL = mean_p Σ_i w_pi log(N w_pi), which is E_{π_β}[r]/β − log Ẑ.

    >>> point = gibbs_point(torch.tensor([[0.0, 1.0]]), beta=1.0)
    >>> round(point.reward, 4), round(point.kl, 4)
    (0.7311, 0.1109)
    """
    r = rewards.double()
    log_weight = (r / beta).log_softmax(-1)
    weight = log_weight.exp()
    kl = (weight * log_weight).sum(-1) + torch.tensor(float(r.shape[-1])).double().log()
    value = (weight * r).sum(-1)
    effective = 1 / weight.square().sum(-1)
    mean, distance = estimate(value.tolist()), estimate(kl.tolist())
    return Point(beta, mean.mean, mean.se, distance.mean, distance.se, float(effective.min()))


def ceiling(rewards: Sequence[Sequence[float]], *, points: int = 40, least: float = LEAST_SAMPLES) -> list[Point]:
    """The frontier from KL 0 on (β falling), only as far as every prompt keeps `least` effective samples.

    `rewards` holds the true rewards of each prompt's SFT samples; every prompt needs the same number, `least` at
    least. The estimate is slightly low where weights are uneven: its bias is of the order of 1/effective.
    """
    counts = {len(row) for row in rewards}
    if len(counts) != 1 or min(counts) < least:
        raise InputError(
            f"a ceiling needs the same number of samples, {least:.0f} or more, of every prompt; got {sorted(counts)}"
        )
    table = torch.tensor([list(map(float, row)) for row in rewards], dtype=torch.float64)
    scale = float(table.std(-1).mean()) or 1.0
    found: list[Point] = []
    for share in torch.logspace(1.5, -1.5, points).tolist():  # β in units of the rewards' spread within a prompt
        point = gibbs_point(table, beta=share * scale)
        if point.effective < least:
            break
        found.append(point)
    return found


def reward_at(points: Sequence[Point], kl: float) -> tuple[float, float] | None:
    """(reward, standard error) of the ceiling at a KL, by linear interpolation; None where it is not drawn.

    The frontier is concave, so a chord lies below it: the interpolation is never too generous.
    """
    for low, high in pairwise(points):
        if low.kl <= kl <= high.kl:
            share = (kl - low.kl) / (high.kl - low.kl) if high.kl > low.kl else 0.0
            mix = [(1 - share) * getattr(low, name) + share * getattr(high, name) for name in ("reward", "reward_se")]
            return mix[0], mix[1]
    return None
