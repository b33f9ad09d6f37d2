"""Episodes: the model writes a turn, an environment answers it, until it is done. Token in, token out.

What the model sampled is kept as ids, never decoded and encoded again; text is made of it for the environment alone. An
observation's tokens stand between the turns with `trainable` False and log-probability 0: no loss, no credit cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, final

import torch
from torch import Tensor

from tokenward.data.encode import Encoder
from tokenward.data.rows import Message, Text, prompts
from tokenward.data.tally import BadRow
from tokenward.data.tokenize import Prompt
from tokenward.data.turns import observation
from tokenward.environments.protocol import Environment, Episode, Observation
from tokenward.errors import InputError
from tokenward.rollout.patience import Patience
from tokenward.rollout.sampler import GenerateSampler
from tokenward.types import Rollout

SEEDS = 2**31  # seeds of episodes lie below


@final
@dataclass(frozen=True)
class Played:
    """A finished episode: its rollout, how many turns the model wrote, and what the environment counted."""

    rollout: Rollout
    turns: int
    counts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Everything the environment gave, in reward units: the score and the earlier turns' rewards."""
        return (self.rollout.score or 0.0) + math.fsum(self.rollout.rewards or ())


@final
@dataclass
class _Live:
    """One episode as it grows: the response so far, what each of its tokens is, and what the environment gave."""

    prompt: Prompt
    episode: Episode
    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    trainable: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    outcome: float = 0.0
    turns: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    finish: Literal["stop", "length"] | None = None

    def add(self, tokens: Sequence[int], logp: Sequence[float], *, trainable: bool) -> None:
        self.tokens += tokens
        self.logp += logp
        self.trainable += [trainable] * len(tokens)
        self.rewards += [0.0] * len(tokens)


@final
class EpisodeSampler:
    """Samples whole episodes with a GenerateSampler; all episodes of a batch advance together, turn by turn.

    The sampler's `max_new_tokens` is the budget of an episode, observations included. A turn ends at the model's end
    token. `finish` is "stop" when the environment said that it is done; an episode ends with "length" after `max_turns`
    turns, or where the budget has no room for a turn, for an observation, or for a token after it. The reward of the
    turn that ends an episode is the rollout's `score`; earlier ones stand in `rewards` at their turn's last token. The
    random numbers and the seeds of a batch are drawn before it starts, so the random state depends on how many episodes
    were asked, never on what happened in them.
    """

    def __init__(
        self,
        sampler: GenerateSampler,
        environment: Environment,
        *,
        name: str,
        encoder: Encoder,
        max_turns: int = 8,
        seconds: float = 60.0,
    ) -> None:
        if max_turns < 1:
            raise InputError(f"max_turns must be 1 or more, got {max_turns}")
        self.sampler, self.environment, self.name, self.encoder = sampler, environment, name, encoder
        self.max_turns, self._patience = max_turns, Patience(seconds)
        self._metrics: dict[str, float] = {}

    def generate(self, prompts: Sequence[Prompt], *, group: int, version: int) -> Iterator[list[Rollout]]:
        """Whole groups: for each prompt, in order, a list of `group` independent episodes."""
        rollouts = [played.rollout for played in self.play(prompts, group=group, version=version)]
        for start in range(0, len(rollouts), group):
            yield rollouts[start : start + group]

    def play(self, prompts: Sequence[Prompt], *, group: int, version: int) -> list[Played]:
        """`group` episodes of each prompt, in order, with what the environment counted."""
        self.sampler.check(prompts, group)
        wanted = [prompt for prompt in prompts for _ in range(group)]
        done: list[_Live] = []
        for start in range(0, len(wanted), self.sampler.rows):
            done += self._batch(wanted[start : start + self.sampler.rows])
        found = [Played(_rollout(live, version), live.turns, live.counts) for live in done]
        self._metrics = _means(found)
        return found

    def push(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Pass the weights on."""
        self.sampler.push(weights, version)

    def metrics(self) -> dict[str, float]:
        """Means over the last episodes: return, turns, observation tokens, and what the environment counted."""
        return self._metrics

    def state(self) -> dict[str, str | int]:
        """The sampler's."""
        return self.sampler.state()

    def load_state(self, state: Mapping[str, str | int]) -> None:
        """Go on where `state` was taken."""
        self.sampler.load_state(state)

    def _batch(self, asked: list[Prompt]) -> list[_Live]:
        uniform = self.sampler.uniform(len(asked))
        seeds = self.sampler.seeds(len(asked), below=SEEDS)
        lives = [_Live(p, self._start(p, seed)) for p, seed in zip(asked, seeds, strict=True)]
        used = [0] * len(lives)  # random numbers
        while rows := [row for row, live in enumerate(lives) if live.finish is None]:
            rooms = [len(uniform) - len(lives[row].tokens) for row in rows]
            steps = max(rooms)
            numbers = torch.stack([_taken(uniform[:, row], used[row], steps) for row in rows], 1)
            contexts = [[*lives[row].prompt.tokens, *lives[row].tokens] for row in rows]
            drawn, logp = self.sampler.write(contexts, numbers)
            for row, room, tokens, logps in zip(rows, rooms, drawn, logp, strict=True):
                ends = (i + 1 for i, token in enumerate(tokens[:room]) if token in self.sampler.end_ids)
                length = next(ends, room)
                used[row] += length
                lives[row].add(tokens[:length], logps[:length], trainable=True)
                self._turn(lives[row], written=length, budget=len(uniform))
        return lives

    def _start(self, prompt: Prompt, seed: int) -> Episode:
        episode = self._patience.call(
            lambda: self.environment.start(prompt, seed), what=f"environment {self.name}: start of {_row(prompt)}"
        )
        if not isinstance(episode, Episode):
            raise InputError(
                f"environment {self.name}: start of {_row(prompt)} returned {type(episode).__name__}, which has no "
                "reply(text)"
            )
        return episode

    def _turn(self, live: _Live, *, written: int, budget: int) -> None:
        """Ask the environment about the turn just written, and note its answer."""
        tokens = live.tokens[-written:]
        ended = tokens[-1] in self.sampler.end_ids
        text = self.encoder.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        where = f"environment {self.name}: {_row(live.prompt)}, turn {live.turns}"
        answer = self._patience.call(lambda: live.episode.reply(str(text).strip()), what=where)
        reward = _checked(answer, where)
        live.turns += 1
        for name, value in answer.counts.items():
            live.counts[name] = live.counts.get(name, 0.0) + float(value)
        if answer.done:
            live.finish, live.outcome = "stop", reward
            return
        if live.turns < self.max_turns and ended:
            said = self._observed(answer, live.prompt, where)
            if len(live.tokens) + len(said) < budget:
                live.rewards[-1] = reward
                live.add(said, [0.0] * len(said), trainable=False)
                return
        live.finish, live.outcome = "length", reward

    def _observed(self, answer: Observation, prompt: Prompt, where: str) -> tuple[int, ...]:
        try:
            return observation(self.encoder, Message(answer.role, answer.text), to=_text(prompt))
        except BadRow as problem:
            raise InputError(f"{where}: its observation cannot be used ({problem})") from problem


def _taken(numbers: Tensor, start: int, count: int) -> Tensor:
    """`count` of a row's random numbers from `start`; filled up where it can use no more."""
    found = numbers[start : start + count]
    return torch.nn.functional.pad(found, (0, count - len(found)))


def _checked(answer: object, where: str) -> float:
    """The reward of an observation, or one line on what is wrong with it."""
    if not isinstance(answer, Observation):
        raise InputError(f"{where} returned {type(answer).__name__}, wanted an Observation(text, reward, done)")
    numbers = {"reward": answer.reward, **{f"count {name!r}": value for name, value in answer.counts.items()}}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{where} has {name} = {value!r}, wanted a finite number: a missing reward is not 0")
    if not isinstance(answer.text, str):
        raise InputError(f"{where} has a text of type {type(answer.text).__name__}, wanted str")
    return float(answer.reward)


def _text(prompt: Prompt) -> Text:
    """The prompt as its file gives it: text, or messages."""
    given = prompt.columns.get("prompt")
    return prompts(prompt.where, prompt.columns).prompt if isinstance(given, list) else prompt.text


def _row(prompt: Prompt) -> str:
    return f"row {prompt.where or prompt.id}"


def _rollout(live: _Live, version: int) -> Rollout:
    assert live.finish is not None  # an episode is made a rollout when it has ended
    return Rollout(
        prompt_id=live.prompt.id,
        prompt_tokens=tuple(live.prompt.tokens),
        response_tokens=tuple(live.tokens),
        trainable=tuple(live.trainable),
        logp=tuple(live.logp),
        finish=live.finish,
        version=version,
        score=live.outcome,
        rewards=tuple(live.rewards),
    )


def _means(played: Sequence[Played]) -> dict[str, float]:
    names = sorted({name for one in played for name in one.counts})
    found = {
        "return": fmean(one.total for one in played),
        "turns": fmean(one.turns for one in played),
        "observation_tokens": fmean(one.rollout.trainable.count(False) for one in played),
    }
    found |= {name: fmean(one.counts.get(name, 0.0) for one in played) for name in names}
    return {f"episode/{name}": value for name, value in found.items()}
