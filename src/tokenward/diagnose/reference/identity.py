"""The identities of fresh samples: E_{π_ref}[log π/π_ref] = −KL(π_ref‖π) and E_π[log π/π_ref] = KL(π‖π_ref).

Both sides are estimated from the same texts. Left: the log-ratios of the tokens that were drawn. Right: the same with
the draw of each token averaged out, the exact KL of each state on the way (Rao–Blackwell). Given its prompt, a text's
difference is a sum of martingale steps of mean 0, also where texts are cut at a limit, so the mean difference over its
own standard error is a z-score: large only if the texts are not draws of the law that the models are scored under.
Of N texts the error is itself estimated, so a z-score is held against Student's t with N − 1 degrees of freedom.
Per state: Rafailov et al. 2024 ("From r to Q*"), Eq. 16; the test by z-score is derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final

from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.diagnose.reference.numbers import interval
from tokenward.diagnose.reference.student import NORMAL_LIMIT, limit
from tokenward.diagnose.reference.texts import Scored

FEW = 8  # texts: fewer that all miss by the same amount tell nothing of their error


@final
@dataclass(frozen=True)
class Identity:
    """`ratio` mean Σ log π/π_ref of the texts · `kl` what it must be, −KL(π_ref‖π) or KL(π‖π_ref), from exact state KLs
    · `gap` their paired difference, its error over texts · `z` = gap/s.e.
    """

    of: Literal["reference", "policy"]
    ratio: Estimate
    kl: Estimate
    gap: Estimate

    @property
    def z(self) -> float:
        """0 where every text's two sides are equal; NaN, not known, from a single text or KLs that are no numbers."""
        if self.gap.se == 0 and self.gap.mean == 0:
            return 0.0
        if self.gap.se == 0:
            return math.nan if self.gap.clusters < FEW else math.copysign(math.inf, self.gap.mean)
        return self.gap.mean / self.gap.se

    @property
    def most(self) -> float:
        """The largest |z| of which chance is blamed: 4 of many texts, more of few (8.5 of 8, 10,000 of 2)."""
        return limit(max(self.gap.clusters - 1, 1))

    @property
    def holds(self) -> bool | None:
        """None where it is not known."""
        return None if math.isnan(self.z) else abs(self.z) <= self.most

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        found = {name: interval(getattr(self, name)) for name in ("ratio", "kl", "gap")}
        z = self.z if math.isfinite(self.z) else None
        return {"of": self.of, **found, "z": z, "holds": self.holds, "most": self.most}

    def line(self) -> str:
        """Both sides in one line."""
        left, right = {
            "reference": ("E_ref[log π/π_ref]", "−KL(π_ref‖π)"),
            "policy": ("E_π[log π/π_ref]", "KL(π‖π_ref)"),
        }[self.of]
        chance = f"(z = {self.z:+.2f}, by chance at most {self.most:.1f})"
        verdict = {
            True: f"they agree (z = {self.z:+.2f})",
            False: f"they DIFFER {chance}",
            None: "whether they agree is not known",
        }[self.holds]
        if self.holds and abs(self.z) > NORMAL_LIMIT:
            verdict = f"{self.gap.clusters} texts are too few to tell whether they agree {chance}"
        return f"{left} = {self.ratio}, {right} = {self.kl} nats: {verdict}"


def identity(of: Scored, *, law: Literal["reference", "policy"]) -> Identity:
    """Both sides from fresh texts of one of the two models, in nats a text."""
    kl = -of.laws.back.sum(-1) if law == "reference" else of.laws.kl.sum(-1)
    gap = estimate((of.ratio - kl).tolist())  # independent given the prompts: no clusters
    return Identity(law, of.mean(of.ratio), of.mean(kl), gap)
