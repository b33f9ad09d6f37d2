"""Methods that regress an implicit reward β·lr(y), lr(y) = Σ_t log π/π_ref, on a numeric reward."""

from __future__ import annotations

from typing import Literal

from tokenward.objective.advantages import SequenceReturn
from tokenward.objective.links import Square, SquashedSquare
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.rewards import KLPenalty, Outcome
from tokenward.objective.targets import AdvantageGap, GivenNormalizer, LearnedValue, Score, ScoreGap
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm

SCORES = (Stream("scores"),)


def ra(*, beta: float = 0.1, normalizer: Literal["learned", "given"] = "learned") -> Recipe:
    """Reward approximation: (β lr + V(x) − r)², V learned (a critic's value of the prompt) or the given β log Z(x).

    Scenario RA in the organization of Su et al. 2025, statement ours. With learned V it is DRO (Richemond et al. 2024,
    Eq. 5, whose value head has its own gradient scale).
    """
    offset = LearnedValue() if normalizer == "learned" else GivenNormalizer()
    term = RowTerm("ra", score=LogRatio("ref_logp", beta=beta), link=Square(), target=Score(), offset=offset)
    return Recipe("ra", ("su2025udrra", "richemond2024dro"), SCORES, (term,))


def una(*, beta: float = 0.03) -> Recipe:
    """UNA, score form: (σ(β lr) − s)², s in [0, 1] (Wang et al. 2024). No normalizer, hence not Boltzmann."""
    term = RowTerm("una", score=LogRatio("ref_logp", beta=beta), link=SquashedSquare(), target=Score())
    return Recipe("una", ("wang2024una",), SCORES, (term,))


def rda(*, beta: float = 0.1) -> Recipe:
    """Reward-difference approximation: (β Δ − (r_w − r_l))² on pairs with scores; the normalizer cancels.

    Scenario RDA in the organization of Su et al. 2025; statement ours.
    """
    term = PairTerm("rda", score=LogRatio("ref_logp", beta=beta), link=Square(), target=ScoreGap())
    return Recipe("rda", ("su2025udrra",), (Stream("pairs"),), (term,))


def rebel(*, eta: float = 1.0, beta_kl: float = 0.05) -> Recipe:
    """REBEL: ((1/η)(log π/π_old(y) − log π/π_old(y′)) − (R − R′))², R = r − β_kl log π_old/π_ref.

    Source: Gao et al. 2024, Eq. 5. One exact step gives π_old·exp(ηR); iterated, π_ref·exp(r/β_kl).
    """
    steps = (Outcome(), *((KLPenalty(beta_kl),) if beta_kl else ()), SequenceReturn())
    term = PairTerm("rebel", score=LogRatio("old_logp", beta=1 / eta), link=Square(), target=AdvantageGap())
    return Recipe("rebel", ("gao2024rebel",), (Stream("rollouts", group=2),), (term,), steps=steps)
