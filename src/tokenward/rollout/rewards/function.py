"""A Python function of texts as a reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, RunError
from tokenward.own_file import Refused
from tokenward.rollout.rewards import worker
from tokenward.rollout.rewards.process import OwnProcess
from tokenward.rollout.rewards.protocol import give, place
from tokenward.rollout.rewards.returned import Verdict, verdict
from tokenward.rollout.rewards.text import completion_text, token_ends
from tokenward.types import Rollout

SEARCH_S = 10.0  # looking for the completion at which a function raises


@final
class FunctionReward:
    """`function(prompts, completions, columns) -> scores`, one call per batch.

    `prompts` and `completions` are texts (special tokens left out), `columns` the other columns of each prompt's
    row. A function that has a parameter `spans` is given the (start, end) characters of each response token, and
    `finish` "stop" or "length" for each completion. What it may return: `returned.py`.
    """

    def __init__(
        self, function: Callable[..., Any] | OwnProcess, *, name: str, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.function, self.name, self.tokenizer = function, name, tokenizer
        try:
            self.asks = function.asks if isinstance(function, OwnProcess) else worker.asks(function)
        except Refused as error:
            raise InputError(f"reward {name}: {error}") from error

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Add what the function gives; anything but what `returned.py` reads names its row and prompt."""
        answers = self._answers(rollouts, prompts)
        if len(answers) != len(rollouts):
            raise InputError(f"reward {self.name} returned {len(answers)} scores for {len(rollouts)} completions")
        found = []
        for row, (rollout, answer) in enumerate(zip(rollouts, answers, strict=True)):
            who = f"reward {self.name}: row {row} (prompt {place(rollout, prompts)})"
            read: Verdict = verdict(answer, ends=lambda rollout=rollout: self._ends(rollout), who=who)  # type: ignore[misc]
            found.append(give(rollout, score=read.score, parts=read.parts, rewards=read.rewards))
        return found

    def _answers(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Any]:
        """What the function returned, or one line for what went wrong and where."""
        if not rollouts:
            return []
        try:
            return self._call(rollouts, prompts)
        except Refused as error:
            raise InputError(f"reward {self.name} {error}") from error
        except worker.Raised as error:
            raise InputError(f"reward {self.name} raised {error}; {self._culprit(rollouts, prompts)}") from error
        except RunError as error:
            raise RunError(f"{error}; asked about {_places(rollouts, prompts)}") from error

    def _call(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Any]:
        asked = [prompts[r.prompt_id] for r in rollouts]
        texts = [completion_text(self.tokenizer, r.prompt_tokens, r.response_tokens) for r in rollouts]
        named: dict[str, list[Any]] = {}
        if "finish" in self.asks:
            named["finish"] = [r.finish for r in rollouts]
        if "spans" in self.asks:
            named["spans"] = [list(zip([0, *ends], ends, strict=False)) for ends in map(self._ends, rollouts)]
        given = ([p.text for p in asked], texts, [dict(p.columns) for p in asked])
        if isinstance(self.function, OwnProcess):
            return self.function(given, named)
        file = getattr(getattr(self.function, "__code__", None), "co_filename", None)
        found: list[Any] = worker.call(self.function, given, named, file=None if file is None else Path(file))
        return found

    def _ends(self, rollout: Rollout) -> list[int]:
        return token_ends(self.tokenizer, rollout.prompt_tokens, rollout.response_tokens)

    def _culprit(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> str:
        """The first completion at which the function raises when it is asked about that one alone."""
        limit = time.monotonic() + SEARCH_S
        for row, rollout in enumerate(rollouts):
            if time.monotonic() > limit:
                break
            try:
                self._call([rollout], prompts)
            except worker.Raised:
                return f"at row {row} (prompt {place(rollout, prompts)})"
            except (Refused, RunError):
                break
        return f"asked about {_places(rollouts, prompts)}"


def function_reward(
    file: Path, function: str, *, name: str, tokenizer: PreTrainedTokenizerBase, timeout_s: float | None = None
) -> FunctionReward:
    """A function of a file: in this process, or with a time-out in one of its own."""
    try:
        if timeout_s is None:
            return FunctionReward(worker.load(file, function), name=name, tokenizer=tokenizer)
        return FunctionReward(OwnProcess(file, function, name=name, seconds=timeout_s), name=name, tokenizer=tokenizer)
    except Refused as error:
        raise InputError(f"reward {name}: {error}") from error


def _places(rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> str:
    """The prompts of some completions, the first eight of them."""
    names = list(dict.fromkeys(place(rollout, prompts) for rollout in rollouts))
    return f"{len(rollouts)} completions of {', '.join(names[:8])}" + (" …" if len(names) > 8 else "")
