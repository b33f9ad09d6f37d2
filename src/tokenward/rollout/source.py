"""On-policy data: prompts in an order, completions from the sampler, their rewards, as one batch of whole groups."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal, final

import torch

from tokenward.data.collate import rollouts_batch
from tokenward.data.sources import shuffled
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.rollout.sampler import GenerateSampler
from tokenward.rollout.score import Reward
from tokenward.types import Batch, Rollout


@final
class RolloutSource:
    """Batches of `prompts_per_batch` × `group` fresh completions; prompts come once per pass, shuffled by the seed.

    The last batch of a pass goes on into the next one, so every batch has the same number of groups. `pairs` "all"
    pairs every two completions of a prompt.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        sampler: GenerateSampler,
        reward: Reward | None,
        pad_id: int,
        group: int,
        prompts_per_batch: int,
        pairs: Literal["none", "all"] = "none",
        order: Literal["shuffle", "file"] = "shuffle",
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise InputError("there are no prompts to sample from")
        self.prompts, self.sampler, self.reward, self.pad_id = prompts, sampler, reward, pad_id
        self.group, self.prompts_per_batch, self.order, self.seed = group, prompts_per_batch, order, seed
        self.pairs: Literal["none", "all"] = pairs
        self._by_id = {prompt.id: prompt for prompt in prompts}
        self._taken = 0
        self._version = 0
        self._parts: dict[str, float] = {}
        self._asked: dict[int, Prompt] = {}

    def next(self) -> Batch:
        """Sample and score the next batch."""
        asked = [self._at(self._taken + i) for i in range(self.prompts_per_batch)]
        groups = list(self.sampler.generate(asked, group=self.group, version=self._version))
        if self.reward is not None:
            scored = self.reward.score([rollout for group in groups for rollout in group], self._by_id)
            groups = [scored[i : i + self.group] for i in range(0, len(scored), self.group)]
        self._taken += len(asked)
        self._parts = _part_means([rollout for group in groups for rollout in group])
        batch = rollouts_batch(groups, pad_id=self.pad_id, pairs=self.pairs)
        self._asked = dict(zip(torch.unique_consecutive(batch.group).tolist(), asked, strict=True))
        return batch

    @property
    def batches_per_pass(self) -> int:
        return -(-len(self.prompts) // self.prompts_per_batch)

    def where(self, group: int) -> str:
        """The place in the file of the prompt with this number in the last batch's `group`."""
        return self._asked[group].where if group in self._asked else f"prompt {group}"

    def update(self, policy: Scorer) -> None:
        """Tell the sampler that the weights have changed."""
        self._version += 1
        self.sampler.push(None, self._version)

    def metrics(self) -> dict[str, float]:
        """Means of the reward's named parts over the last batch."""
        return {f"reward/{name}": value for name, value in self._parts.items()}

    def state(self) -> dict[str, Any]:
        """Cursor, version and the sampler's random state, as JSON values."""
        return {"taken": self._taken, "version": self._version, "sampler": self.sampler.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._taken, self._version = int(state["taken"]), int(state["version"])
        self.sampler.load_state(state["sampler"])

    def _at(self, place: int) -> Prompt:
        """The prompt at a place of the endless sequence of passes."""
        number, index = divmod(place, len(self.prompts))
        if self.order == "file":
            return self.prompts[index]
        return self.prompts[shuffled(len(self.prompts), seed=self.seed, number=number)[index]]


def _part_means(rollouts: Sequence[Rollout]) -> dict[str, float]:
    names = sorted({name for rollout in rollouts for name in rollout.parts or {}})
    return {name: fmean(r.parts[name] for r in rollouts if r.parts and name in r.parts) for name in names}
