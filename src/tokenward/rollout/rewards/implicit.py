"""The implicit reward of a policy and a reference, as one number per completion or one per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, final

from tokenward.data.collate import rollouts_batch
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.masking import keep
from tokenward.models import frozen
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards.protocol import give, place
from tokenward.types import Rollout, present

LOGP = frozenset({"logp"})


@final
class ImplicitReward:
    """β Σ_t log π(y_t)/π_ref(y_t) of the response ("sum"), or each β log π/π_ref at its token ("tokens").

    Tokens that the model did not write (an environment's) have none. Both models are frozen, at temperature 1. The
    number at a token is an optimal advantage, r + V(next) − V, not the token's own reward: only the sum is a reward,
    up to a constant of the prompt. Source: Rafailov et al. 2024, Eq. 10.
    """

    def __init__(
        self,
        policy: Scorer,
        reference: Scorer,
        *,
        beta: float,
        name: str = "implicit",
        place: Literal["sum", "tokens"] = "sum",
        micro_tokens: int = 16384,
    ) -> None:
        self.policy, self.reference, self.beta = policy, reference, beta
        self.name, self.place, self.micro_tokens = name, place, micro_tokens

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add β times the log-ratios."""
        if not rollouts:
            return []
        batch = rollouts_batch([[replace(r, score=None, rewards=None)] for r in rollouts], pad_id=0)
        there = {name: value.to(self.policy.device) for name, value in present(batch).items()}
        batch = replace(batch, **there)  # type: ignore[arg-type]
        ours = frozen.score(self.policy, batch, LOGP, micro_tokens=self.micro_tokens).logp
        theirs = frozen.score(self.reference, batch, LOGP, micro_tokens=self.micro_tokens).logp
        assert ours is not None and theirs is not None  # asked for above
        ratio = self.beta * keep(ours.double() - theirs.double(), batch.mask)
        found = []
        for row, rollout in enumerate(rollouts):
            start = len(rollout.prompt_tokens)
            values = ratio[row, start : start + len(rollout.response_tokens)]
            if not bool(values.isfinite().all()):
                raise InputError(
                    f"reward {self.name} is NaN or infinite at row {row} (prompt {place(rollout, prompts)})"
                )
            if self.place == "tokens":
                found.append(give(rollout, score=0.0, rewards=values.tolist()))
            else:
                found.append(give(rollout, score=float(values.sum())))
        return found
