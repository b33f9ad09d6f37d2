"""Methods that follow the policy gradient on their own samples.

Shared keywords. `kl`: where the pull to the reference stands: "reward" (k1 there; the fixed point is Boltzmann), or
"loss_k2", "loss_k3", "exact" (a per-token loss; the fixed point on sequences is myopic, or without closed form).
`aggregation`: see objective/weights.py. ϱ_t = π/π_old of token t; r the score of the response.
"""

from __future__ import annotations

from typing import Literal

from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped, ScoreFunction
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import (
    GroupBaseline,
    GroupScale,
    LastToken,
    ReturnToGo,
    SequenceReturn,
    Whiten,
)
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import Aggregation, LogRatio, TokenTerm

ROLLOUTS = (Stream("rollouts"),)
GROUPS = (Stream("rollouts", group=2),)


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
    *,
    beta_kl: float = 0.01,
    clip: float = 0.2,
    credit: Literal["return_to_go", "last_token"] = "return_to_go",
    kl: KLPlace = "reward",
    aggregation: Aggregation = "sequence_mean",
) -> Recipe:
    """REINFORCE++: PPO's clip on advantages whitened over the batch; no critic (Hu et al. 2025, global normalization).

    credit "return_to_go": A_t = r − β_kl Σ_{i≥t} log π_old/π_ref (Eq. 4; OpenRLHF, verl). "last_token": the whole sum
    at the last token and A_t = 0 before it (appendix B.2, as we read it). verl's recursion starts anew at every token
    that the model did not write: there, only the last turn of several is credited.
    """
    shape = ReturnToGo() if credit == "return_to_go" else LastToken()
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), shape, Whiten())
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("reinforce_pp", ("hu2025reinforcepp",), ROLLOUTS, terms, steps=steps)


def reinforce_pp_baseline(
    *,
    beta_kl: float = 1e-5,
    clip: float = 0.2,
    kl: KLPlace = "loss_k2",
    aggregation: Aggregation = "sequence_mean",
) -> Recipe:
    """REINFORCE++ with baseline: A = (r − group mean), whitened over the batch, and λ = β_kl times ½ lr² of each token.

    The mean of the whole batch after that of each group removes nothing but what lengths bring in: it is one over
    tokens. Source: Hu et al. 2025; λ is not in the paper.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"), Whiten())
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("reinforce_pp_baseline", ("hu2025reinforcepp",), GROUPS, terms, steps=steps)


def grpo(
    *,
    beta_kl: float = 0.04,
    clip: float = 0.2,
    std: Literal["population", "unbiased"] = "population",
    kl: KLPlace = "loss_k3",
    aggregation: Aggregation = "sequence_mean",
) -> Recipe:
    """GRPO: PPO's clip with A = (r − group mean)/group std at every token, and β_kl·k3 to the reference.

    Source: Shao et al. 2024, Eq. 3. TRL, verl and OpenRLHF take the unbiased std; TRL has no KL and a token mean
    (loss_type "dapo") by default.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"), GroupScale(std=std))
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("grpo", ("shao2024grpo",), GROUPS, terms, steps=steps)
