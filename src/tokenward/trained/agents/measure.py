"""What the stories measure: held-out episodes of each policy, bootstrap intervals over prompts, pairs of episodes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data import dataset
from tokenward.data.tokenize import Prompt
from tokenward.environments.load import environment
from tokenward.models import load
from tokenward.rollout.environment import EpisodeSampler, Played
from tokenward.rollout.sampler import GenerateSampler
from tokenward.rollout.transcript import turns

Numbers = dict[str, Any]
ROWS = 512  # episodes that advance together


@final
class Bench:
    """Prompts of a world, and policies that play on them."""

    def __init__(self, name: str, prompts: Path, tokenizer: str, *, max_new_tokens: int, max_turns: int) -> None:
        self.name, self.max_new_tokens, self.max_turns = name, max_new_tokens, max_turns
        self.tokenizer = load.tokenizer(tokenizer)
        data = dataset.load(str(prompts), tokenizer=self.tokenizer, kind="prompts")
        self.encoder = data.encoder
        self.prompts = [example for example in data.examples if isinstance(example, Prompt)]

    def play(self, model: str, *, each: int, seed: int) -> list[Played]:
        """`each` episodes of a policy for each prompt."""
        policy = load.policy(model)
        sampler = GenerateSampler(
            policy,
            end_ids=load.end_ids(policy, self.tokenizer),
            pad_id=self.encoder.pad,
            max_new_tokens=self.max_new_tokens,
            rows=ROWS,
            seed=seed,
        )
        episodes = EpisodeSampler(
            sampler, environment(self.name), name=self.name, encoder=self.encoder, max_turns=self.max_turns
        )
        return episodes.play(self.prompts, group=each, version=0)

    def measure(self, model: str, *, each: int, seed: int) -> Numbers:
        """One number per episode of each kind, as JSON columns; the first episode of the first prompts as transcripts.

        reward of the whole episode · right answers · episodes with a call, with a call that helps · calls · turns
        · tokens of observations.
        """
        played = self.play(model, each=each, seed=seed)
        columns: dict[str, list[float]] = {
            "reward": [one.total for one in played],
            "right": [one.counts.get("right", 0.0) for one in played],
            "called": [float(one.counts.get("calls", 0.0) > 0) for one in played],
            "called_well": [float(one.counts.get("calls_well", 0.0) > 0) for one in played],
            "calls": [one.counts.get("calls", 0.0) for one in played],
            "turns": [float(one.turns) for one in played],
            "observed": [float(one.rollout.trainable.count(False)) for one in played],
        }
        shown = [self.transcript(one) for one in played[: 3 * each : each]]
        return {"prompt": [one.rollout.prompt_id for one in played], "columns": columns, "transcripts": shown}

    def transcript(self, played: Played) -> Numbers:
        """An episode for reading: its prompt, its turns, and what it earned."""
        spoken = turns(played.rollout, self.tokenizer, role="environment")
        words = [f"{'model' if turn['role'] == 'assistant' else 'environment'}: {turn['content']}" for turn in spoken]
        return {"prompt": self.prompts[played.rollout.prompt_id].text, "turns": words, "reward": played.total}

    def pairs(self, model: str, *, each: int, sharpness: float, seed: int) -> list[Numbers]:
        """Rows {"prompt", "chosen_turns", "rejected_turns", scores}: episodes 2k and 2k+1 of each prompt.

        P(first preferred) = σ(κ (r_first − r_second)), one draw a pair; episodes of equal reward are left out.
        """
        played, rng = self.play(model, each=each, seed=seed), random.Random(seed)
        rows = []
        for one, two in zip(played[::2], played[1::2], strict=True):
            if one.total == two.total:
                continue
            first = rng.random() < 1 / (1 + exp(-sharpness * (one.total - two.total)))
            good, bad = (one, two) if first else (two, one)
            rows.append(
                {
                    "prompt": self.prompts[one.rollout.prompt_id].text,
                    "chosen_turns": turns(good.rollout, self.tokenizer),
                    "rejected_turns": turns(bad.rollout, self.tokenizer),
                    "score_chosen": good.total,
                    "score_rejected": bad.total,
                }
            )
        return rows


def by_prompt(prompt: Sequence[int], values: Sequence[float]) -> Float[Tensor, " N"]:
    """The mean of each prompt's episodes, prompts in order of their numbers."""
    sums: dict[int, list[float]] = {}
    for number, value in zip(prompt, values, strict=True):
        sums.setdefault(number, []).append(value)
    return torch.tensor([sum(sums[n]) / len(sums[n]) for n in sorted(sums)], dtype=torch.float64)


def bootstrap(means: Float[Tensor, " N"], *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """The mean over prompts and its 95 % percentile interval: prompts drawn again with replacement.

    >>> bootstrap(torch.ones(3, dtype=torch.float64))
    {'value': 1.0, 'low': 1.0, 'high': 1.0}
    """
    random_ = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(means), (draws, len(means)), generator=random_)
    low, high = means[chosen].mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"value": float(means.mean()), "low": low, "high": high}


def rows(policies: Mapping[str, Numbers]) -> dict[str, dict[str, dict[str, float]]]:
    """Every number of each policy with its interval, and its differences to SFT and PPO, paired by prompt."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    means = {
        name: {key: by_prompt(one["prompt"], values) for key, values in one["columns"].items()}
        for name, one in policies.items()
    }
    for name, own in means.items():
        found[name] = {key: bootstrap(values) for key, values in own.items()}
        for other in ("sft", "ppo"):
            for key in ("reward", "called_well"):
                found[name][f"{key}_minus_{other}"] = bootstrap(own[key] - means[other][key])
    return found
