"""Rewards of sampled completions: a Python function, or a reward model. A missing score is an error, never 0."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.frozen import score as score_rows
from tokenward.types import Batch, Rollout


@runtime_checkable
class Reward(Protocol):
    """Anything that scores completions."""

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """The same rollouts with `score` (and `parts`) filled in; `prompts` by their id."""
        ...


@final
class FunctionReward:
    """`function(prompts, completions, columns) -> scores`, one call per batch.

    `prompts` and `completions` are texts (special tokens left out), `columns` the other columns of each prompt's
    row. Each result is a number, or {"score": number, part: number, …} whose parts are logged by name.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.function, self.name, self.tokenizer = function, name, tokenizer

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Fill in the function's scores; anything but one finite number per completion names its row."""
        asked = [prompts[r.prompt_id] for r in rollouts]
        texts = [completion_text(self.tokenizer, r.prompt_tokens, r.response_tokens) for r in rollouts]
        try:
            answers = self.function([p.text for p in asked], texts, [dict(p.columns) for p in asked])
        except Exception as error:  # the user's own code: whatever it raises is reported as one line
            raise InputError(f"reward {self.name} raised {type(error).__name__}: {error}") from error
        if isinstance(answers, str | bytes) or not hasattr(answers, "__len__"):
            raise InputError(f"reward {self.name} must return a list of numbers, got {type(answers).__name__}")
        if len(answers) != len(rollouts):
            raise InputError(f"reward {self.name} returned {len(answers)} scores for {len(rollouts)} completions")
        return [
            self._scored(rollout, answer, f"row {row} (prompt {prompt.where or prompt.id})")
            for row, (rollout, answer, prompt) in enumerate(zip(rollouts, answers, asked, strict=True))
        ]

    def _scored(self, rollout: Rollout, answer: object, row: str) -> Rollout:
        if not isinstance(answer, Mapping):
            return dataclasses.replace(rollout, score=self._number(answer, row, "score"))
        if "score" not in answer:
            raise InputError(f"reward {self.name}: {row} has parts {sorted(map(str, answer))} but no 'score'")
        numbers = {str(part): self._number(value, row, str(part)) for part, value in answer.items()}
        score = numbers.pop("score")
        return dataclasses.replace(rollout, score=score, parts=numbers)

    def _number(self, value: object, row: str, part: str) -> float:
        where = f"reward {self.name}: {row}"
        if value is None:
            raise InputError(f"{where} has no {part} (None): a missing score is not 0; drop the prompt or score it")
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} has {part} of type {type(value).__name__}, wanted a number") from error
        if isinstance(value, str) or not math.isfinite(number):
            raise InputError(f"{where} has {part} = {value!r}, wanted a finite number")
        return number


@final
class ModelReward:
    """A reward model's head at the last token of prompt + response, read on token ids (one tokenizer for both)."""

    def __init__(self, scorer: Scorer, *, name: str, micro_tokens: int = 16384) -> None:
        self.scorer, self.name, self.micro_tokens = scorer, name, micro_tokens

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        """Fill in the model's scores; `prompts` is not read, the rollouts carry their ids."""
        del prompts
        if not rollouts:
            return []
        batch = _rows(rollouts, device=self.scorer.device)
        fields = frozenset({"model_score"})
        scores = score_rows(self.scorer, batch, fields, micro_tokens=self.micro_tokens).model_score
        assert scores is not None  # asked for above
        values = scores.tolist()
        for row, (rollout, value) in enumerate(zip(rollouts, values, strict=True)):
            if not math.isfinite(value):
                raise InputError(f"reward model {self.name} gives {value} to row {row} (prompt {rollout.prompt_id})")
        return [dataclasses.replace(r, score=float(v)) for r, v in zip(rollouts, values, strict=True)]


def reward(
    spec: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "float32",
    device: str = "cpu",
    micro_tokens: int = 16384,
) -> FunctionReward | ModelReward:
    """`file.py:function`, or the directory (hub name) of a reward model that shares the policy's vocabulary."""
    file, colon, name = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return FunctionReward(_function(Path(file), name, spec), name=spec, tokenizer=tokenizer)
    if spec.endswith(".py"):
        raise InputError(f"--reward {spec} names no function; write {spec}:function")
    scorer = load.reward_model(spec, dtype=dtype, device=device)
    theirs, ours = load.tokenizer(spec).get_vocab(), tokenizer.get_vocab()
    if theirs != ours:
        different = len(set(theirs.items()) ^ set(ours.items()))
        raise InputError(
            f"reward model {spec} has another tokenizer than the policy ({different} entries differ): "
            "its scores are read on token ids; wrap it in a function of texts (--reward file.py:function)"
        )
    return ModelReward(scorer, name=spec, micro_tokens=micro_tokens)


def completion_text(
    tokenizer: PreTrainedTokenizerBase, prompt_tokens: Sequence[int], response_tokens: Sequence[int]
) -> str:
    """What the response adds to the prompt's text, special tokens left out.

    decode(prompt + response) without decode(prompt): decoding a response alone loses a leading space with some
    tokenizers. A character whose bytes straddle the two belongs to the response.
    """
    before = _decode(tokenizer, prompt_tokens)
    whole = _decode(tokenizer, [*prompt_tokens, *response_tokens])
    shared = next(
        (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
    )
    return whole[shared:]


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _rows(rollouts: Sequence[Rollout], *, device: torch.device) -> Batch:
    ids = [torch.tensor([*r.prompt_tokens, *r.response_tokens]) for r in rollouts]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    return Batch(
        tokens=tokens,
        length=torch.tensor([len(row) for row in ids], device=device),
        mask=torch.zeros(tokens.shape, dtype=torch.bool, device=device),
        group=torch.tensor([r.prompt_id for r in rollouts], device=device),
        weight=torch.ones(len(ids), device=device),
    )


def _function(file: Path, name: str, spec: str) -> Callable[..., Any]:
    """Import one file by its path (the user's own code, named by the user) and take a function of it."""
    if not file.is_file():
        raise InputError(f"--reward {spec}: no file {file}")
    module_spec = importlib.util.spec_from_file_location(f"tokenward_reward_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"--reward {spec}: {file} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses in the user's file look their module up
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: whatever it raises is reported as one line
        raise InputError(f"--reward {spec}: importing it raised {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise InputError(f"--reward {spec}: no function {name!r} in it; it has {', '.join(known) or 'none'}")
    return found  # type: ignore[no-any-return]
