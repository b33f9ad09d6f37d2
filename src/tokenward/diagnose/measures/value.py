"""The regularized value J_τ(π) = E_π[r] − τ KL(π‖π_ref) from a policy's own texts: unbiased, and no log Z anywhere.

J_τ(π^τ) − J_τ(π) = τ KL(π‖π^τ) for π^τ ∝ π_ref·exp(r/τ) (derived here by putting r = τ log π^τ/π_ref + τ log Z into J),
so a difference of J_τ between two policies is τ times the difference of their distances to π^τ, and Z cancels in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data.collate import rollouts_batch
from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.errors import InputError
from tokenward.masking import row_sum
from tokenward.models.forward import Scorer
from tokenward.models.frozen import pieces
from tokenward.types import Rollout, take

FIELDS = frozenset({"logp", "kl_ref"})


@final
@dataclass(frozen=True)
class TextValues:
    """Numbers of N texts that the policy wrote, float64, in nats or reward units.

    `kl` = Σ_t KL(π(·|s_t)‖π_ref(·|s_t)) along the text · `ratio` = Σ_t log π/π_ref of its tokens. Both have mean
    KL(π‖π_ref) over texts of π: E[ratio_t | s_t] is the KL of state s_t, so `kl` is `ratio` with the draw of each token
    averaged out (Rao–Blackwell).
    """

    tau: float
    prompt: tuple[int, ...]
    reward: Float[Tensor, " N"]
    kl: Float[Tensor, " N"]
    ratio: Float[Tensor, " N"]

    @property
    def value(self) -> Float[Tensor, " N"]:
        """r − τ·kl of each text; its mean over texts of π is J_τ(π)."""
        return self.reward - self.tau * self.kl

    def mean(self, values: Float[Tensor, " N"]) -> Estimate:
        """Mean over the texts, its standard error clustered by prompt."""
        return estimate(values.tolist(), clusters=self.prompt)


def text_values(
    rollouts: Sequence[Rollout],
    *,
    policy: Scorer,
    reference: Scorer,
    tau: float,
    pad_id: int,
    micro_tokens: int = 16384,
) -> TextValues:
    """Reward, KL and log-ratio of scored texts of `policy`; a text that was cut counts as the policy's text so cut."""
    rewards = [total for rollout in rollouts if (total := rollout.total) is not None]
    if not rollouts or len(rewards) < len(rollouts):
        raise InputError(f"J needs a reward of every text; {len(rewards)} of {len(rollouts)} texts have one")
    batch = rollouts_batch([[r] for r in rollouts], pad_id=pad_id)
    kl, ratio = torch.zeros(2, batch.rows, dtype=torch.float64)
    with torch.no_grad():
        for rows in pieces(batch.length, micro_tokens=micro_tokens):
            part = take(batch, rows, width=int(batch.length[rows].max()))
            ours = policy(part, fields=FIELDS, reference=reference)
            theirs = reference(part, fields=frozenset({"logp"}))
            kl[rows] = row_sum(ours.kl_ref.double(), part.mask)
            ratio[rows] = row_sum(ours.logp.double() - theirs.logp.double(), part.mask)
    prompts = tuple(rollout.prompt_id for rollout in rollouts)
    return TextValues(tau, prompts, torch.tensor(rewards, dtype=torch.float64), kl, ratio)


def difference(one: TextValues, two: TextValues) -> Estimate:
    """J_τ(one) − J_τ(two), prompt by prompt over the prompts of both: mean, and standard error over prompts."""
    if one.tau != two.tau or set(one.prompt) != set(two.prompt):
        raise InputError(
            f"values at τ = {one.tau:g} on {len(set(one.prompt))} prompts and at τ = {two.tau:g} on "
            f"{len(set(two.prompt))}: a paired difference needs the same τ and the same prompts"
        )
    means = [_by_prompt(values) for values in (one, two)]
    return estimate([means[0][prompt] - means[1][prompt] for prompt in means[0]])


def _by_prompt(values: TextValues) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for prompt, value in zip(values.prompt, values.value.tolist(), strict=True):
        found.setdefault(prompt, []).append(value)
    return {prompt: sum(row) / len(row) for prompt, row in found.items()}
