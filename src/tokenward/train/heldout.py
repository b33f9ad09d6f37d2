"""The policy on held-out prompts while it trains: reward, proxy, KL, length; the same random numbers each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data import dataset
from tokenward.data.collate import rollouts_batch
from tokenward.data.tokenize import Limits, Prompt
from tokenward.errors import InputError, RunError
from tokenward.masking import row_sum
from tokenward.models.frozen import pieces
from tokenward.models.roles import Roles
from tokenward.rollout import rewards
from tokenward.rollout.rewards import Reward
from tokenward.rollout.source import Sampler
from tokenward.train import vocabulary
from tokenward.train.config import RunConfig
from tokenward.train.runtime import rng_state, set_rng_state
from tokenward.train.update import moved
from tokenward.types import Rollout, take

SEED = 7_919  # from the run's seed to the one of held-out completions


@final
@dataclass(frozen=True)
class HeldOut:
    """What an evaluation needs besides the models. `reward` None: the environment's; `proxy` None: `reward` is it.

    `start` is the sampler's random state, to which every evaluation goes back: two of them differ by the policy alone.
    """

    prompts: tuple[Prompt, ...]
    sampler: Sampler
    start: dict[str, str | int]
    reward: Reward | None
    proxy: Reward | None
    samples: int
    beta: float
    pad_id: int
    data_hash: str

    def measure(self, roles: Roles) -> dict[str, float]:
        """Means over prompts and their standard errors.

        The global generators of Python, NumPy and torch are left as they were, also by a reward that draws from them;
        a generator that a reward keeps for itself is its author's, and moves on.

        eval/reward held-out · eval/proxy the reward of training, on the same texts · eval/kl Σ_t KL(π‖π_ref) along the
        texts, nats · eval/objective = reward − beta·KL · eval/length tokens · eval/cut share without an end.
        """
        numbers, tensors = rng_state()
        try:
            self.sampler.load_state(self.start)
            groups = self.sampler.generate(self.prompts, group=self.samples, version=0)
            texts = [text for group in groups for text in group]
            columns = {"reward": self._scored(texts, self.reward)}
            if self.proxy is not None:
                columns["proxy"] = self._scored(texts, self.proxy)
            columns["kl"] = _kl(texts, roles, pad_id=self.pad_id)
        finally:
            set_rng_state(numbers, tensors)
        columns["objective"] = columns["reward"] - self.beta * columns["kl"]
        columns["length"] = torch.tensor([float(sum(text.trainable)) for text in texts], dtype=torch.float64)
        columns["cut"] = torch.tensor([float(text.finish == "length") for text in texts], dtype=torch.float64)
        found: dict[str, float] = {}
        for name, column in columns.items():
            means = column.view(len(self.prompts), self.samples).mean(-1)
            found[f"eval/{name}"] = float(means.mean())
            found[f"eval/{name}_se"] = float(means.std(correction=1)) / math.sqrt(len(means))
        return found

    def _scored(self, texts: Sequence[Rollout], reward: Reward | None) -> Float[Tensor, " N"]:
        scored = texts if reward is None else reward.score(texts, {prompt.id: prompt for prompt in self.prompts})
        totals = [total for text in scored if (total := text.total) is not None]
        if len(totals) < len(texts):
            raise RunError(f"held-out prompts: {len(texts) - len(totals)} of {len(texts)} completions have no reward")
        return torch.tensor(totals, dtype=torch.float64)


def held_out(
    config: RunConfig,
    *,
    sampler: Sampler,
    reward: Reward | None,
    tokenizer: Any,
    limits: Limits,
    pad_id: int,
    device: str,
) -> HeldOut:
    """The held-out prompts of a run; `reward` is the one it trains on, `sampler` one of this function's own."""
    with vocabulary.naming("eval_data", str(config.eval_data)):
        data = dataset.load(
            str(config.eval_data), tokenizer=tokenizer, kind="prompts", asked_by="eval_data", split=config.split,
            limits=limits, max_dropped=config.max_dropped,
        )  # fmt: skip
    prompts = tuple(one for one in data.examples if isinstance(one, Prompt))[: config.eval_prompts]
    if len(prompts) < 2:
        raise InputError(f"eval_data = {config.eval_data}: {len(prompts)} usable prompt: give two at least")
    for name, spec in (("reward", config.reward), ("eval_reward", config.eval_reward)):
        if spec is not None:
            with vocabulary.naming(name, spec):
                rewards.check_prompts(spec, prompts)
    own: Reward | None = None
    if config.eval_reward is not None:
        with vocabulary.naming("eval_reward", config.eval_reward):
            own = rewards.reward(
                config.eval_reward, tokenizer=tokenizer, dtype=config.dtype, device=device,
                timeout_s=rewards.timed(config.eval_reward, config.reward_timeout_s),
            )  # fmt: skip
    return HeldOut(
        prompts, sampler, sampler.state(), own or reward, reward if own is not None else None,
        config.eval_samples, config.eval_beta, pad_id, data.data_hash,
    )  # fmt: skip


@torch.no_grad()
def _kl(texts: Sequence[Rollout], roles: Roles, *, pad_id: int) -> Float[Tensor, " N"]:
    """Σ_t KL(π(·|s_t)‖π_ref(·|s_t)) along each text: its mean over texts of π is KL(π‖π_ref)."""
    batch = moved(rollouts_batch([[text] for text in texts], pad_id=pad_id), roles.policy.device)
    found = torch.zeros(len(texts), dtype=torch.float64)
    for rows in pieces(batch.length, micro_tokens=roles.micro_tokens):
        part = take(batch, rows, width=int(batch.length[rows].max()))
        kl = roles.current(part, frozenset({"kl_ref"})).kl_ref
        assert kl is not None  # asked for
        found[rows.cpu()] = row_sum(kl.double(), part.mask).cpu()
    return found
