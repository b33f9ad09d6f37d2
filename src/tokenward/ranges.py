"""What the number of a setting may be, by its name: read by flags, files, and recipes built in Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Range:
    """Bounds of a finite number; None means there is none on that side.

    >>> Range(least=0, most=1).wrong("lam", 1.5)
    ['lam must be ≥ 0 and ≤ 1, got 1.5']
    """

    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    below: int | float | None = None

    def wrong(self, name: str, value: object) -> list[str]:
        """One line when a number is outside, none otherwise."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return []
        finite = isinstance(value, int) or math.isfinite(value)
        good = (
            finite
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        sides = (("≥", self.least), (">", self.above), ("≤", self.most), ("<", self.below))
        bounds = [] if finite else ["finite"]
        bounds += [f"{sign} {bound}" for sign, bound in sides if bound is not None]
        return [] if good else [f"{name} must be {' and '.join(bounds)}, got {value}"]


_FINITE, _POSITIVE, _NOT_NEGATIVE, _SHARE = Range(), Range(above=0), Range(least=0), Range(least=0, most=1)

# A keyword means the same in every recipe, with one exception: γ is the discount of GAE, which bounds it by 1 itself,
# and the margin of SimPO. Finite alone: names whose sign is a choice, and what the part that reads it bounds.
KEYWORDS: dict[str, Range] = {
    **dict.fromkeys(("beta", "eta", "robust_eta", "kl_target", "kl_horizon", "max_kl"), _POSITIVE),
    **dict.fromkeys(("value_clip", "reward_clip", "advantage_clip", "guide_clip", "cap", "budget"), _POSITIVE),
    **dict.fromkeys(("beta_kl", "beta_guide", "beta_score", "clip", "clip_low", "clip_high", "gamma"), _NOT_NEGATIVE),
    **dict.fromkeys(("value_coef", "ptx_coef", "nll_coef", "overlong_coef", "rho", "damping"), _NOT_NEGATIVE),
    **dict.fromkeys(("label_temperature", "desirable", "undesirable", "critic_updates"), _NOT_NEGATIVE),
    **dict.fromkeys(("margin", "delta", "alpha", "overlong_max", "overlong_buffer"), _FINITE),
    **dict.fromkeys(("lam", "mixture", "smoothing"), _SHARE),
    **dict.fromkeys(("cg_steps", "backtracks"), Range(least=1)),
    "dual_clip": Range(above=1),
    "shrink": Range(above=0, below=1),
}


def wrong(name: str, value: object) -> list[str]:
    """One line when a recipe's keyword has a number that it cannot have.

    >>> wrong("beta_kl", -1.0), wrong("clip", None)
    (['beta_kl must be ≥ 0, got -1.0'], [])
    """
    return KEYWORDS[name].wrong(name, value) if name in KEYWORDS else []
