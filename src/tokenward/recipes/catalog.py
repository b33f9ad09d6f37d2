"""The catalog: every method by name, how far it is shown to work, and where its defaults come from.

Tier A: proven in the lab where it has a closed form, and trained end to end on the built-in world. Tier B: the laws,
the lab, and formulas worked by hand. Tier C, methods in a file of one's own, are not here: see examples/recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from tokenward.objective.recipe import Recipe
from tokenward.recipes import actor_critic, policy_gradient, preference, regression, scenarios


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
    "reinforce": Method(policy_gradient.reinforce, "B", "β_kl: TRL 1.12 (PPO)"),
    "rloo": Method(policy_gradient.rloo, "B", "β_kl: TRL 1.16"),
    "reinforce_pp": Method(policy_gradient.reinforce_pp, "B", "β_kl, clip: Hu 2025, version 1"),
    "grpo": Method(policy_gradient.grpo, "B", "β_kl: Shao 2024; clip: TRL 1.16"),
    "ppo": Method(actor_critic.ppo, "A", "TRL 1.12 (PPO's last)"),
    "rto": Method(
        actor_critic.rto, "A", "β_guide: Zhong 2024; β_kl = β_guide: ours, as theirs (.01) extrapolates five-fold"
    ),
    "distill": Method(actor_critic.distill, "B", "λ, clips: PPO's; β_kl only scales"),
    "mirror_descent": Method(policy_gradient.mirror_descent, "B", "η: ours; β_kl: TRL 1.12 (PPO)"),
}
