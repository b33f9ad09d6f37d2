"""The catalog: every method by name, how far it is shown to work, and where its defaults come from.

Tier A: proven in the lab where it has a closed form, and trained end to end on the built-in world. Tier B: the laws,
the lab, and formulas worked by hand. Tier C, methods in a file of one's own, are not here: see examples/recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from tokenward.objective.recipe import Recipe
from tokenward.recipes import (
    actor_critic,
    games,
    group_relative,
    policy_gradient,
    ppo,
    preference,
    regression,
    scenarios,
    trust_region,
)


@final
@dataclass(frozen=True)
class Method:
    """A recipe function, its tier, and the source of its default keywords."""

    make: Callable[..., Recipe]
    tier: Literal["A", "B"]
    defaults: str


CATALOG: dict[str, Method] = {
    "sft": Method(preference.sft, "A", "aggregation: token mean, the field's common choice"),
    "reward_model": Method(preference.reward_model, "A", "margin: none, Ouyang 2022"),
    "dpo": Method(preference.dpo, "A", "beta: Rafailov 2023"),
    "dpo_averaged": Method(preference.dpo_averaged, "B", "beta: open-instruct"),
    "f_dpo": Method(preference.f_dpo, "B", "beta: TRL 1.16; divergence: ours"),
    "cdpo": Method(preference.cdpo, "B", "beta: TRL 1.16; smoothing: Mitchell 2023"),
    "ipo": Method(preference.ipo, "A", "beta: HALOs' τ"),
    "ipo_averaged": Method(preference.ipo_averaged, "B", "beta: TRL 1.16"),
    "slic": Method(preference.slic, "B", "delta, nll_coef: HALOs"),
    "simpo": Method(preference.simpo, "B", "beta: the authors' Mistral-base configuration; gamma: ours, β/2"),
    "kto": Method(preference.kto, "B", "beta, desirable, undesirable: TRL 1.16"),
    "bco": Method(preference.bco, "B", "beta: TRL 1.16 (the paper: .01); point: ours"),
    "una": Method(regression.una, "B", "beta: the authors' script for scores"),
    "bda": Method(scenarios.bda, "B", "beta: DPO's; direction, sampler: ours"),
    "ra": Method(scenarios.ra, "B", "beta: DPO's; normalizer: as in DRO (Richemond 2024); sampler: ours"),
    "rda": Method(scenarios.rda, "A", "beta: DPO's; sampler: ours"),
    "pra": Method(scenarios.pra, "A", "beta: DPO's; labels, link, smoothing, label_temperature, sampler: ours"),
    "rebel": Method(regression.rebel, "B", "eta, beta_kl: the authors' Llama-3 script"),
    "online_dpo": Method(games.online_dpo, "A", "beta: TRL; link: DPO's; labels, label_temperature: ours"),
    "xpo": Method(games.xpo, "B", "beta, alpha: TRL; labels, label_temperature: ours"),
    "nash_md": Method(games.nash_md, "B", "beta_kl, mixture: TRL; label_temperature, kl, aggregation: ours"),
    "remax": Method(games.remax, "A", "beta_kl: TRL 1.12 (PPO); kl: as in verl; aggregation: ours"),
    "reinforce": Method(policy_gradient.reinforce, "B", "beta_kl: TRL 1.12 (PPO); kl, aggregation: ours"),
    "rloo": Method(policy_gradient.rloo, "A", "beta_kl: TRL 1.16; kl: Ahmadian 2024; aggregation: ours"),
    "reinforce_pp": Method(
        policy_gradient.reinforce_pp,
        "A",
        "beta_kl, clip: Hu 2025, version 1; credit, kl: their Eq. 4; aggregation: ours",
    ),
    "reinforce_pp_baseline": Method(
        policy_gradient.reinforce_pp_baseline,
        "A",
        "beta_kl, kl: OpenRLHF's script; clip: Hu 2025; aggregation: ours",
    ),
    "grpo": Method(policy_gradient.grpo, "A", "beta_kl, kl, aggregation: Shao 2024; clip: TRL 1.16; std: ours"),
    "dr_grpo": Method(
        group_relative.dr_grpo,
        "A",
        "beta_kl: none, Liu 2025; clip: TRL 1.16; budget: max_new_tokens's; kl, where beta_kl is given: ours",
    ),
    "dapo": Method(
        group_relative.dapo,
        "B",
        "clip_low, clip_high, overlong_max, overlong_buffer, overlong_coef, beta_kl (none): Yu 2025; kl, "
        "where beta_kl is given: ours",
    ),
    "gspo": Method(
        group_relative.gspo,
        "A",
        "clip_low, clip_high, ratio, beta_kl (none): Zheng 2025; kl, where beta_kl is given: ours",
    ),
    "cispo": Method(
        group_relative.cispo,
        "A",
        "cap: Khatri 2025 (ScaleRL); beta_kl: none, theirs; kl, where beta_kl is given, and aggregation: ours",
    ),
    "ppo": Method(
        ppo.ppo,
        "A",
        "beta_kl, kl, gamma, lam, clip, value_clip, value_coef: TRL 1.12 (PPO's last); kl_horizon: TRL "
        "0.11; aggregation: ours; dual_clip, reward_scale, reward_clip, kl_target: off",
    ),
    "ppo_max": Method(
        ppo.ppo_max,
        "A",
        "beta_kl, lam, reward_scale: Zheng 2023; reward_clip: their Figure 14; ptx_coef, advantage_clip: "
        "off; gamma, clip, value_clip, value_coef, aggregation: PPO's",
    ),
    "rto": Method(
        actor_critic.rto,
        "A",
        "beta_guide, beta_score, placement: Zhong 2024; beta_kl = beta_guide: ours, as theirs (.01) "
        "extrapolates five-fold; guide_clip: off; gamma, lam, clip, value_clip, value_coef, kl, "
        "aggregation: PPO's",
    ),
    "drto": Method(actor_critic.drto, "A", "rho, atoms, divergence, nominal: ours; robust_eta: off; the rest: rto's"),
    "distill": Method(
        actor_critic.distill,
        "A",
        "beta_kl: ours, it only scales; gamma, lam, clip, value_clip, value_coef, kl, aggregation: PPO's",
    ),
    "trpo": Method(
        trust_region.trpo,
        "A",
        "max_kl, cg_steps, damping, backtracks, lam, critic_updates: Engstrom 2020; shrink: ours; "
        "value_clip, reward_scale, reward_clip: off; beta_kl, gamma, kl, aggregation: PPO's",
    ),
    "mirror_descent": Method(
        trust_region.mirror_descent,
        "A",
        "eta, ratio, kl_old, kl, aggregation: ours; beta_kl: TRL 1.12 (PPO)",
    ),
}
