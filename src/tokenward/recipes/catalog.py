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
    "sft": Method(preference.sft, "A", "token mean: the field's common choice"),
    "reward_model": Method(preference.reward_model, "A", "no margin: Ouyang 2022"),
    "dpo": Method(preference.dpo, "A", "β: Rafailov 2023"),
    "dpo_averaged": Method(preference.dpo_averaged, "B", "β: open-instruct"),
    "f_dpo": Method(preference.f_dpo, "B", "β: TRL 1.16; the divergence is ours"),
    "cdpo": Method(preference.cdpo, "B", "β: TRL 1.16; smoothing: Mitchell 2023"),
    "ipo": Method(preference.ipo, "A", "β: HALOs' τ"),
    "ipo_averaged": Method(preference.ipo_averaged, "B", "β: TRL 1.16"),
    "slic": Method(preference.slic, "B", "δ, NLL coefficient: HALOs"),
    "simpo": Method(preference.simpo, "B", "β: the authors' Mistral-base configuration; γ = β/2: ours"),
    "kto": Method(preference.kto, "B", "β, λ: TRL 1.16"),
    "bco": Method(preference.bco, "B", "β: TRL 1.16 (the paper: .01)"),
    "una": Method(regression.una, "B", "β: the authors' script for scores"),
    "bda": Method(scenarios.bda, "B", "β: DPO's"),
    "ra": Method(scenarios.ra, "B", "β: DPO's"),
    "rda": Method(scenarios.rda, "A", "β: DPO's"),
    "pra": Method(scenarios.pra, "A", "β: DPO's"),
    "rebel": Method(regression.rebel, "B", "η, β_kl: the authors' Llama-3 script"),
    "online_dpo": Method(games.online_dpo, "B", "β: TRL; soft labels: ours"),
    "xpo": Method(games.xpo, "B", "β, α: TRL; soft labels: ours"),
    "nash_md": Method(games.nash_md, "B", "β_kl, c: TRL"),
    "remax": Method(games.remax, "B", "β_kl: TRL 1.12 (PPO)"),
    "reinforce": Method(policy_gradient.reinforce, "B", "β_kl: TRL 1.12 (PPO)"),
    "rloo": Method(policy_gradient.rloo, "B", "β_kl: TRL 1.16"),
    "reinforce_pp": Method(policy_gradient.reinforce_pp, "B", "β_kl, clip: Hu 2025, version 1"),
    "reinforce_pp_baseline": Method(policy_gradient.reinforce_pp_baseline, "B", "λ: OpenRLHF's script; clip: Hu 2025"),
    "grpo": Method(policy_gradient.grpo, "B", "β_kl: Shao 2024; clip: TRL 1.16"),
    "dr_grpo": Method(group_relative.dr_grpo, "B", "no KL: Liu 2025; clip: TRL 1.16; budget: max_new_tokens's"),
    "dapo": Method(group_relative.dapo, "B", "Yu 2025"),
    "gspo": Method(group_relative.gspo, "B", "clip: Zheng 2025; no KL: theirs"),
    "cispo": Method(group_relative.cispo, "B", "cap: Khatri 2025 (ScaleRL); no KL: theirs"),
    "ppo": Method(ppo.ppo, "A", "TRL 1.12 (PPO's last); KL horizon: TRL 0.11"),
    "ppo_max": Method(ppo.ppo_max, "B", "β_kl, λ: Zheng 2023, δ: their Figure 14; the rest PPO's"),
    "rto": Method(
        actor_critic.rto, "A", "β_guide: Zhong 2024; β_kl = β_guide: ours, as theirs (.01) extrapolates five-fold"
    ),
    "drto": Method(actor_critic.drto, "B", "ρ, atoms: ours; the rest: rto's"),
    "distill": Method(actor_critic.distill, "B", "λ, clips: PPO's; β_kl only scales"),
    "trpo": Method(
        trust_region.trpo, "B", "δ, CG, damping, trials, λ, critic's steps: Engstrom 2020; halving: ours; rest: PPO's"
    ),
    "mirror_descent": Method(trust_region.mirror_descent, "B", "η: ours; β_kl: TRL 1.12 (PPO)"),
}
