"""PPO on the token rewards of a guide: RTO with its placements, its robust form, and distillation.

    r_t = β_guide log π_guide/π_guide_ref − β_kl log π_old/π_ref + β_score·score·1[t last]   (Zhong et al. 2024, 4.7)

Only the ratios of the three matter once advantages are whitened; each is off at 0. `guide_clip` (reward units, per
token) is in the authors' script, not in the paper: it ends the telescoping of the sum and moves the optimum.

`placement`: on which tokens the guide's reward stands. "token": where it arises, the published method · "sentence": the
sum of each sentence on its last token (Semi-RTO) · "end": all on the last token (DDPO) · "residual": per token, and the
sum, of clipped rewards where there is a clip, taken back on the last token (RS-PPO).
"""

from __future__ import annotations

from typing import Literal

from tokenward.errors import InputError, nearest
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped
from tokenward.objective.recipe import Recipe
from tokenward.objective.robust import Ambiguity, Atoms, ChiSquareBall, ChiSquareBound, KLBall, Nominal, RobustTerm
from tokenward.objective.signal.advantages import GAE, Whiten
from tokenward.objective.signal.placement import PlacementName, placement_of
from tokenward.objective.signal.rewards import Guide, KLPenalty, Outcome, SignalStep
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import Aggregation, LogRatio
from tokenward.recipes.policy_gradient import ROLLOUTS
from tokenward.recipes.ppo import clipped_with_critic

Divergence = Literal["kl", "chi2", "chi2_bound"]


def rto(
    *,
    beta_guide: float = 0.05,
    beta_kl: float = 0.05,
    beta_score: float = 1.0,
    placement: PlacementName = "token",
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

    Eq. 4.7. Optimum, if guide_ref = ref: π_ref·(π_guide/π_ref)^(β_guide/β_kl)·exp(β_score·score/β_kl)/Z; β_guide > β_kl
    extrapolates the guide, as far as epochs, clip and learning rate let it. Placement "residual": PPO's optimum; the
    others leave it. The module's text has the keywords.
    """
    guide = _guide(beta_guide, placement, guide_clip)
    steps = (*_score(beta_score), *kl_steps(kl, beta_kl=beta_kl), *guide, GAE(gamma=gamma, lam=lam), Whiten())
    terms = clipped_with_critic(clip, value_clip, value_coef, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("rto", ("zhong2024rto", "schulman2017ppo"), ROLLOUTS, terms, steps=steps)


def drto(
    *,
    rho: float = 0.1,
    atoms: Atoms = "trajectory",
    divergence: Divergence = "kl",
    robust_eta: float | None = None,
    nominal: Nominal = "tokens",
    beta_guide: float = 0.05,
    beta_kl: float = 0.05,
    beta_score: float = 1.0,
    placement: PlacementName = "token",
    guide_clip: float | None = None,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
) -> Recipe:
    """DRTO: RTO whose policy loss is the worst mean over weights of the update's atoms with D(q‖p) ≤ ρ.

    Built from the abstracts of Jin et al. 2026 and standard duality; ρ and the definition of a span are ours.

    atoms: "trajectory" (a response, their version 1) · "span" (a sentence, their version 2). divergence: "kl" · "chi2"
    (½Σp(q/p−1)², exact, q ≥ 0) · "chi2_bound" (mean + √(2ρ Var), an upper bound). `robust_eta` fixes η of "kl" instead
    of solving for ρ. nominal p: "tokens" (ρ = 0 is rto) · "uniform".
    """
    ball = _ball(divergence, rho, robust_eta)
    guide = _guide(beta_guide, placement, guide_clip)
    pull = (KLPenalty(beta_kl),) if beta_kl else ()
    steps = (*_score(beta_score), *pull, *guide, GAE(gamma=gamma, lam=lam), Whiten())
    _, value = clipped_with_critic(clip, value_clip, value_coef, "token_mean")
    score, link = LogRatio("old_logp"), Clipped(low=clip, high=clip)
    policy = RobustTerm("policy", score, link, Advantage(), ambiguity=ball, atoms=atoms, nominal=nominal)
    return Recipe("drto", ("jin2026drto", "zhong2024rto"), ROLLOUTS, (policy, value), steps=steps)


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
    terms = clipped_with_critic(clip, value_clip, value_coef, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("distill", ("zhong2024rto", "agarwal2023gkd"), ROLLOUTS, terms, steps=steps)


def _score(beta_score: float) -> tuple[SignalStep, ...]:
    return (Outcome(beta_score),) if beta_score else ()


def _guide(beta_guide: float, placement: PlacementName, guide_clip: float | None) -> tuple[SignalStep, ...]:
    """The guide's reward; none at β_guide = 0."""
    where = placement_of(placement)
    return (Guide(beta_guide, clip=guide_clip, placement=where),) if beta_guide else ()


def _ball(divergence: Divergence, rho: float, robust_eta: float | None) -> Ambiguity:
    if divergence == "kl":
        return KLBall(rho, eta=robust_eta)
    if robust_eta is not None:
        raise InputError(f"robust_eta is the tilt of divergence 'kl', got {divergence!r}: leave robust_eta out")
    sets: dict[str, Ambiguity] = {"chi2": ChiSquareBall(rho), "chi2_bound": ChiSquareBound(rho)}
    if divergence not in sets:
        near = nearest(divergence, ("kl", *sets))
        raise InputError(f"divergence must be 'kl' or 'chi2' or 'chi2_bound', got {divergence!r}.{near}")
    return sets[divergence]
