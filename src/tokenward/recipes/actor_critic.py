"""Methods with a critic: PPO, and RTO and distillation, which feed it the token rewards of a guide."""

from __future__ import annotations

from tokenward.objective.advantages import GAE, Whiten
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped, ClippedSquare
from tokenward.objective.recipe import Recipe
from tokenward.objective.rewards import Guide, Outcome
from tokenward.objective.targets import Advantage, ReturnStep
from tokenward.objective.terms import Aggregation, LogRatio, Term, TokenTerm, ValueStep
from tokenward.recipes.policy_gradient import ROLLOUTS


def ppo(
    *,
    beta_kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """PPO: clipped ratio on whitened GAE advantages, and a clipped value loss (Schulman et al. 2017, Eq. 7).

    r_t = score·1[t last] − β_kl log π_old/π_ref. Optimum with an exact critic: π_ref·exp(score/β_kl)/Z.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), GAE(gamma=gamma, lam=lam), Whiten())
    terms = _clipped_with_critic(clip, value_clip, value_coef, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("ppo", ("schulman2017ppo", "schulman2016gae", "ouyang2022"), ROLLOUTS, terms, steps=steps)


def rto(
    *,
    beta_guide: float = 0.05,
    beta_kl: float = 0.05,
    guide_clip: float | None = None,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """RTO: PPO on r_t = β_guide log π_guide/π_guide_ref − β_kl log π_old/π_ref + score·1[t last] (Zhong et al. 2024).

    Eq. 4.7. Optimum, if guide_ref = ref: π_ref·(π_guide/π_ref)^(β_guide/β_kl)·exp(score/β_kl)/Z; β_guide > β_kl
    extrapolates the guide, as far as epochs, clip and learning rate let it. β_guide = 0 is off. `guide_clip` (reward
    units) is in the authors' script, not in the paper.
    """
    guide = (Guide(beta_guide, clip=guide_clip),) if beta_guide else ()
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), *guide, GAE(gamma=gamma, lam=lam), Whiten())
    terms = _clipped_with_critic(clip, value_clip, value_coef, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("rto", ("zhong2024rto", "schulman2017ppo"), ROLLOUTS, terms, steps=steps)


def distill(
    *,
    beta_kl: float = 1.0,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """On-policy distillation: RTO without a score and β_guide = β_kl; optimum: the guide, if guide_ref = ref.

    E_π[Σ log π/π_guide], the reverse KL of Agarwal et al. 2023 (§3.1), as token rewards; the reduction is ours.
    """
    steps = (*kl_steps(kl, beta_kl=beta_kl), Guide(beta_kl), GAE(gamma=gamma, lam=lam), Whiten())
    terms = _clipped_with_critic(clip, value_clip, value_coef, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("distill", ("zhong2024rto", "agarwal2023gkd"), ROLLOUTS, terms, steps=steps)


def _clipped_with_critic(
    clip: float, value_clip: float | None, value_coef: float, aggregation: Aggregation
) -> tuple[Term, ...]:
    """PPO's two terms: the clipped policy term, and the value term (token mean)."""
    link = Clipped(low=clip, high=clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    value = TokenTerm("value", score=ValueStep(), link=ClippedSquare(value_clip), target=ReturnStep(), coef=value_coef)
    return policy, value
