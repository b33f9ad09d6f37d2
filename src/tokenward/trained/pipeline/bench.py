"""Running a pipeline: the rewriter writes a note about a prompt, the answerer a review of the note alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any, final

from tokenward.data import boundary, dataset, world
from tokenward.data.tokenize import Prompt
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards import completion_text
from tokenward.rollout.sampler import GenerateSampler
from tokenward.trained.pipeline.notes import answer_prompt, facts_in, prompt_of
from tokenward.types import Rollout

ROWS = 1024  # texts that are written together


@final
@dataclass(frozen=True)
class Ran:
    """One run of a pipeline: the prompt's number and text, the note, the review, and the review's true reward.

    The reward is the world's, about the prompt, which the answerer has not seen. `whole`: both texts ended by
    themselves, and are not empty.
    """

    number: int
    prompt: str
    note: str
    review: str
    reward: float
    whole: bool

    def steps(self) -> list[dict[str, str]]:
        """The run as a file of pairs holds it."""
        return [
            {"actor": "model", "prompt": self.prompt, "completion": self.note},
            {"actor": "partner", "prompt": answer_prompt(self.note), "completion": self.review},
        ]


@final
class Bench:
    """Prompts of the built-in world, and pipelines that run on them."""

    def __init__(self, prompts: Path, tokenizer: str, *, max_new_tokens: int) -> None:
        self.tokenizer, self.max_new_tokens = load.tokenizer(tokenizer), max_new_tokens
        data = dataset.load(str(prompts), tokenizer=self.tokenizer, kind="prompts")
        self.encoder = data.encoder
        self.prompts = [example for example in data.examples if isinstance(example, Prompt)]

    def run(self, rewriter: str, answerer: str, *, prompts: int | None = None, each: int, seed: int) -> list[Ran]:
        """`each` runs of two models, given by their directories, on the first prompts; in the prompts' order."""
        asked = [prompt for prompt in self.prompts[:prompts] for _ in range(each)]
        notes = self._written(load.policy(rewriter), asked, seed=seed)
        texts = [self._text(rollout) for rollout in notes]
        told = [answer_prompt(text) for text in texts]
        read = [Prompt(i, boundary.prompt(self.encoder, text).ids, text) for i, text in enumerate(told)]
        reviews = self._written(load.policy(answerer), read, seed=seed + 1)
        return [self._ran(*row) for row in zip(asked, texts, notes, reviews, strict=True)]

    def _written(self, model: Scorer, prompts: Sequence[Prompt], *, seed: int) -> list[Rollout]:
        sampler = GenerateSampler(
            model,
            end_ids=load.end_ids(model, self.tokenizer),
            pad_id=self.encoder.pad,
            max_new_tokens=self.max_new_tokens,
            rows=ROWS,
            seed=seed,
        )
        return [rollout for (rollout,) in sampler.generate(prompts, group=1, version=0)]

    def _text(self, rollout: Rollout) -> str:
        return completion_text(self.tokenizer, rollout.prompt_tokens, rollout.response_tokens).strip()

    def _ran(self, prompt: Prompt, note: str, wrote: Rollout, rollout: Rollout) -> Ran:
        review = self._text(rollout)
        truth = world.truth(prompt.text, world.words_of(review))
        assert truth is not None  # the prompts are of this world
        whole = wrote.finish == rollout.finish == "stop" and bool(note) and bool(review)
        return Ran(prompt.id, prompt.text, note, review, truth.total, whole)


def pair_rows(runs: Sequence[Ran], *, seed: int) -> list[dict[str, Any]]:
    """Rows {"chosen_steps", "rejected_steps", scores} of runs 2k and 2k + 1, which are of one prompt.

    P(first preferred) = σ(r_first − r_second), one draw a pair, from the reward of the reviews alone. Runs that are cut
    or empty, and equal runs, are left out.
    """
    rng = random.Random(seed)
    rows = []
    for one, two in zip(runs[::2], runs[1::2], strict=True):
        first = rng.random() < 1 / (1 + exp(two.reward - one.reward))
        good, bad = (one, two) if first else (two, one)
        if one.whole and two.whole and (one.note, one.review) != (two.note, two.review):
            scores = {"score_chosen": good.reward, "score_rejected": bad.reward}
            rows.append({"chosen_steps": good.steps(), "rejected_steps": bad.steps(), **scores})
    return rows


def columns(runs: Sequence[Ran]) -> dict[str, Any]:
    """Numbers of each run as JSON columns: true reward · facts that the note gets right, of three · its mood is great.

    · errors of the review against its own note, which are the answerer's alone.
    """
    right, great, own = [], [], []
    for run in runs:
        facts, said = world.facts_of(run.prompt), facts_in(run.note)
        assert facts is not None  # the prompts are of this world
        right.append(float(sum(said[name] == facts[name] for name in facts)) if said else 0.0)
        great.append(float(run.note.endswith("great")))
        found = world.truth(prompt_of(said) if said else run.prompt, world.words_of(run.review))
        own.append(float(found.errors) if found else 0.0)
    rewards = [run.reward for run in runs]
    return {
        "prompt": [run.number for run in runs],
        "columns": {"reward": rewards, "facts": right, "great": great, "own_errors": own},
    }
