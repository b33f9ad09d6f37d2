"""Reward over √KL: the curves of Gao et al. 2023 fitted to a run's held-out reward, and what length explains of a gain.

With d = √KL(π‖π_start) and R the gain over the start model (Gao et al. 2023, Section 3):

    reinforcement learning   R(d) = d·(α − β·log d)     largest at d = exp(α/β − 1)
    best of n                R(d) = d·(α − β·d)         largest at d = α/(2β)

Both are linear in α and β. Where the maximum lies is derived here from R' = 0. The first has an infinite slope at 0, so
points very near the start say little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.measures.intervals import copies_drawn, tails
from tokenward.errors import InputError
from tokenward.objective.health.history import History, early_and_late

Form = Literal["rl", "best-of-n"]
FORMS: dict[Form, str] = {"rl": "d·(α − β·log d)", "best-of-n": "d·(α − β·d)"}
LEAST = 4  # points behind the start: two are a perfect fit of anything
REACH = 2.0  # times the largest √KL: a maximum further out is extrapolated, not found
DRAWS, LEVEL = 1000, 0.95


@final
@dataclass(frozen=True)
class Fit:
    """α and β of a curve, the root mean square of what it leaves, and the √KL of its maximum.

    `peak` None: none that the points can tell of. Either β ≤ 0 in more than 2.5 % of the bootstrap draws, or the
    maximum is not at a √KL between the smallest measured behind the start and REACH times the largest, or its interval
    is not above 0 and finite.
    """

    form: Form
    alpha: Interval
    beta: Interval
    left: float
    peak: Interval | None
    points: int

    def at(self, distance: float) -> float:
        """R at √KL = `distance`."""
        return distance * (self.alpha.value - self.beta.value * _slowed(distance, self.form))

    def __str__(self) -> str:
        top = f", largest at √KL = {self.peak}" if self.peak is not None else ", no maximum that the points support"
        return f"{FORMS[self.form]} with α = {self.alpha}, β = {self.beta}{top}; leaves {self.left:.3g}"


def fit(distance: Sequence[float], gain: Sequence[float], *, form: Form = "rl", seed: int = 0) -> Fit | None:
    """α and β by least squares; intervals draw the points again, with replacement. None from fewer than LEAST points.

    The points of one run are not independent, so its intervals are too narrow; several runs may be given together.

    >>> d = [0.5, 1.0, 1.5, 2.0, 3.0]
    >>> found = fit(d, [x * (2.0 - 0.5 * x) for x in d], form="best-of-n")
    >>> round(found.alpha.value, 6), round(found.beta.value, 6), round(found.peak.value, 6)
    (2.0, 0.5, 2.0)
    """
    if len(distance) != len(gain):
        raise InputError(f"a fit needs a gain at each distance; got {len(gain)} and {len(distance)}")
    pairs = [(d, g) for d, g in zip(distance, gain, strict=True) if 0 < d < math.inf and math.isfinite(g)]
    if len({d for d, _ in pairs}) < LEAST:
        return None
    x = torch.tensor([[d, -d * _slowed(d, form)] for d, _ in pairs], dtype=torch.float64)
    y = torch.tensor([g for _, g in pairs], dtype=torch.float64)
    whole = _solve(torch.ones(1, len(y), dtype=torch.float64), x, y)[0]
    random = torch.Generator().manual_seed(seed)
    weight = copies_drawn(len(y), draws=DRAWS, random=random)[1:]
    drawn = _solve(weight[(weight > 0).sum(-1) > 2], x, y)
    alpha, beta = (_interval(float(whole[i]), drawn[:, i]) for i in (0, 1))
    left = float((x @ whole - y).square().mean().sqrt())
    measured = [d for d, _ in pairs]
    peak = _peak(whole, drawn, form, within=(min(measured), REACH * max(measured)))
    return Fit(form, alpha, beta, left, peak, len(y))


def _solve(weight: Float[Tensor, "D N"], x: Float[Tensor, "N 2"], y: Float[Tensor, " N"]) -> Float[Tensor, "D 2"]:
    """Weighted least squares of each row of weights."""
    gram = torch.einsum("dn,ni,nj->dij", weight, x, x)
    return torch.einsum("dij,dj->di", torch.linalg.pinv(gram), torch.einsum("dn,ni,n->di", weight, x, y))


def _slowed(distance: float, form: Form) -> float:
    return math.log(distance) if form == "rl" else distance


def _peak(
    whole: Float[Tensor, " 2"], drawn: Float[Tensor, "D 2"], form: Form, *, within: tuple[float, float]
) -> Interval | None:
    turning = drawn[:, 1] > 0
    if whole[1] <= 0 or float(turning.double().mean()) < 0.975:
        return None

    def top(both: Float[Tensor, "D 2"]) -> Float[Tensor, " D"]:
        share = both[:, 0] / both[:, 1]
        return (share - 1).exp() if form == "rl" else share / 2

    found = _interval(float(top(whole[None])), top(drawn[turning]))
    inside = within[0] <= found.value <= within[1] and found.low > 0 and math.isfinite(found.high)
    return found if inside else None


def _interval(value: float, drawn: Float[Tensor, " D"]) -> Interval:
    return Interval(value, *tails(drawn, level=LEVEL))


@final
@dataclass(frozen=True)
class LengthGain:
    """What the score of training batches gained from the first to the last, and how much of it length explains.

    `by_length` = slope·(change of length), the slope of score on length within batches (their mean), reward units a
    token; `adjusted` is the rest. A slope within batches is an association: it need not be what a token is worth.
    """

    gain: float
    slope: float
    longer: float

    @property
    def by_length(self) -> float:
        return self.slope * self.longer

    @property
    def adjusted(self) -> float:
        return self.gain - self.by_length


def length_gain(told: History) -> LengthGain | None:
    """From the means of the first and last batches; None in a run too short for them."""
    score, length = early_and_late(told, "score"), early_and_late(told, "completions/length")
    slopes = told.values("score/length_slope")
    if score is None or length is None or not slopes:
        return None
    return LengthGain(score[1] - score[0], fmean(slopes), length[1] - length[0])
