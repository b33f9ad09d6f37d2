"""What `tokenward data check` and `tokenward data show` print: counts and lengths of a file, tokens of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from tokenward.data.dataset import Dataset
from tokenward.data.encode import Encoder
from tokenward.data.steps import ACTORS
from tokenward.data.tokenize import Example, Pair, Prompt, Response, RowExample, StepPair

RANKS = (0, 50, 90, 99, 100)  # percentiles of lengths


@final
@dataclass(frozen=True)
class Check:
    """What a file holds: `lengths` are percentiles in tokens, `first` the first lines of each reason.

    `verdict` is the line that refuses the file, None when it can be used.
    """

    source: str
    format: str
    kind: str
    rows: int
    usable: int
    dropped: dict[str, int]
    changed: dict[str, int]
    first: dict[str, list[str]]
    lengths: dict[str, dict[str, int]]
    data_hash: str
    verdict: str | None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def lines(self) -> list[str]:
        """The check as printed."""
        found = [f"{self.source}: {self.format} ({self.kind}), {self.rows} rows, {self.usable} usable"]
        for title, counts in (("dropped", self.dropped), ("changed", self.changed)):
            for reason, count in counts.items():
                found.append(f"{title:8} {count:6}  {reason}")
                found += [f"                  {line}" for line in self.first[reason]]
        if self.lengths:
            found.append("tokens    " + "".join(f"{'p' + str(rank):>8}" for rank in RANKS))
            for part, ranks in self.lengths.items():
                found.append(f"{part:10}" + "".join(f"{n:8}" for n in ranks.values()))
        found.append(f"sha256    {self.data_hash}")
        found.append(self.verdict or "usable")
        return found


def check(data: Dataset, *, max_dropped: float) -> Check:
    """Counts, reasons with their first lines, and lengths of a surveyed source."""
    lengths: dict[str, list[int]] = {"prompt": [], "response": [], "row": []}
    for example in data.examples:
        if isinstance(example, Prompt):
            lengths["prompt"].append(len(example.tokens))
            continue
        parts = _parts(example)
        read = parts if isinstance(example, StepPair) else parts[:1]  # the answers of a pair have one prompt
        lengths["prompt"] += [len(prompt.tokens) for _, prompt, _ in read]
        lengths["response"] += [len(response.tokens) for _, _, response in parts]
        lengths["row"] += [len(prompt.tokens) + len(response.tokens) for _, prompt, response in parts]
    tally = data.tally
    return Check(
        source=data.source,
        format=data.schema.name,
        kind=data.schema.kind,
        rows=tally.rows,
        usable=tally.kept,
        dropped=dict(tally.dropped.most_common()),
        changed=dict(tally.changed.most_common()),
        first=tally.first,
        lengths={part: percentiles(values) for part, values in lengths.items() if values},
        data_hash=data.data_hash,
        verdict=tally.verdict(max_dropped=max_dropped),
    )


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """The value at each rank: the smallest one that at least that share of the values does not exceed.

    >>> percentiles([1, 2, 3, 4])
    {'p0': 1, 'p50': 2, 'p90': 4, 'p99': 4, 'p100': 4}
    """
    ordered = sorted(values)
    return {f"p{rank}": ordered[max(-(-rank * len(ordered) // 100), 1) - 1] for rank in RANKS}


@final
@dataclass(frozen=True)
class ShownToken:
    """One position: its id, whether it is trained on, and the text that it adds to what stands before it."""

    position: int
    id: int
    trained: bool
    text: str


@final
@dataclass(frozen=True)
class ShownRow:
    """One row as training sees it; `role`: prompt, response, chosen or rejected, with its step; `note`: what else."""

    where: str
    role: str
    note: str
    tokens: tuple[ShownToken, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "role": self.role,
            "note": self.note,
            "ids": [t.id for t in self.tokens],
            "mask": [int(t.trained) for t in self.tokens],
            "text": [t.text for t in self.tokens],
        }

    def lines(self) -> list[str]:
        """One line per token, a rule where the model begins to write and where it ends."""
        found = [f"{self.where}  {self.role}  {self.note}".rstrip(), "    at      id  mask  text"]
        for before, token in zip((None, *self.tokens), self.tokens, strict=False):
            if before is not None and token.trained != before.trained:
                word = " response " if token.trained else " observation "
                found.append("    " + "─" * 12 + word + "─" * 12)
            found.append(f"{token.position:6}  {token.id:6}  {int(token.trained):4}  {printable(token.text)}")
        return found


def show(data: Dataset, index: int) -> list[ShownRow]:
    """The rows of example `index`: one, two for a pair, one a step of a pipeline; ids and masks are the batch's."""
    example = data.examples[index]
    if isinstance(example, Prompt):
        return [ShownRow(example.where, "prompt", "", show_tokens(data.encoder, example.tokens, ()))]
    return [
        ShownRow(
            prompt.where,
            role,
            _note(example, response),
            show_tokens(data.encoder, prompt.tokens, response.tokens, response.trainable),
        )
        for role, prompt, response in _parts(example)
    ]


def show_tokens(
    encoder: Encoder,
    prompt: tuple[int, ...],
    response: tuple[int, ...],
    trainable: tuple[bool, ...] | None = None,
) -> tuple[ShownToken, ...]:
    """Each token with the text it adds; control tokens by their names. `trainable` of the response, absent: all."""
    ids = prompt + response
    trained = (False,) * len(prompt) + (trainable or (True,) * len(response))
    texts = _added_texts(encoder.tokenizer, ids, control=encoder.control)
    rows = zip(ids, trained, texts, strict=True)
    return tuple(ShownToken(t, i, on, text) for t, (i, on, text) in enumerate(rows))


def _added_texts(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], *, control: frozenset[int]) -> list[str]:
    """What each id adds to the decoded text; a byte of a character not yet whole adds nothing until its last one."""
    texts: list[str] = []
    start, before = 0, ""
    for place, token in enumerate(ids):
        if token in control:
            texts.append(str(tokenizer.convert_ids_to_tokens(token)))
            start, before = place + 1, ""
            continue
        after = str(tokenizer.decode(ids[start : place + 1], skip_special_tokens=False))
        whole = not after.endswith("\ufffd")
        texts.append(after[len(before) :] if whole else "")
        before = after if whole else before
    return texts


def printable(text: str) -> str:
    """The text between quotes with everything escaped that a terminal would act on."""
    return (
        '"' + "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text) + '"'
    )


def _parts(example: RowExample | Pair | StepPair) -> list[tuple[str, Prompt, Response]]:
    """(role, prompt, response) of each row."""
    if isinstance(example, Pair):
        return [("chosen", example.prompt, example.chosen), ("rejected", example.prompt, example.rejected)]
    if isinstance(example, StepPair):
        runs = (("chosen", example.chosen), ("rejected", example.rejected))
        return [
            (f"{side}, step {place} ({ACTORS[step.actor]})", step.prompt, step.response)
            for side, run in runs
            for place, step in enumerate(run, start=1)
        ]
    return [("response", example.prompt, example.response)]


def _note(example: Example, response: Response) -> str:
    known = {
        name: getattr(example, name, None)
        for name in ("label", "score", "score_chosen", "score_rejected", "target", "weight")
    }
    words = [f"{name}={value}" for name, value in known.items() if value is not None]
    if response.trainable is not None:
        spoken = [wrote for wrote, _ in groupby(response.trainable)]
        seen = response.trainable.count(False)
        words.append(f"{spoken.count(True)} turns, {seen} tokens of observations")
    return "  ".join([*words, *(["cut at the limit, no end token"] if response.finish == "length" else [])])
