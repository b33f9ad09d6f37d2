"""Held-out chains: texts of a policy or given ones, their truth, and what models say of each of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data import chains, dataset
from tokenward.data.chains import ChainTruth
from tokenward.data.collate import rollouts_batch
from tokenward.data.tokenize import Prompt
from tokenward.data.world import words_of
from tokenward.diagnose.evaluate import sample
from tokenward.diagnose.lens.columns import Models, columns
from tokenward.diagnose.lens.credit import pieces
from tokenward.diagnose.lens.rows import TokenRow
from tokenward.models import frozen, load
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards import FunctionReward, completion_text
from tokenward.rollout.sampler import GenerateSampler
from tokenward.types import Batch, Rollout

ROWS = 1024  # texts that are sampled together


@final
class Bench:
    """Prompts of the world, the SFT policy as reference, and the truth."""

    def __init__(self, sft: str, prompts: Path, *, max_new_tokens: int) -> None:
        self.tokenizer = load.tokenizer(sft)
        self.sft = load.policy(sft).requires_grad_(False)
        data = dataset.load(str(prompts), tokenizer=self.tokenizer, kind="prompts")
        self.encoder = data.encoder
        self.prompts = [example for example in data.examples if isinstance(example, Prompt)]
        self.named = {prompt.id: prompt for prompt in self.prompts}
        self.ends, self.max_new_tokens = load.end_ids(self.sft, self.tokenizer), max_new_tokens
        self.outcome = FunctionReward(chains.outcome, name="outcome", tokenizer=self.tokenizer)

    def sample(self, policy: Scorer, *, each: int, seed: int) -> list[Rollout]:
        """`each` texts of a policy for each prompt, scored by their final answers."""
        sampler = GenerateSampler(
            policy, end_ids=self.ends, pad_id=self.encoder.pad, max_new_tokens=self.max_new_tokens, rows=ROWS, seed=seed
        )
        return sample(sampler, self.prompts, samples=each, reward=self.outcome)

    def given(self, texts: Sequence[tuple[Prompt, str]]) -> list[Rollout]:
        """Written texts as if they had been sampled, scored."""
        found = []
        for prompt, text in texts:
            ids = (*self.encoder.text(text).ids, self.encoder.eos)
            found.append(Rollout(prompt.id, prompt.tokens, ids, (True,) * len(ids), (0.0,) * len(ids), "stop"))
        return self.outcome.score(found, self.named)

    def words(self, text: Rollout) -> str:
        """The text that was written, without its end token."""
        return completion_text(self.tokenizer, text.prompt_tokens, text.response_tokens).strip()

    def truth(self, text: Rollout) -> ChainTruth | None:
        """The truth of a text; None where its words are not its tokens one to one, the end token left out."""
        words = words_of(self.words(text))
        more = len(text.response_tokens) - len(words)
        return (
            chains.truth(self.named[text.prompt_id].text, words) if words and more == (text.finish == "stop") else None
        )

    def share(self, texts: Sequence[Rollout], part: str) -> float:
        """The share of texts that are `right`, or `sound`."""
        return sum((text.parts or {})[part] for text in texts) / len(texts)

    def batch(self, texts: Sequence[Rollout]) -> Batch:
        """The texts as rows, in their order."""
        return rollouts_batch([[text] for text in texts], pad_id=self.encoder.pad)

    def rows(self, texts: Sequence[Rollout], named: Mapping[str, Float[Tensor, "B T"]]) -> list[TokenRow]:
        """The texts with these values at their tokens, their steps as segments, and the error at each wrong token.

        The end token belongs to the last step. Only texts whose truth is known can be given.
        """
        found = []
        for row, text in enumerate(texts):
            truth = self.truth(text)
            assert truth is not None  # the callers keep such texts alone
            start, more = len(text.prompt_tokens), len(text.response_tokens) - len(truth.segment)
            cut = slice(start, start + len(text.response_tokens))
            found.append(
                TokenRow(
                    self.named[text.prompt_id].text,
                    pieces(self.tokenizer, text),
                    {name: tuple(column[row, cut].tolist()) for name, column in named.items()},
                    where=self.named[text.prompt_id].where or None,
                    totals={"score": float(text.score or 0.0)},
                    wrong=tuple(kind or "" for kind in truth.wrong) + ("",) * more,
                    segment=truth.segment + truth.segment[-1:] * more,
                )
            )
        return found


def said(policy: Scorer, reference: Scorer, batch: Batch, *, beta: float) -> dict[str, Float[Tensor, "B T"]]:
    """Credit, log-probabilities and entropies of every token."""
    return columns(Models(policy, reference), batch, beta=beta)


def score_gains(model: Scorer, batch: Batch) -> Float[Tensor, "B T"]:
    """R(x, y_{≤t}) − R(x, y_{<t}) at every response token: the reward model read behind each token.

    They sum to R(x, y) − R(x), and over a step to the difference between two prefixes. A Bradley–Terry model is only
    asked for whole texts in training; what it says of prefixes is read off the same head.
    """
    stats = frozen.score(model, batch, frozenset({"value", "model_score"}))
    assert stats.value is not None and stats.model_score is not None  # asked for above
    after = torch.zeros_like(stats.value)
    after[:, :-1] = stats.value[:, 1:]  # value[t + 1] is the head behind token t
    every = torch.arange(batch.rows)
    after[every, batch.length - 1] = stats.model_score
    return torch.where(batch.mask, after - stats.value, torch.zeros_like(after))
