"""How many standard errors a miss may have by chance where few texts were drawn: quantiles of Student's t."""

from __future__ import annotations

import math
from functools import cache

NORMAL_LIMIT = 4.0  # |z| of a miss with many texts
CHANCE = math.erfc(NORMAL_LIMIT / math.sqrt(2))  # of a larger one: 1 in 16,000


@cache
def limit(freedom: int) -> float:
    """|t| that Student's t with `freedom` ≥ 1 degrees of freedom passes as seldom as a normal variable passes 4.

    >>> [round(limit(number), 1) for number in (3, 7, 15, 63, 1023)]
    [32.6, 8.5, 5.5, 4.3, 4.0]
    """
    low, high = NORMAL_LIMIT, 1 / math.tan(math.pi * CHANCE / 2) * 1.01  # that of one degree, in closed form
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle, freedom) > CHANCE else (low, middle)
    return high


def outside(value: float, freedom: int) -> float:
    """P(|t| > value); a finite sum in the angle θ = atan(value/√ν) (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(value / math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(freedom // 2):
        total += term
        term *= square * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 1 - inside
