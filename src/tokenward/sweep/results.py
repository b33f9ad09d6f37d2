"""The results of a sweep: one record per job in results.jsonl, and means over seeds and prompts with intervals.

A record: `job`, `method`, `point` (place in the grid), `seed`, `recipe`, `settings`, `status` ("done", "failed" or
"open"), `error` (the last line a failed job said), `heldout` and `training`. `heldout` holds equally long lists, place
by place one prompt: `prompt` (its id), `reward`, `kl` (nats, to the model that the run began with), `length` (tokens)
and `cut` (share at the limit), each a mean over the prompt's texts, and `by`, where the file asks for it. `training`
holds lists, place by place one batch of the run: `update`, and where logged `reward`, `kl`, `length`, `ratio_max`,
`kl_old`, `entropy`, `value_explained`; besides, the run's `seconds`. `reward` and `length` are of sampled texts: a run
that learns from a file has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.measures.intervals import copies_drawn
from tokenward.errors import InputError
from tokenward.runlog import write_text
from tokenward.sweep.job import training
from tokenward.sweep.plan import Job

Record = dict[str, Any]
Status = Literal["done", "failed", "open"]
NUMBERS = ("reward", "kl", "length")
DRAWS, LEVEL = 2000, 0.95


@final
@dataclass(frozen=True)
class Row:
    """One method at one place of the grid (and one group of prompts): means over its seeds and prompts."""

    label: str
    method: str
    group: str | None
    seeds: int
    reward: Interval
    kl: Interval
    length: Interval


def record(job: Job, folder: Path, *, status: Status, error: str | None) -> Record:
    """The record of a job from its folder."""
    found: Record = {**asdict(job), "status": status, "error": error}
    found["job"] = found.pop("name")
    measured = folder / "measured.json"
    found["heldout"] = json.loads(measured.read_text(encoding="utf-8")) if status == "done" else None
    found["training"] = training(folder / "run")
    return found


def write(records: Sequence[Record], path: Path) -> None:
    """All records as JSON lines; the file is replaced as a whole."""
    write_text(path, "".join(json.dumps(one) + "\n" for one in records))


def read(path: str | Path) -> list[Record]:
    """The records of a results.jsonl."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines: {error}") from error


def rows(records: Sequence[Record]) -> list[Row]:
    """A row for each method and place in the grid, in the order of the jobs; one for each group besides, where told."""
    found: list[Row] = []
    for name, same in by_label(records).items():
        groups = list(dict.fromkeys(same[0]["heldout"].get("by", [])))
        for group in [None, *groups]:
            numbers = {key: interval(table(same, key, group=group)) for key in NUMBERS}
            found.append(Row(name, same[0]["method"], group, len(same), **numbers))
    return found


def by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The finished records by method and place in the grid: those of one list differ by their seed."""
    found: dict[str, list[Record]] = {}
    for one in records:
        if one["status"] == "done":
            found.setdefault(label(one), []).append(one)
    return found


def label(record: Mapping[str, Any]) -> str:
    """Method and place in the grid."""
    return " ".join([record["method"], *(f"{key}={value}" for key, value in record["point"].items())])


def table(same: Sequence[Record], number: str, *, group: str | None = None) -> Float[Tensor, "S N"]:
    """A number of `heldout` by seed and prompt, in the same order of prompts; of the prompts of one group, if named."""
    first = same[0]["heldout"]
    if any(one["heldout"]["prompt"] != first["prompt"] for one in same):
        raise InputError(f"{label(same[0])}: its runs were measured on different prompts")
    whole = torch.tensor([one["heldout"][number] for one in same], dtype=torch.float64)
    if group is None:
        return whole
    return whole[:, torch.tensor([name == group for name in first["by"]])]


def interval(
    values: Float[Tensor, "S N"], *, statistic: Callable[[Tensor], Tensor] | None = None, seed: int = 0
) -> Interval:
    """The mean over S seeds and N prompts, with a percentile bootstrap that draws both again, each with replacement.

    `statistic` maps means [D] to numbers [D], for example a square root. Few seeds make it too narrow: with one, it
    tells of the prompts alone; with three, percentile intervals are known to cover less than they say.

    >>> print(interval(torch.tensor([[1.0, 3.0], [1.0, 3.0]]).double()))
    2.000 (1.000 to 3.000)
    """
    shape = statistic or (lambda means: means)
    drawn = shape(torch.einsum("ds,sn,dn->d", *_weights(values, seed)))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = drawn.quantile(tails).tolist()
    return Interval(float(shape(values.mean().reshape(1))), low, high)


def difference(one: Sequence[Record], two: Sequence[Record], number: str = "reward") -> Interval:
    """The mean of `one` − `two` over the seeds and prompts that both have, paired by both."""
    shared = {r["seed"] for r in one} & {r["seed"] for r in two}
    parts = [table([r for r in side if r["seed"] in shared], number) for side in (one, two)] if shared else []
    if not parts or parts[0].shape != parts[1].shape:
        raise InputError(f"{label(one[0])} and {label(two[0])}: no seeds and prompts that both were measured on")
    return interval(parts[0] - parts[1])


def _weights(values: Float[Tensor, "S N"], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Share of each seed and of each prompt in each bootstrap draw, with the values between them."""
    random = torch.Generator().manual_seed(seed)
    shares = []
    for count in values.shape:
        shares.append(copies_drawn(count, draws=DRAWS, random=random)[1:] / count)
    return shares[0], values, shares[1]


def text(found: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    names = [row.label + (f" [{row.group}]" if row.group else "") for row in found]
    width = max(map(len, ["method", *names]))
    lines = [f"{'method':<{width}}  {'seeds':>5}  {'reward':<26}{'KL (nats)':<26}tokens"]
    for name, row in zip(names, found, strict=True):
        cells = f"{row.reward!s:<26}{row.kl!s:<26}{row.length.value:.1f}"
        lines.append(f"{name:<{width}}  {row.seeds:>5}  {cells}")
    return "\n".join(lines)
