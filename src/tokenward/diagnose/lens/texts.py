"""The texts of a file with all that is known of them, one for each row of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, final

from transformers import PreTrainedTokenizerBase

from tokenward.data import dataset
from tokenward.data.dataset import Dataset
from tokenward.data.files import raw_rows
from tokenward.data.rows import ASSISTANT
from tokenward.data.tokenize import (
    Labeled,
    Limits,
    Pair,
    Prompt,
    Response,
    RowExample,
    Scored,
    StepPair,
)
from tokenward.diagnose.lens.spans import Span, read_spans
from tokenward.errors import InputError
from tokenward.rollout.rewards import Reward
from tokenward.types import Rollout

SPANS = ("wrong_spans", "spans")  # columns of the errors in an answer; in pairs chosen_spans and rejected_spans
Side = Literal["chosen", "rejected"]
Answered: TypeAlias = RowExample | Pair | StepPair  # every example but a prompt alone


@final
@dataclass(frozen=True)
class Text:
    """One answer: what it follows, what is known of it, and who wrote it (`actor`, in a pipeline of models).

    `pair` and `side` place it in a comparison · `score` is its reward · `spans` are errors in the characters of
    `answer`, absent: nobody looked · `cut`: its end did not fit into the longest row allowed.
    """

    prompt: Prompt
    response: Response
    pair: int | None = None
    side: Side | None = None
    label: bool | None = None
    score: float | None = None
    spans: tuple[Span, ...] | None = None
    answer: str | None = None
    actor: int | None = None
    cut: bool = False

    @property
    def rollout(self) -> Rollout:
        """The text as a sampled completion whose sampling law is not known (its logp are zeros)."""
        tokens = self.response.tokens
        wrote = self.response.trainable or (True,) * len(tokens)
        return Rollout(
            self.prompt.id, self.prompt.tokens, tokens, wrote, (0.0,) * len(tokens), self.response.finish,
            score=self.score,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Given:
    """The examples of a file in its order; by the row's place its columns, and with the side a reward's `scores`.

    `longest`: the tokens of a row at which texts were cut, prompt included; None: nowhere.
    """

    data: Dataset
    examples: tuple[Answered, ...]
    columns: Mapping[str, Mapping[str, Any]]
    scores: Mapping[tuple[str, Side | None], float] = field(default_factory=dict)
    longest: int | None = None

    @property
    def pad(self) -> int:
        return self.data.encoder.pad


def read(
    source: str, *, tokenizer: PreTrainedTokenizerBase, split: str = "train", limits: Limits, limit: int | None = None
) -> Given:
    """The first `limit` usable rows of a file, or of a `datasets` name; prompts alone are refused."""
    data = dataset.survey(source, tokenizer=tokenizer, asked_by="credit", split=split, limits=limits)
    if data.schema.kind == "prompts":
        raise InputError(
            f"{source} holds prompts, and credit looks at texts: write some first with tokenward sample, or give pairs"
        )
    chosen = [example for example in data.examples if not isinstance(example, Prompt)][:limit]
    if not chosen:
        raise InputError(data.tally.verdict(max_dropped=1.0) or f"{source}: no row can be used")
    wanted = {example.prompt.where for example in chosen}
    rows = (raw for raw in raw_rows(source, split=split) if raw.where in wanted)
    columns = {raw.where: raw.columns for raw in rows if isinstance(raw.columns, dict)}
    known: dict[tuple[int, ...], int] = {}
    examples = tuple(_known(e, columns, known, data.encoder.eos) for e in chosen)
    return Given(data, examples, columns, longest=limits.max_tokens)


def _known(
    example: Answered, columns: Mapping[str, Mapping[str, Any]], known: dict[tuple[int, ...], int], eos: int
) -> Answered:
    """The example with its columns, one id for equal prompts, and without the end token if its text was cut."""
    if isinstance(example, StepPair):
        return example
    number = known.setdefault(example.prompt.tokens, len(known))
    row = columns.get(example.prompt.where, {})
    prompt = replace(example.prompt, id=number, columns=dict(row))
    if isinstance(example, Pair):
        return replace(example, prompt=prompt)
    response = example.response
    if row.get("finish") == "length" and response.tokens[-1] == eos and len(response.tokens) > 1:
        trainable = response.trainable and response.trainable[:-1]
        response = Response(response.tokens[:-1], "length", trainable)
    return replace(example, prompt=prompt, response=response)


def texts(given: Given, examples: Sequence[Answered], *, first: int = 0) -> list[Text]:
    """The rows of the batch that `batch_of` makes of some of the examples; pairs are numbered from `first`."""
    found: list[Text] = []
    for number, example in enumerate(examples, start=first):
        row = given.columns.get(example.prompt.where, {})
        if isinstance(example, StepPair | Pair):
            found += _pair(example, row, number)
        else:
            found.append(_alone(example, row))
    found = [replace(text, cut=True) if _is_cut(text, given.longest) else text for text in found]
    scores = given.scores
    return [replace(t, score=scores.get((t.prompt.where, t.side), t.score)) for t in found] if scores else found


def _is_cut(text: Text, longest: int | None) -> bool:
    """Whether the text fills its row without having ended: what `finish` alone says of an open dialogue, too."""
    whole = len(text.prompt.tokens) + len(text.response.tokens)
    return longest is not None and text.response.finish == "length" and whole >= longest


def _alone(example: RowExample, row: Mapping[str, Any]) -> Text:
    label = example.label if isinstance(example, Labeled) else None
    score = example.score if isinstance(example, Scored) else None
    name = next((name for name in SPANS if name in row), None)
    answer = _words(row.get("completion", row.get("messages")))
    spans = None if name is None else _spans(row[name], answer, where=f"{example.prompt.where}: {name}")
    return Text(example.prompt, example.response, label=label, score=score, spans=spans, answer=answer)


def _pair(example: Pair | StepPair, row: Mapping[str, Any], number: int) -> Iterator[Text]:
    sides: tuple[tuple[Side, Any, float | None], ...] = (
        ("chosen", example.chosen, example.score_chosen),
        ("rejected", example.rejected, example.score_rejected),
    )
    for side, answer, score in sides:
        value = row.get(f"{side}_spans")
        written = _words(row.get(side), transcript="prompt" not in row)
        spans = None if value is None else _spans(value, written, where=f"{example.prompt.where}: {side}_spans")
        if isinstance(answer, Response):
            yield Text(example.prompt, answer, number, side, score=score, spans=spans, answer=written)
        else:
            for step in answer:
                yield Text(step.prompt, step.response, number, side, score=score, actor=step.actor)


def _spans(value: Any, answer: str | None, *, where: str) -> tuple[Span, ...] | None:
    if answer is None and value == []:
        return None  # a column that every row of the file has
    if answer is None:
        raise InputError(
            f"{where}: spans are characters of one answer (completion, chosen, rejected, the last of messages), and "
            "this row has several turns or steps: leave them out"
        )
    return read_spans(value, where=where, size=len(answer))


def _words(value: Any, *, transcript: bool = False) -> str | None:
    """The text of an answer, or of its last message; of a transcript (hh-rlhf) what stands after its last speaker."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    elif transcript and isinstance(value, str):
        value = value.rpartition(ASSISTANT)[2]
    return value if isinstance(value, str) else None


def scored(given: Given, reward: Reward) -> Given:
    """The same with the reward of every answer, token rewards added up; runs of a pipeline are judged by no reward."""
    rows = texts(given, given.examples)
    if any(text.actor is not None for text in rows):
        raise InputError(f"{given.data.source} holds runs of a pipeline of models: leave --reward out")
    numbered = [replace(text, prompt=replace(text.prompt, id=i), score=None) for i, text in enumerate(rows)]
    judged = reward.score([text.rollout for text in numbered], {text.prompt.id: text.prompt for text in numbered})
    totals = [rollout.total for rollout in judged]
    if none := [text.prompt.where for text, total in zip(rows, totals, strict=True) if total is None]:
        raise InputError(f"{none[0]}: the reward gave no number to {len(none)} of {len(rows)} texts: give one to each")
    scores = {(text.prompt.where, text.side): float(x) for text, x in zip(rows, totals, strict=True) if x is not None}
    return replace(given, scores=scores)


def by_prompt(given: Given) -> Given:
    """The same with the rows of one prompt together, prompts in the order of their first."""
    return replace(given, examples=tuple(sorted(given.examples, key=lambda example: example.prompt.id)))
