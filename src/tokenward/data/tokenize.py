"""Rows as token examples: prompt ids, response ids with the end token, cut to the limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, final

from tokenward.data import boundary
from tokenward.data.encode import Encoded, Encoder, names_control
from tokenward.data.formats import Kind
from tokenward.data.rows import Row, Step, Steps, Text, Turns
from tokenward.data.tally import BadRow, Tally
from tokenward.data.turns import turns
from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Prompt:
    """What a policy is asked: ids with BOS, the text they come from, the row's columns and its place (`file:line`)."""

    id: int
    tokens: tuple[int, ...]
    text: str
    columns: dict[str, Any] = field(default_factory=dict)
    where: str = ""


@final
@dataclass(frozen=True)
class Response:
    """An answer: ids, the end token included ("stop"), or cut at the limit and without it ("length").

    `trainable[i]` is False where an environment wrote token i; None: the answer wrote all of them.
    """

    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]
    trainable: tuple[bool, ...] | None = None


@final
@dataclass(frozen=True)
class Demonstration:
    """An answer to imitate."""

    prompt: Prompt
    response: Response
    weight: float | None = None


@final
@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt tokens; `target` = P(chosen is preferred), absent: 1."""

    prompt: Prompt
    chosen: Response
    rejected: Response
    score_chosen: float | None = None
    score_rejected: float | None = None
    target: float | None = None
    weight: float | None = None


@final
@dataclass(frozen=True)
class Labeled:
    """An answer that is desirable (True) or not."""

    prompt: Prompt
    response: Response
    label: bool
    weight: float | None = None


@final
@dataclass(frozen=True)
class Scored:
    """An answer and its reward."""

    prompt: Prompt
    response: Response
    score: float
    weight: float | None = None


@final
@dataclass(frozen=True)
class StepResponse:
    """What one model of a pipeline read and wrote; `actor` numbers the model from 0."""

    actor: int
    prompt: Prompt
    response: Response


@final
@dataclass(frozen=True)
class StepPair:
    """Two runs of a pipeline of models from the same prompt; `target` = P(chosen is preferred), absent: 1."""

    chosen: tuple[StepResponse, ...]
    rejected: tuple[StepResponse, ...]
    score_chosen: float | None = None
    score_rejected: float | None = None
    target: float | None = None
    weight: float | None = None

    @property
    def prompt(self) -> Prompt:
        """What the first step reads."""
        return self.chosen[0].prompt


RowExample: TypeAlias = Demonstration | Labeled | Scored
Example: TypeAlias = RowExample | Pair | StepPair | Prompt


@final
@dataclass(frozen=True)
class Limits:
    """Longest row and longest prompt, in tokens; None: no limit. Prompts lose their beginning, responses their end."""

    max_tokens: int | None = None
    max_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 2), ("max_prompt_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be ≥ {least}, got {value}")


NO_LIMITS = Limits()


def tokenize(
    rows: Iterable[Row], *, kind: Kind, encoder: Encoder, tally: Tally, limits: Limits = NO_LIMITS
) -> Iterator[Example]:
    """The rows as token examples of one kind, numbered from 0; rows that cannot be used are tallied and left out."""
    number = 0
    for row in rows:
        try:
            example, changes = _example(row, number=number, kind=kind, encoder=encoder, limits=limits)
        except BadRow as problem:
            tally.drop(row.where, problem)
            continue
        for change in changes:
            tally.change(row.where, change)
        number += 1
        yield example


def _example(row: Row, *, number: int, kind: Kind, encoder: Encoder, limits: Limits) -> tuple[Example, list[Any]]:
    """The example, and what was changed on the way."""
    if kind == "pairs" and isinstance(row.responses[0], Steps):
        return _step_pair(row, number=number, encoder=encoder, limits=limits)
    encoded = boundary.prompt(encoder, row.prompt)
    tokens = cut_prompt(encoded.ids, keep=len(encoder.bos), limits=limits)
    prompt = Prompt(number, _shared(tokens), encoded.text, row.columns if kind == "prompts" else {}, row.where)
    answers = () if kind == "prompts" else _of_one_model(row)
    changes: list[Any] = []
    if tokens != encoded.ids:
        changes.append("prompt cut")
    told = [answer.messages if isinstance(answer, Turns) else answer for answer in answers]
    if any(names_control(encoder, text) for text in (row.prompt, *told)):
        changes.append("special-token text read as text")
    if limits.max_tokens is not None and len(tokens) >= limits.max_tokens:
        raise BadRow(
            "empty response after truncation",
            f"the prompt alone has {len(tokens)} tokens of max_tokens {limits.max_tokens}; give --max-prompt-tokens",
        )
    responses, moved = _responses(encoder, answers, to=row.prompt, after=encoded, taken=len(tokens), limits=limits)
    if moved:
        changes.append("boundary moved")
    if any(response.finish == "length" for response in responses):
        changes.append("response cut")
    return _of_kind(kind, row, prompt, responses), changes


def _of_one_model(row: Row) -> tuple[Text | Turns, ...]:
    return tuple(answer for answer in row.responses if not isinstance(answer, Steps))


def _step_pair(row: Row, *, number: int, encoder: Encoder, limits: Limits) -> tuple[Example, list[Any]]:
    """The two runs, each step as a demonstration of its own, and what was changed on the way."""
    changes: list[Any] = []

    def encoded(step: Step) -> StepResponse:
        alone = Row(row.where, step.prompt, (step.answer,))
        made, changed = _example(alone, number=number, kind="demos", encoder=encoder, limits=limits)
        assert isinstance(made, Demonstration)  # as asked for
        changes.extend(change for change in changed if change not in changes)
        return StepResponse(step.actor, made.prompt, made.response)

    chosen, rejected = (tuple(map(encoded, run.steps)) for run in row.responses if isinstance(run, Steps))
    if chosen == rejected:
        raise BadRow("identical after truncation", "chosen and rejected have the same tokens")
    better, worse = row.scores or (None, None)
    return StepPair(chosen, rejected, better, worse, row.target, row.weight), changes


def _responses(
    encoder: Encoder, answers: tuple[Text | Turns, ...], *, to: Text, after: Encoded, taken: int, limits: Limits
) -> tuple[list[Response], bool]:
    found, any_moved = [], False
    room = None if limits.max_tokens is None else limits.max_tokens - taken
    for answer in answers:
        if isinstance(answer, Turns):
            ids, trainable, moved = turns(encoder, answer, after=after, to=to)
            response = cut_response(ids, room=room)
            ended = response.finish if ids[-1] == encoder.eos else "length"
            response = Response(response.tokens, ended, trainable[: len(response.tokens)])
        else:
            ids, moved = boundary.response(encoder, answer, after=after, to=to)
            response = cut_response(ids, room=room)
        any_moved |= moved
        found.append(response)
    return found, any_moved


def cut_prompt(ids: tuple[int, ...], *, keep: int, limits: Limits) -> tuple[int, ...]:
    """The first `keep` ids (BOS) and as many of the last ones as fit into max_prompt_tokens."""
    most = limits.max_prompt_tokens
    if most is None or len(ids) <= most:
        return ids
    tail = max(most - keep, 0)
    return ids[: min(keep, most)] + ids[len(ids) - tail :]


def cut_response(ids: tuple[int, ...], *, room: int | None) -> Response:
    """The response as it is, or its first `room` tokens: then it has no end token and is not finished."""
    if room is None or len(ids) <= room:
        return Response(_shared(ids), "stop")
    return Response(_shared(ids[:room]), "length")


def _of_kind(kind: Kind, row: Row, prompt: Prompt, responses: list[Response]) -> Example:
    match kind:
        case "prompts":
            return prompt
        case "pairs":
            chosen, rejected = responses
            if chosen.tokens == rejected.tokens:
                raise BadRow("identical after truncation", "chosen and rejected have the same tokens")
            better, worse = row.scores or (None, None)
            return Pair(prompt, chosen, rejected, better, worse, row.target, row.weight)
        case "demos":
            return Demonstration(prompt, responses[0], row.weight)
        case "labels":
            assert row.label is not None
            return Labeled(prompt, responses[0], row.label, row.weight)
        case "scores":
            assert row.scores is not None
            return Scored(prompt, responses[0], row.scores[0], row.weight)


_INTS: dict[int, int] = {}


def _shared(ids: tuple[int, ...]) -> tuple[int, ...]:
    """The same ids as objects held once: 8 bytes a token instead of 36 on data of millions of tokens."""
    return tuple(_INTS.setdefault(token, token) for token in ids)
