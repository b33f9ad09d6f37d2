"""On-policy data: prompts in an order, completions from the sampler, their rewards, as one batch of whole groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from tokenward.data.collate import rollouts_batch
from tokenward.data.sources import shuffled
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, RunError
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards import Reward, logged
from tokenward.types import Batch, Rollout


@runtime_checkable
class Sampler(Protocol):
    """What writes the completions: one turn each (GenerateSampler), or whole episodes (EpisodeSampler)."""

    def generate(self, prompts: Sequence[Prompt], *, group: int, version: int) -> Iterator[list[Rollout]]: ...
    def push(self, weights: Mapping[str, Tensor] | None, version: int) -> None: ...
    def metrics(self) -> dict[str, float]: ...
    def state(self) -> dict[str, str | int]: ...
    def load_state(self, state: Mapping[str, str | int]) -> None: ...


@final
@dataclass(frozen=True)
class Writer:
    """Who writes the answers of a stream, and how many to each prompt."""

    sampler: Sampler
    group: int


@final
class RolloutSource:
    """Batches of fresh completions of `prompts_per_batch` prompts; prompts come once per pass, shuffled by the seed.

    Each prompt has the `group` completions of the sampler first, then those of the writers `beside` it, as rows of
    streams 1, 2, …; all are scored. The last batch of a pass goes on into the next one, so every batch has the same
    number of groups. `compared` names the streams whose completions are paired.

    keep "mixed" drops a prompt whose `group` scores are all equal and takes the next one in its place, until the batch
    is full: at most `max_rounds` × `prompts_per_batch` prompts are asked for one batch. Dropped prompts are done with
    for the pass, which so ends after fewer batches than `batches_per_pass`.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        sampler: Sampler,
        reward: Reward | None,
        pad_id: int,
        group: int,
        prompts_per_batch: int,
        beside: Sequence[Writer] = (),
        compared: Collection[tuple[int, int]] = (),
        keep: Literal["all", "mixed"] = "all",
        max_rounds: int = 10,
        order: Literal["shuffle", "file"] = "shuffle",
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise InputError("there are no prompts to sample from")
        self.prompts, self.sampler, self.reward, self.pad_id = prompts, sampler, reward, pad_id
        self.group, self.prompts_per_batch, self.order, self.seed = group, prompts_per_batch, order, seed
        self.writers = (Writer(sampler, group), *beside)
        self.compared, self.max_rounds = compared, max_rounds
        self.keep: Literal["all", "mixed"] = keep
        self._by_id = {prompt.id: prompt for prompt in prompts}
        self._taken = 0
        self._version = 0
        self._told: dict[str, float] = {}
        self._asked: dict[int, Prompt] = {}

    def next(self) -> Batch:
        """Sample and score the next batch."""
        found: list[tuple[Prompt, list[Rollout]]] = []
        taken, most = self._taken, self._taken + self.max_rounds * self.prompts_per_batch
        while missing := self.prompts_per_batch - len(found):
            asked = [self._at(place) for place in range(taken, min(taken + missing, most))]
            if not asked:
                raise RunError(_all_flat(found, taken - self._taken, wanted=self.prompts_per_batch))
            taken += len(asked)
            groups = zip(asked, self._answers(asked), strict=True)
            found += [(prompt, group) for prompt, group in groups if self.keep == "all" or self._is_mixed(group)]
        self._told = logged([rollout for _, group in found for rollout in group if not rollout.stream])
        if self.keep == "mixed":
            self._told["groups/dropped"] = 1 - len(found) / (taken - self._taken)
        self._taken = taken
        batch = rollouts_batch([group for _, group in found], pad_id=self.pad_id, compared=self.compared)
        numbers = torch.unique_consecutive(batch.group).tolist()
        self._asked = dict(zip(numbers, [prompt for prompt, _ in found], strict=True))
        return batch

    def _answers(self, asked: Sequence[Prompt]) -> list[list[Rollout]]:
        """The scored completions of each prompt, stream after stream."""
        groups: list[list[Rollout]] = [[] for _ in asked]
        for stream, writer in enumerate(self.writers):
            written = writer.sampler.generate(asked, group=writer.group, version=self._version)
            for group, more in zip(groups, written, strict=True):
                group += [replace(rollout, stream=stream) if stream else rollout for rollout in more]
        if self.reward is None:
            return groups
        scored = iter(self.reward.score([rollout for group in groups for rollout in group], self._by_id))
        return [[next(scored) for _ in group] for group in groups]

    def _is_mixed(self, group: Sequence[Rollout]) -> bool:
        """Whether the scores of the first stream's completions differ."""
        return len({rollout.total for rollout in group if not rollout.stream}) > 1

    @property
    def batches_per_pass(self) -> int:
        return -(-len(self.prompts) // self.prompts_per_batch)

    def where(self, group: int) -> str:
        """The place in the file of the prompt with this number in the last batch's `group`.

        A source that goes on in the middle of a batch knows the prompts by their ids; numbers above all ids stand for
        prompts that were asked for twice.
        """
        known = self._asked or {prompt.id: prompt for prompt in self.prompts}
        return known[group].where if group in known else "a prompt that the batch holds twice"

    def update(self, policy: Scorer) -> None:
        """Tell the sampler that the weights have changed."""
        self._version += 1
        for writer in self.writers:
            writer.sampler.push(None, self._version)

    def metrics(self) -> dict[str, float]:
        """Of the last batch: means of the reward's parts, the share of groups dropped; and what the sampler counted."""
        return self._told | self.sampler.metrics()

    def state(self) -> dict[str, Any]:
        """Cursor, version and the random state of every sampler, as JSON values."""
        own, *others = [writer.sampler.state() for writer in self.writers]
        return {"taken": self._taken, "version": self._version, "sampler": own, "beside": others}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._taken, self._version = int(state["taken"]), int(state["version"])
        states = [state["sampler"], *state["beside"]]
        for writer, own in zip(self.writers, states, strict=True):
            writer.sampler.load_state(own)

    def _at(self, place: int) -> Prompt:
        """The prompt at a place of the endless sequence of passes."""
        number, index = divmod(place, len(self.prompts))
        if self.order == "file":
            return self.prompts[index]
        return self.prompts[shuffled(len(self.prompts), seed=self.seed, number=number)[index]]


def _all_flat(found: Sequence[object], asked: int, *, wanted: int) -> str:
    """Why a batch of mixed groups did not become full."""
    return (
        f"dynamic sampling: {asked - len(found)} of the {asked} prompts asked for one batch have scores that are all "
        f"equal, so {len(found)} of {wanted} groups are there: give a reward that tells answers apart, a larger "
        "--group, or a larger --max-rounds"
    )
