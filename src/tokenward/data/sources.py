"""Batches from a data file in an order that a seed decides, with a cursor that a checkpoint can keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, final

from tokenward.data.collate import pairs_batch, rows_batch
from tokenward.data.dataset import Dataset
from tokenward.data.tokenize import Demonstration, Example, Labeled, Pair, Prompt, Scored, StepPair
from tokenward.data.units import steps_batch
from tokenward.errors import InputError
from tokenward.types import Batch

Order = Literal["shuffle", "file"]


@lru_cache(maxsize=4)
def shuffled(count: int, *, seed: int, number: int) -> tuple[int, ...]:
    """The order of 0 … count−1 in pass `number`: sorted by a hash of (seed, pass, index), so the same everywhere."""

    def key(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{number}/{index}".encode(), digest_size=16).digest()

    return tuple(sorted(range(count), key=key))


@final
class Cursor:
    """Which rows come next: `per_update` at a time, every row once per pass, passes without end.

    The last rows of a pass are a shorter update of their own; fewer than `least` of them join the update before.
    """

    def __init__(self, count: int, *, per_update: int, order: Order, seed: int, least: int = 1) -> None:
        if count < least:
            raise InputError(f"the data have {count} usable rows, an update needs at least {least}")
        if per_update < least:
            raise InputError(f"rows_per_update must be ≥ {least} here, got {per_update}")
        self.count, self.per_update, self.order, self.seed, self.least = count, per_update, order, seed, least
        self.number = 0  # of the pass
        self.place = 0  # rows of this pass already given

    @property
    def updates_per_pass(self) -> int:
        whole, rest = divmod(self.count, self.per_update)
        return whole + (rest >= self.least)

    def next(self) -> tuple[int, ...]:
        """Indices of the rows of the next update."""
        if self.place == self.count:
            self.number, self.place = self.number + 1, 0
        left = self.count - self.place
        taken = min(self.per_update, left)
        if left - taken < self.least:
            taken = left
        places = range(self.place, self.place + taken)
        self.place += taken
        if self.order == "file":
            return tuple(places)
        order = shuffled(self.count, seed=self.seed, number=self.number)
        return tuple(order[place] for place in places)

    def state(self) -> dict[str, int]:
        return {"pass": self.number, "place": self.place}

    def load_state(self, state: dict[str, Any]) -> None:
        number, place = int(state["pass"]), int(state["place"])
        if number < 0 or not 0 <= place <= self.count:
            raise InputError(f"the saved position is row {place} of pass {number}, but the data have {self.count} rows")
        self.number, self.place = number, place


@final
class OfflineSource:
    """Batches of `rows_per_update` units (pairs, or single rows) of a data set, pass after pass, without end.

    `probes` "mismatched" adds KTO's mismatched answers; an update then has at least two rows. `max_tokens` cuts them.
    `state()` holds the cursor and what it is a cursor of: other data, another order or seed are refused on loading.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        rows_per_update: int,
        order: Order = "shuffle",
        seed: int = 0,
        probes: Literal["none", "mismatched"] = "none",
        max_tokens: int | None = None,
    ) -> None:
        kinds = {type(example) for example in data.examples}
        if Prompt in kinds:
            raise InputError(f"{data.source} holds prompts without answers: there is nothing to compute a loss on")
        self.data, self.probes, self.max_tokens = data, probes, max_tokens
        least = 2 if probes == "mismatched" else 1
        self.cursor = Cursor(len(data.examples), per_update=rows_per_update, order=order, seed=seed, least=least)

    @property
    def updates_per_pass(self) -> int:
        return self.cursor.updates_per_pass

    def next(self) -> Batch:
        """The batch of the next update."""
        return self._collate([self.data.examples[index] for index in self.cursor.next()])

    def every_row(self) -> Iterator[Batch]:
        """All rows once, in file order and without probes: for what is computed before training."""
        per = self.cursor.per_update
        for start in range(0, len(self.data.examples), per):
            yield _batch(self.data.examples[start : start + per], pad_id=self.data.encoder.pad)

    def update(self, policy: object) -> None:
        """Nothing: a file does not change with the policy (a sampler does)."""

    def metrics(self) -> dict[str, float]:
        """Passes over the data so far."""
        return {"epoch": self.cursor.number + self.cursor.place / self.cursor.count}

    def where(self, group: int) -> str:
        """The place in the file (`file:line`) of the rows with this number in `Batch.group`."""
        example = self.data.examples[group]
        return example.where if isinstance(example, Prompt) else example.prompt.where

    def state(self) -> dict[str, Any]:
        return self.cursor.state() | self._identity()

    def load_state(self, state: dict[str, Any]) -> None:
        for name, value in self._identity().items():
            if state[name] != value:
                raise InputError(
                    f"{self.data.source}: the saved position is of {name} {state[name]}, now it is {value}: "
                    "a run goes on with the same data and settings only"
                )
        self.cursor.load_state(state)

    def _identity(self) -> dict[str, Any]:
        """What an order of rows depends on."""
        c = self.cursor
        return {
            "data_hash": self.data.data_hash,
            "rows": c.count,
            "rows_per_update": c.per_update,
            "order": c.order,
            "seed": c.seed,
        }

    def _collate(self, examples: Sequence[Example]) -> Batch:
        return _batch(examples, pad_id=self.data.encoder.pad, probes=self.probes, max_tokens=self.max_tokens)


def _batch(
    examples: Sequence[Example],
    *,
    pad_id: int,
    probes: Literal["none", "mismatched"] = "none",
    max_tokens: int | None = None,
) -> Batch:
    runs = [e for e in examples if isinstance(e, StepPair)]
    if runs:
        return steps_batch(runs, pad_id=pad_id)
    pairs = [e for e in examples if isinstance(e, Pair)]
    if pairs:
        return pairs_batch(pairs, pad_id=pad_id)
    rows = [e for e in examples if isinstance(e, Demonstration | Labeled | Scored)]
    return rows_batch(rows, pad_id=pad_id, probes=probes, max_tokens=max_tokens)
