"""Reward against KL of a method over its settings, as a frontier with a bootstrap band.

Who has two policies has every mixture of them: choose one by a coin for each text. The mixture's reward lies on the
chord between theirs, and its KL is not above it, as KL is convex. So what a method reaches with KL ≤ k is at least

    F(k) = the largest reward at KL ≤ k on a chord of its points: their concave hull, made to never fall,

and the start model, at KL 0, is one of the points. F is as high as noise lets it be: the maximum over noisy points is
above the maximum of their means. Compare methods that have as many points and samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.intervals import copies_drawn, tails
from tokenward.errors import InputError

DRAWS, LEVEL, GRID = 1000, 0.95, 41
BLOCK = 1 << 20  # draws × places of the grid × chords in one table (8 MiB)


@final
@dataclass(frozen=True)
class Measured:
    """One policy of a method (one place of its grid): reward and KL by seed and prompt, the same prompts everywhere."""

    reward: Float[Tensor, "S P"]
    kl: Float[Tensor, "S P"]


@final
@dataclass(frozen=True)
class Band:
    """F(k) over a grid of KL (nats), and the ends of its percentile interval at each k."""

    kl: tuple[float, ...]
    reward: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def hull(kl: Float[Tensor, "D N"], reward: Float[Tensor, "D N"], at: Float[Tensor, " G"]) -> Float[Tensor, "D G"]:
    """F at each KL of `at`, for D sets of N points; −∞ below the smallest KL.

    >>> kl, reward = torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[0.0, 2.0, 3.0]])
    >>> hull(kl, reward, torch.tensor([0.5, 2.0, 9.0]))
    tensor([[1.0000, 2.3333, 3.0000]])
    """
    rows = max(1, BLOCK // (len(at) * kl.shape[1] ** 2))
    return torch.cat([_hull(*both, at) for both in zip(kl.split(rows), reward.split(rows), strict=True)])


def _hull(kl: Float[Tensor, "D N"], reward: Float[Tensor, "D N"], at: Float[Tensor, " G"]) -> Float[Tensor, "D G"]:
    k = at[:, None, None]
    left, right = kl[:, None, :, None], kl[:, None, None, :]  # every chord from a point to one further right
    low, high = reward[:, None, :, None], reward[:, None, None, :]
    share = (k - left) / (right - left).clamp(min=1e-300)
    inside = (left <= k) & (k < right)
    chord = torch.where(inside, low + share * (high - low), -torch.inf).flatten(-2).amax(-1)
    behind = torch.where(kl[:, None, :] <= at[:, None], reward[:, None, :], -torch.inf).amax(-1)
    return torch.maximum(chord, behind)


def band(points: Sequence[Measured], *, seed: int = 0, most: float | None = None) -> Band:
    """F of these points up to a KL of `most` (absent: the largest of theirs); the interval draws prompts and seeds.

    Prompts are drawn once for all points, each point's seeds for itself; few seeds make the band too narrow. Near the
    smallest KL, where some draws have no point at KL ≤ k, the interval at k is that of the draws that have one.
    """
    if not points or len({point.reward.shape[1] for point in points}) != 1:
        raise InputError("a frontier needs one policy or more, all measured on the same prompts")
    top = max(float(point.kl.mean()) for point in points) if most is None else most
    at = torch.linspace(0, max(top, 0.0), GRID, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    prompts = _weights(points[0].reward.shape[1], random)
    seeds = [_weights(point.reward.shape[0], random) for point in points]
    whole = hull(*_means(points, [w[:1] for w in seeds], prompts[:1]), at)[0]
    drawn = hull(*_means(points, [w[1:] for w in seeds], prompts[1:]), at)
    drawn = torch.where(drawn > -torch.inf, drawn, torch.nan)
    low, high = torch.tensor([tails(column, level=LEVEL) for column in drawn.T], dtype=torch.float64).T
    known = (whole > -torch.inf) & ~low.isnan()
    return Band(*(tuple(x[known].tolist()) for x in (at, whole, low, high)))


def _weights(count: int, random: torch.Generator) -> Float[Tensor, "D C"]:
    """Equal weights first, then those of DRAWS draws with replacement."""
    return copies_drawn(count, draws=DRAWS, random=random) / count


def _means(
    points: Sequence[Measured], seeds: Sequence[Float[Tensor, "D _"]], prompts: Float[Tensor, "D P"]
) -> tuple[Float[Tensor, "D N"], Float[Tensor, "D N"]]:
    """(KL, reward) of each point under each draw."""
    columns = [
        [torch.einsum("ds,sp,dp->d", w, table.double(), prompts) for table in (point.kl, point.reward)]
        for w, point in zip(seeds, points, strict=True)
    ]
    kl, reward = zip(*columns, strict=True)
    return torch.stack(kl, -1), torch.stack(reward, -1)
