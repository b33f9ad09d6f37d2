"""Token examples and rollouts as a Batch, and a Batch as micro-batches.

Rows are padded on the right. What is trained on is known by position (every response token, the end token included),
never by the value of an id: the end token may be the padding or the BOS.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenward.data.tokenize import Labeled, Pair, Response, RowExample, Scored
from tokenward.errors import InputError
from tokenward.types import LENGTH, PROBE, STOP, Batch, Rollout

Scope = Literal["row", "pair", "group", "batch"]
_FINISH = {"stop": STOP, "length": LENGTH}


@final
@dataclass(frozen=True)
class _Line:
    """One row before padding."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    trainable: tuple[bool, ...]
    finish: int
    group: int


def pairs_batch(pairs: Sequence[Pair], *, pad_id: int) -> Batch:
    """Two rows per pair: chosen is row 2p, rejected row 2p + 1, and `pairs` says so. `group` is the prompt's id."""
    _not_empty(pairs)
    lines = [_line(p.prompt.tokens, r, group=p.prompt.id) for p in pairs for r in (p.chosen, p.rejected)]
    batch = _batch(lines, pad_id=pad_id)
    scores = [score for p in pairs for score in (p.score_chosen, p.score_rejected)]
    return replace(
        batch,
        pairs=torch.arange(2 * len(pairs)).view(-1, 2),
        pair_target=column([p.target for p in pairs], absent=1.0),
        pair_weight=column([p.weight for p in pairs], absent=1.0),
        score=complete(scores, what="answers of the pairs"),
    )


def rows_batch(
    rows: Sequence[RowExample],
    *,
    pad_id: int,
    probes: Literal["none", "mismatched"] = "none",
    max_tokens: int | None = None,
) -> Batch:
    """One row per example, with its label or score. `group` is the prompt's id.

    "mismatched" adds for each row its prompt with the answer to another prompt of the batch, cut to `max_tokens`: rows
    of weight 0 and origin PROBE at the end, the others have origin 0 (KTO's reference point, 2402.01306 §4.1).
    """
    _not_empty(rows)
    lines = [_line(row.prompt.tokens, row.response, group=row.prompt.id) for row in rows]
    weight = [1.0 if row.weight is None else row.weight for row in rows]
    source = list(rows)
    extra: dict[str, Tensor] = {}
    if probes == "mismatched":
        lines += _probes(rows, max_tokens=max_tokens)
        weight += [0.0] * len(rows)
        source += rows  # a probe's own label and score are never read; they must only be finite
        extra["origin"] = torch.tensor([0] * len(rows) + [PROBE] * len(rows))
    if all(isinstance(row, Labeled) for row in source):
        extra["label"] = torch.tensor([float(row.label) for row in source if isinstance(row, Labeled)])
    if all(isinstance(row, Scored) for row in source):
        extra["score"] = torch.tensor([row.score for row in source if isinstance(row, Scored)])
    return replace(_batch(lines, pad_id=pad_id), weight=torch.tensor(weight), **extra)  # type: ignore[arg-type]


def rollouts_batch(
    groups: Sequence[Sequence[Rollout]], *, pad_id: int, compared: Collection[tuple[int, int]] = ()
) -> Batch:
    """One row per rollout, whole groups one after another, with score, token rewards, sampler_logp, finish and version.

    `group` is the prompt's id; a prompt that comes a second time gets a number above all ids. `compared` names streams,
    (0, 0) or (0, 1): every two rows of a group that are of such two are a pair, the one with the higher score first (of
    equal or absent scores: the earlier one).
    """
    rollouts = [rollout for group in groups for rollout in group]
    _not_empty(rollouts)
    numbers = _group_numbers([group[0].prompt_id for group in groups if group])
    lines = [
        _Line(r.prompt_tokens, r.response_tokens, r.trainable, _FINISH[r.finish], number)
        for group, number in zip([g for g in groups if g], numbers, strict=True)
        for r in group
    ]
    batch = _batch(lines, pad_id=pad_id)
    sampler_logp = torch.zeros(batch.tokens.shape)
    for row, r in enumerate(rollouts):
        start = len(r.prompt_tokens)
        sampler_logp[row, start : start + len(r.logp)] = torch.tensor(r.logp)
    return replace(
        batch,
        score=complete([r.score for r in rollouts], what="rollouts"),
        sampler_logp=sampler_logp,
        reward=_token_rewards(rollouts, batch),
        version=torch.tensor([r.version for r in rollouts]),
        origin=torch.tensor([r.stream for r in rollouts]) if any(r.stream for r in rollouts) else None,
        pairs=_all_pairs(groups, compared) if compared else None,
    )


def _token_rewards(rollouts: Sequence[Rollout], batch: Batch) -> Float[Tensor, "B T"] | None:
    """The rewards given at tokens of the responses, 0 elsewhere; None where no rollout has any."""
    if all(r.rewards is None for r in rollouts):
        return None
    reward = torch.zeros(batch.tokens.shape)
    for row, r in enumerate(rollouts):
        if r.rewards is not None:
            start = len(r.prompt_tokens)
            reward[row, start : start + len(r.rewards)] = torch.tensor(r.rewards)
    return reward


def split(batch: Batch, *, max_tokens: int, scope: Scope) -> list[Int[Tensor, " R"]]:
    """Row indices of micro-batches: at most `max_tokens` tokens each, padding included, where the scope allows it.

    What must stay together (rows of a unit, or joined by `pairs`; a group; the whole batch) is never cut, so what is
    larger is a micro-batch of its own. Long units come first, which keeps padding small; the rows of one micro-batch
    stay in order. Every row is in exactly one, but for probes, which have no gradient.
    """
    length = batch.length.tolist()
    units = sorted(_units(batch, scope), key=lambda unit: -max(length[row] for row in unit))
    found: list[list[int]] = []
    widest = 0
    for unit in units:
        longest = max(length[row] for row in unit)
        if found and (len(found[-1]) + len(unit)) * max(widest, longest) <= max_tokens:
            found[-1] += unit
        else:
            found.append(list(unit))
            widest = 0
        widest = max(widest, longest)
    return [torch.tensor(sorted(rows)) for rows in found]


def _units(batch: Batch, scope: Scope) -> list[list[int]]:
    """Rows that may not be parted, probes left out."""
    probe = [False] * batch.rows if batch.origin is None else (batch.origin == PROBE).tolist()
    rows = [row for row in range(batch.rows) if not probe[row]]
    if scope == "batch":
        return [rows] if rows else []
    leader = list(range(batch.rows))  # of each row's unit: the first row of the unit

    def top(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    def join(one: int, two: int) -> None:
        low, high = sorted((top(one), top(two)))
        leader[high] = low

    if scope in ("pair", "group") and batch.pairs is not None:
        for one, two in batch.pairs.tolist():
            join(one, two)
    for names in (batch.unit, batch.group if scope == "group" else None):
        first: dict[int, int] = {}
        for row, name in enumerate([] if names is None else names.tolist()):
            join(row, first.setdefault(name, row))
    units: dict[int, list[int]] = {}
    for row in rows:
        units.setdefault(top(row), []).append(row)
    return list(units.values())


def _line(prompt: tuple[int, ...], response: Response, *, group: int) -> _Line:
    trainable = response.trainable or (True,) * len(response.tokens)
    return _Line(prompt, response.tokens, trainable, _FINISH[response.finish], group)


def _batch(lines: Sequence[_Line], *, pad_id: int) -> Batch:
    """Padded rows with mask, length, group, finish and weight 1."""
    length = torch.tensor([len(line.prompt) + len(line.response) for line in lines])
    tokens = torch.full((len(lines), int(length.max())), pad_id, dtype=torch.long)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, line in enumerate(lines):
        start, end = len(line.prompt), int(length[row])
        tokens[row, :end] = torch.tensor(line.prompt + line.response, dtype=torch.long)
        mask[row, start:end] = torch.tensor(line.trainable, dtype=torch.bool)
    several = any(not all(line.trainable) for line in lines)
    return Batch(
        tokens=tokens,
        length=length,
        mask=mask,
        group=torch.tensor([line.group for line in lines]),
        weight=torch.ones(len(lines)),
        segment=_turns(mask) if several else None,
        finish=torch.tensor([line.finish for line in lines]),
    )


def _turns(mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The turn of each position, from 0: a new one begins at a trainable token after one that is not."""
    begins = mask[:, 1:] & ~mask[:, :-1]
    return torch.nn.functional.pad(begins.cumsum(-1) - 1, (1, 0)).clamp(min=0)


def _probes(rows: Sequence[RowExample], *, max_tokens: int | None) -> list[_Line]:
    """Prompt i with the answer of the next row that has another prompt (of the next row, where all prompts agree)."""
    count = len(rows)
    if count < 2:
        raise InputError("a mismatched answer needs a second row: the batch has one; give --rows-per-update 2 or more")
    above = max(row.prompt.id for row in rows) + 1
    lines = []
    for i, row in enumerate(rows):
        others = [rows[(i + step) % count] for step in range(1, count)]
        tokens = row.prompt.tokens
        other = next((o for o in others if o.prompt.tokens != tokens), others[0]).response
        room = len(other.tokens) if max_tokens is None else max_tokens - len(tokens)
        whole = other.finish if room >= len(other.tokens) else "length"
        cut = Response(other.tokens[:room], whole, other.trainable[:room] if other.trainable else None)
        lines.append(_line(tokens, cut, group=above + i))
    return lines


def _group_numbers(ids: list[int]) -> list[int]:
    """The ids themselves; an id seen before is replaced by a number above all ids."""
    seen: set[int] = set()
    fresh = max(ids) + 1
    numbers = []
    for number in ids:
        if number in seen:
            number, fresh = fresh, fresh + 1
        seen.add(number)
        numbers.append(number)
    return numbers


def _all_pairs(groups: Iterable[Sequence[Rollout]], compared: Collection[tuple[int, int]]) -> Int[Tensor, "P 2"]:
    wanted = {frozenset(streams) for streams in compared}
    found: list[tuple[int, int]] = []
    start = 0
    for group in groups:
        for i, j in combinations(range(len(group)), 2):
            if {group[i].stream, group[j].stream} not in wanted:
                continue
            a, b = group[i].total, group[j].total
            swap = a is not None and b is not None and b > a
            found.append((start + j, start + i) if swap else (start + i, start + j))
        start += len(group)
    return torch.tensor(found, dtype=torch.long).view(-1, 2)


def column(values: list[float | None], *, absent: float) -> Tensor | None:
    """The numbers, or None where no row has one."""
    if all(value is None for value in values):
        return None
    return torch.tensor([absent if value is None else value for value in values])


def complete(values: list[float | None], *, what: str) -> Tensor | None:
    """The scores of all rows, or None where no row has one: 0 is a score, an absent one is not 0."""
    missing = sum(value is None for value in values)
    if missing == len(values):
        return None
    if missing:
        raise InputError(f"{missing} of {len(values)} {what} have no score: score all of them, or none")
    return torch.tensor([value for value in values if value is not None])


def _not_empty(rows: Sequence[Any]) -> None:
    if not rows:
        raise InputError("a batch needs at least one row")
