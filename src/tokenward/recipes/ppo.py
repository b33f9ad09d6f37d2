"""PPO, and PPO-max, its form for language models; the parts that TRPO+ and RTO share with them.

Shared keywords, besides those of policy_gradient.py:

    reward_scale   "std": the reward ÷ the std of all rewards so far; "mean_std": (reward − their mean) ÷ it
    reward_clip    the scaled reward is cut to ± this
    kl_target      β_kl is only where the coefficient starts: it is moved until the KL of a response is this (nats)

The KL is taken off after scaling and clipping. So with a scale, β_kl is in units of the reward's std σ: the optimum is
π_ref·exp(r/(σ β_kl))/Z, σ the std under that optimum itself.

`clip` None leaves the ratio alone. `dual_clip` bounds the loss of tokens with A < 0. Advantages are whitened over the
whole batch, before it is cut into mini-batches: each mini-batch has its own mean then, and a row counts the same
whichever rows it is drawn with. Madry's PPO code and the code of Secrets of RLHF whiten each mini-batch.
"""

from __future__ import annotations

from typing import Literal

from tokenward.errors import InputError
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped, ClippedSquare, NegativeLogLikelihood, Ratio
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import GAE, Whiten
from tokenward.objective.signal.memory import Step
from tokenward.objective.signal.remembered import AdaptiveKL, AdvantageClip, ClipReward, RunningScale
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage, ReturnStep
from tokenward.objective.terms import Aggregation, LogRatio, Term, TokenTerm, ValueStep
from tokenward.recipes.policy_gradient import ROLLOUTS

RewardScale = Literal["none", "std", "mean_std"]
_SCALES: dict[str, tuple[Step, ...]] = {
    "none": (),
    "std": (RunningScale(center="none"),),
    "mean_std": (RunningScale(center="mean"),),
}


def ppo(
    *,
    beta_kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float | None = 0.2,
    dual_clip: float | None = None,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    reward_scale: RewardScale = "none",
    reward_clip: float | None = None,
    kl_target: float | None = None,
    kl_horizon: float = 10_000.0,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """PPO: clipped ratio on whitened GAE advantages, and a clipped value loss (Schulman et al. 2017, Eq. 7).

    r_t = score·1[t last] − β_kl log π_old/π_ref. Optimum with an exact critic: π_ref·exp(score/β_kl)/Z.
    """
    pull = pull_steps(kl, beta_kl, kl_target, kl_horizon)
    steps = (Outcome(), *reward_steps(reward_scale, reward_clip), *pull, GAE(gamma=gamma, lam=lam), Whiten())
    terms = clipped_with_critic(clip, value_clip, value_coef, aggregation, dual_clip=dual_clip)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    sources = ("schulman2017ppo", "schulman2016gae", "ouyang2022", "engstrom2020")
    return Recipe("ppo", sources, ROLLOUTS, terms, steps=steps)


def ppo_max(
    *,
    beta_kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.9,
    clip: float | None = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 0.1,
    reward_scale: RewardScale = "mean_std",
    reward_clip: float | None = 0.8,
    advantage_clip: float | None = None,
    ptx_coef: float = 0.0,
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """PPO-max: PPO on clip((r − r̄)/σ, ±δ), r̄ and σ of all rewards so far, and β_kl·KL per token (Zheng et al. 2023).

    `ptx_coef` adds the NLL of demonstrations (--demos), off by default as in the authors' script; give a critic that
    starts from the reward model (--critic DIR) and trains first (--critic-warmup), as in the paper. Paper and shipped
    script differ: λ .9 and .95, β_kl .05 and .01, normalization and scaling alone (reward_scale=std, reward_clip off);
    δ .8 is their Figure 14's. The paper warns of clipping rewards and advantages together: `advantage_clip` is off.
    """
    shaped = reward_steps(reward_scale, reward_clip)
    cut = () if advantage_clip is None else (AdvantageClip(advantage_clip),)
    steps = (Outcome(), *shaped, *kl_steps("reward", beta_kl=beta_kl), GAE(gamma=gamma, lam=lam), Whiten(), *cut)
    terms = clipped_with_critic(clip, value_clip, value_coef, aggregation)
    streams = (*ROLLOUTS, Stream("demos")) if ptx_coef else ROLLOUTS
    sources = ("zheng2023secrets", "schulman2017ppo", "ouyang2022")
    return Recipe("ppo_max", sources, streams, (*terms, *_ptx(ptx_coef)), steps=steps)


def reward_steps(reward_scale: RewardScale, reward_clip: float | None) -> tuple[Step, ...]:
    """What stands right after the score: scaled by what is remembered, then clipped."""
    if reward_scale not in _SCALES:
        raise InputError(f"reward_scale must be {' or '.join(map(repr, _SCALES))}, got {reward_scale!r}")
    return _SCALES[reward_scale] + (() if reward_clip is None else (ClipReward(reward_clip),))


def pull_steps(kl: KLPlace, beta_kl: float, kl_target: float | None, kl_horizon: float) -> tuple[Step, ...]:
    """The KL in the reward, with a fixed coefficient or one that is steered to a target."""
    if kl_target is None:
        return kl_steps(kl, beta_kl=beta_kl)
    if kl != "reward":
        raise InputError(f"kl_target steers the coefficient of a KL in the reward, got kl={kl!r}: take kl=reward")
    return (AdaptiveKL(beta_kl, target=kl_target, horizon=kl_horizon),)


def clipped_with_critic(
    clip: float | None,
    value_clip: float | None,
    value_coef: float,
    aggregation: Aggregation,
    *,
    dual_clip: float | None = None,
) -> tuple[Term, ...]:
    """PPO's two terms: the clipped policy term (clip None: the ratio alone), and the value term (token mean)."""
    if clip is None and dual_clip is not None:
        raise InputError(f"dual_clip = {dual_clip:g} is a part of the clip, which is off: give clip, or leave it out")
    link = Ratio() if clip is None else Clipped(low=clip, high=clip, dual=dual_clip)
    policy = TokenTerm("policy", score=LogRatio("old_logp"), link=link, target=Advantage(), aggregation=aggregation)
    value = TokenTerm("value", score=ValueStep(), link=ClippedSquare(value_clip), target=ReturnStep(), coef=value_coef)
    return policy, value


def _ptx(coef: float) -> tuple[Term, ...]:
    """The NLL of the demonstrations of stream 1 (token mean): PPO-ptx."""
    return (TokenTerm("ptx", score=LogRatio(), link=NegativeLogLikelihood(), coef=coef, stream=1),) if coef else ()
