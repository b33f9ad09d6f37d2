"""Methods that follow the policy gradient on their own samples.

Shared keywords. `kl`: where the pull to the reference stands: "reward" (k1 there; the fixed point is Boltzmann), or
"loss_k2", "loss_k3", "exact" (a per-token loss; the fixed point on sequences is myopic, or without closed form).
`aggregation`: see objective/weights.py. ϱ_t = π/π_old of token t; r the score of the response.
"""

from __future__ import annotations

from typing import Literal

from tokenward.objective.advantages import GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped, Mirror, ScoreFunction
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.rewards import Outcome
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import Aggregation, LogRatio, RowTerm, TokenTerm

ROLLOUTS = (Stream("rollouts"),)


def reinforce(*, beta_kl: float = 0.05, kl: KLPlace = "reward", aggregation: Aggregation = "token_mean") -> Recipe:
    """REINFORCE: −A_t log π(y_t), A_t = Σ_{i≥t} r_i less the batch mean (Williams 1992)."""
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), ReturnToGo(), Whiten(scale="none"))
    policy = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("reinforce", ("williams1992",), ROLLOUTS, terms, steps=steps)


def rloo(*, beta_kl: float = 0.05, kl: KLPlace = "reward", aggregation: Aggregation = "token_mean") -> Recipe:
    """RLOO: −A log π(y), A_i = R_i − mean of the others' R, R = r − β_kl Σ_t log π_old/π_ref.

    Source: Ahmadian et al. 2024, Eq. 8.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("leave_one_out"))
    policy = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("rloo", ("ahmadian2024rloo",), (Stream("rollouts", group=2),), terms, steps=steps)


def reinforce_pp(
    *, beta_kl: float = 0.01, clip: float = 0.2, kl: KLPlace = "reward", aggregation: Aggregation = "sequence_mean"
) -> Recipe:
    """REINFORCE++: PPO's clip with A_t = r − β_kl Σ_{i≥t} log π_old/π_ref, whitened over the batch; no critic.

    Source: Hu et al. 2025, Eq. 4 (the version with global normalization).
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), ReturnToGo(), Whiten())
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("reinforce_pp", ("hu2025reinforcepp",), ROLLOUTS, terms, steps=steps)


def grpo(
    *, beta_kl: float = 0.04, clip: float = 0.2, kl: KLPlace = "loss_k3", aggregation: Aggregation = "sequence_mean"
) -> Recipe:
    """GRPO: PPO's clip with A = (r − group mean)/group std at every token, and β_kl·k3 to the reference.

    Source: Shao et al. 2024, Eq. 3. Population std; TRL takes the unbiased one.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"), GroupScale())
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("grpo", ("shao2024grpo",), (Stream("rollouts", group=2),), terms, steps=steps)


def mirror_descent(
    *,
    eta: float = 1.0,
    beta_kl: float = 0.05,
    ratio: Literal["sequence", "token"] = "sequence",
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """Mirror descent policy optimization: −A ϱ + (1/η) ϱ log ϱ, no clip (Tomar et al. 2020, Eq. 7, sampled form).

    ratio "sequence": ϱ of the whole response; one exact step gives π_old·exp(ηA). "token": ϱ_t of each token, as in the
    paper; iterated with β_kl, both rest at π_ref·exp(r/β_kl). `aggregation` is that of the per-token parts.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("leave_one_out"))
    score, link = LogRatio("old_logp"), Mirror(eta=eta)
    row = RowTerm("policy", score=score, link=link, target=Advantage())
    token = TokenTerm("policy", score=score, link=link, target=Advantage(), aggregation=aggregation)
    terms = (row if ratio == "sequence" else token, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("mirror_descent", ("tomar2020mdpo",), (Stream("rollouts", group=2),), terms, steps=steps)
