"""A reward that reads the text of a completion alone, and its prompt's row: a checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, final, runtime_checkable

from transformers import PreTrainedTokenizerBase

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.rollout.rewards.protocol import give, place
from tokenward.rollout.rewards.text import completion_text
from tokenward.types import Rollout


@runtime_checkable
class Checker(Protocol):
    """What it thinks of one text: its score, and numbers that are logged beside it. Bad rows: InputError."""

    def check(self, text: str, prompt: Prompt) -> tuple[float, dict[str, float]]: ...


@final
class TextReward:
    """A checker's score of each completion's text, special tokens left out."""

    def __init__(self, checker: Checker, *, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.checker, self.name, self.tokenizer = checker, name, tokenizer

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add what the checker says; a row that it cannot judge is named."""
        found = []
        for row, rollout in enumerate(rollouts):
            text = completion_text(self.tokenizer, rollout.prompt_tokens, rollout.response_tokens)
            try:
                score, parts = self.checker.check(text, prompts[rollout.prompt_id])
            except InputError as error:
                raise InputError(f"reward {self.name}: row {row} (prompt {place(rollout, prompts)}) {error}") from error
            found.append(give(rollout, score=score, parts=parts))
        return found
