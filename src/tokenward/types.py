"""The four records everything is made of: Rollout, Batch, TokenStats, Signal.

`B` rows (completions) · `T` positions · `P` pairs. **Index t of every `[B T]` tensor speaks about token t**; the
shift by one of language models happens once, in `models/forward.py`. Log-probabilities and entropies are in nats.
A missing number is an absent field (None), never 0. Rows are padded on the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.masking import first, keep

PROBE = -1  # `origin` of rows that are only looked at (KTO's mismatched answers): weight 0, no gradient
STOP, LENGTH = 1, 0  # `finish`: ended by its end token, or cut at the limit

_SHAPES: dict[str, str] = {
    **dict.fromkeys(("tokens", "mask", "reward", "segment", "actor", "sampler_logp"), "B T"),
    **dict.fromkeys(("logp", "old_logp", "ref_logp", "guide_logp", "guide_ref_logp", "value", "old_value"), "B T"),
    **dict.fromkeys(("entropy", "kl_ref", "kl_old", "kl_of_old", "advantage", "returns"), "B T"),
    **dict.fromkeys(("length", "group", "unit", "weight", "score", "label", "origin", "finish", "version"), "B"),
    **dict.fromkeys(("normalizer", "group_size", "model_score", "point"), "B"),
    "pairs": "P 2",
    "pair_weight": "P",
    "pair_target": "P",
}


@dataclass(frozen=True)
class Rollout:
    """One sampled completion, as the sampler gives it.

    `logp[i]` is the log-probability of `response_tokens[i]` under the law it was really drawn from (temperature and
    kept set included). `trainable[i]` is False for tokens the model did not write. `finish` is "stop" when the end
    token was drawn. `version` counts the weight pushes the sampler had received. `parts` are numbers logged by name.
    `rewards[i]` is given at response token i (an environment's or a step's), besides the score; absent: none. `stream`
    is the number of the recipe's stream that asked for it.
    """

    prompt_id: int
    prompt_tokens: tuple[int, ...]
    response_tokens: tuple[int, ...]
    trainable: tuple[bool, ...]
    logp: tuple[float, ...]
    finish: Literal["stop", "length"]
    version: int = 0
    score: float | None = None
    parts: dict[str, float] | None = None
    rewards: tuple[float, ...] | None = None
    stream: int = 0

    def __post_init__(self) -> None:
        n = len(self.response_tokens)
        if not (len(self.trainable) == len(self.logp) == n):
            raise InputError(
                f"Rollout: {n} response tokens, {len(self.trainable)} trainable flags, {len(self.logp)} logp values; "
                "give one of each per token"
            )
        if self.rewards is not None and len(self.rewards) != n:
            raise InputError(f"Rollout: {n} response tokens and {len(self.rewards)} rewards; give one per token")

    @property
    def total(self) -> float | None:
        """The score and all token rewards; None where there is neither."""
        if self.rewards is None:
            return self.score
        return (self.score or 0.0) + math.fsum(self.rewards)


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, what is known about them, and which of them are compared.

    `mask` marks trainable positions · `group` numbers the prompt (rows of one prompt stand together) · `weight` is 1
    for samples and π(y) in the lab · `score` is the row's reward, `reward` token rewards (the score is added at the
    last trainable token) · `segment` numbers the spans of a row (sentences, turns, steps) from 0, in the order written
    · `label` 1 desirable, 0 not · `origin` the recipe's stream a row came from, absent: 0 (PROBE: looked at only)
    · `pairs` (winner row, loser row) with `pair_weight` and `pair_target` = P(first is preferred), absent: 1
    · `unit` numbers what is judged as one, absent: every row its own: rows of a unit (steps of a pipeline, each with a
    context of its own) have one pooled log-ratio, the sum of theirs; a pair names any one row of a unit · `actor` the
    model that wrote the token, from 0, the same at all trainable tokens of a row; absent: 0
    · `normalizer` β log Z of the row's prompt · `group_size` samples that a group stands for (absent: its rows;
    infinity in the lab) · `sampler_logp` under the law really sampled from · `finish` STOP or LENGTH
    · `version` of the sampling weights.
    """

    tokens: Int[Tensor, "B T"]
    length: Int[Tensor, " B"]
    mask: Bool[Tensor, "B T"]
    group: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    score: Float[Tensor, " B"] | None = None
    label: Float[Tensor, " B"] | None = None
    reward: Float[Tensor, "B T"] | None = None
    segment: Int[Tensor, "B T"] | None = None
    actor: Int[Tensor, "B T"] | None = None
    unit: Int[Tensor, " B"] | None = None
    origin: Int[Tensor, " B"] | None = None
    pairs: Int[Tensor, "P 2"] | None = None
    pair_weight: Float[Tensor, " P"] | None = None
    pair_target: Float[Tensor, " P"] | None = None
    normalizer: Float[Tensor, " B"] | None = None
    group_size: Float[Tensor, " B"] | None = None
    sampler_logp: Float[Tensor, "B T"] | None = None
    finish: Int[Tensor, " B"] | None = None
    version: Int[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        check_shapes(self)
        if self.pairs is not None and len(self.pairs) and int(self.pairs.max()) >= len(self.tokens):
            raise InputError(f"Batch: pairs name row {int(self.pairs.max())}, but there are {len(self.tokens)} rows")
        if self.actor is not None:
            _one_actor(self, self.actor)

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True)
class TokenStats:
    """What the models say about each token. Only what a recipe `needs` is present.

    `logp` (with gradient, like `value`) policy · `old_logp`, `old_value` the same when the batch was made · `ref_logp`
    reference · `guide_logp`, `guide_ref_logp` RTO's guide and its reference · `value[t]` = V(state before token t); a
    prompt's value is `value` at its first trainable position · `model_score [B]` a reward model's head after the last
    token · `entropy` of π at the state · over the whole vocabulary of the state: `kl_ref` = KL(π‖π_ref), `kl_old` =
    KL(π‖π_old), `kl_of_old` = KL(π_old‖π).
    """

    logp: Float[Tensor, "B T"] | None = None
    old_logp: Float[Tensor, "B T"] | None = None
    ref_logp: Float[Tensor, "B T"] | None = None
    guide_logp: Float[Tensor, "B T"] | None = None
    guide_ref_logp: Float[Tensor, "B T"] | None = None
    value: Float[Tensor, "B T"] | None = None
    old_value: Float[Tensor, "B T"] | None = None
    model_score: Float[Tensor, " B"] | None = None
    entropy: Float[Tensor, "B T"] | None = None
    kl_ref: Float[Tensor, "B T"] | None = None
    kl_old: Float[Tensor, "B T"] | None = None
    kl_of_old: Float[Tensor, "B T"] | None = None

    def __post_init__(self) -> None:
        check_shapes(self)

    def masked(self, mask: Bool[Tensor, "B T"]) -> TokenStats:
        """The same with 0 at every position outside the mask: the one place where padding is removed."""
        return masked(self, mask)


@dataclass(frozen=True)
class Signal:
    """What stage one makes of a batch, without gradient: token `reward`, `advantage`, `returns`; KTO's `point`."""

    reward: Float[Tensor, "B T"] | None = None
    advantage: Float[Tensor, "B T"] | None = None
    returns: Float[Tensor, "B T"] | None = None
    point: Float[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        check_shapes(self)


Record = TypeVar("Record", Batch, TokenStats, Signal)


def present(record: Batch | TokenStats | Signal) -> dict[str, Tensor]:
    """The fields that are not absent, by name."""
    return {f.name: v for f in fields(record) if (v := getattr(record, f.name)) is not None}


def masked(record: Record, mask: Bool[Tensor, "B T"]) -> Record:
    """The record with every floating `[B T]` field set to 0 outside the mask."""
    cut = {
        name: keep(value, mask)
        for name, value in present(record).items()
        if _SHAPES[name] == "B T" and value.is_floating_point()
    }
    return replace(record, **cut)


def stream_weight(batch: Batch, stream: int) -> Float[Tensor, " B"]:
    """The weight of the rows of one stream, 0 for all others."""
    if batch.origin is None:
        return batch.weight if stream == 0 else torch.zeros_like(batch.weight)
    return torch.where(batch.origin == stream, batch.weight, torch.zeros_like(batch.weight))


def pair_share(batch: Batch, streams: tuple[int, int]) -> Float[Tensor, " P"]:
    """The weight of the pairs between two streams (of one, where both are the same), 0 for all others."""
    if batch.pairs is None:
        raise InputError("Batch: pairs are absent: nothing is compared")
    weight = batch.pair_weight
    if weight is None:
        weight = torch.ones(len(batch.pairs), dtype=batch.weight.dtype, device=batch.weight.device)
    origin = torch.zeros_like(batch.group) if batch.origin is None else batch.origin
    ends = origin[batch.pairs].sort(-1).values
    here = (ends[:, 0] == min(streams)) & (ends[:, 1] == max(streams))
    return torch.where(here, weight, torch.zeros_like(weight))


def check_shapes(record: Batch | TokenStats | Signal) -> None:
    """Raise one line when two fields of a record disagree about B, T or P."""
    seen: dict[str, tuple[int, str]] = {"2": (2, "a pair")}
    for name, value in present(record).items():
        dims = _SHAPES[name].split()
        if value.ndim != len(dims):
            raise InputError(f"{type(record).__name__}.{name} must be [{_SHAPES[name]}], got shape {list(value.shape)}")
        for dim, size in zip(dims, value.shape, strict=True):
            want, owner = seen.setdefault(dim, (size, name))
            if size != want:
                raise InputError(
                    f"{type(record).__name__}.{name} is [{_SHAPES[name]}] with {dim} = {size}, "
                    f"but {owner} has {dim} = {want}"
                )


def actor_of(batch: Batch) -> Int[Tensor, " B"]:
    """The model that wrote each row: the actor of its first trainable token; 0 where the batch names none."""
    if batch.actor is None:
        return torch.zeros_like(batch.group)
    return batch.actor.gather(-1, first(batch.mask)[:, None]).squeeze(-1)


def _one_actor(batch: Batch, actor: Int[Tensor, "B T"]) -> None:
    """Raise one line when the trainable tokens of a row are not all one model's."""
    wrong = (batch.mask & ((actor != actor_of(batch)[:, None]) | (actor < 0))).any(-1)
    if bool(wrong.any()):
        row = int(wrong.to(torch.int8).argmax())
        found = ", ".join(map(str, sorted(set(actor[row][batch.mask[row]].tolist()))))
        raise InputError(f"Batch: row {row} has actors {found}: models have a row each, from actor 0, joined by unit")


def take(record: Record, rows: Int[Tensor, " R"], *, width: int) -> Record:
    """The given rows, cut to `width` positions; pairs are kept when both rows are, and renumbered.

    Lossless when `width` ≥ the longest of these rows.
    """
    old = present(record)
    new: dict[str, Tensor] = {}
    for name, value in old.items():
        if _SHAPES[name].startswith("B"):
            value = value[rows.to(value.device)]
            new[name] = value[:, :width] if _SHAPES[name] == "B T" else value
    if "pairs" in old:
        place = torch.full((int(old["tokens"].shape[0]),), -1, dtype=torch.long)
        place[rows.cpu()] = torch.arange(len(rows))
        pairs = place.to(old["pairs"].device)[old["pairs"]]
        kept = (pairs >= 0).all(-1)
        new["pairs"] = pairs[kept]
        new |= {name: old[name][kept] for name in ("pair_weight", "pair_target") if name in old}
    return replace(record, **new)
