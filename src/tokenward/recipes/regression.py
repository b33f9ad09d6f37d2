"""Methods that regress an implicit reward β·lr(y), lr(y) = Σ_t log π/π_ref, on a numeric reward."""

from __future__ import annotations

from tokenward.objective.links import Square, SquashedSquare
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import SequenceReturn
from tokenward.objective.signal.rewards import KLPenalty, Outcome
from tokenward.objective.targets import AdvantageGap, Score
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm

SCORES = (Stream("scores"),)


def una(*, beta: float = 0.03) -> Recipe:
    """UNA, score form: (σ(β lr) − s)², s in [0, 1] (Wang et al. 2024). No normalizer, hence not Boltzmann."""
    term = RowTerm("una", score=LogRatio("ref_logp", beta=beta), link=SquashedSquare(), target=Score())
    return Recipe("una", ("wang2024una",), SCORES, (term,))


def rebel(*, eta: float = 1.0, beta_kl: float = 0.05) -> Recipe:
    """REBEL: ((1/η)(log π/π_old(y) − log π/π_old(y′)) − (R − R′))², R = r − β_kl log π_old/π_ref.

    Source: Gao et al. 2024, Eq. 5. One exact step gives π_old·exp(ηR); iterated, π_ref·exp(r/β_kl).
    """
    steps = (Outcome(), *((KLPenalty(beta_kl),) if beta_kl else ()), SequenceReturn())
    term = PairTerm("rebel", score=LogRatio("old_logp", beta=1 / eta), link=Square(), target=AdvantageGap())
    return Recipe("rebel", ("gao2024rebel",), (Stream("rollouts", group=2),), (term,), steps=steps)
