"""What is logged about the rewards of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from tokenward.types import Rollout


def logged(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """`reward/NAME` and `reward/NAME_std`: mean and standard deviation of each named part, over the rows that have it.

    Where there are token rewards: `reward/tokens`, their sum per row.
    """
    columns: dict[str, list[float]] = {}
    for rollout in rollouts:
        for name, value in (rollout.parts or {}).items():
            columns.setdefault(name, []).append(value)
    if any(rollout.rewards is not None for rollout in rollouts):
        columns["tokens"] = [sum(rollout.rewards or ()) for rollout in rollouts]
    found: dict[str, float] = {}
    for name, values in sorted(columns.items()):
        found |= {f"reward/{name}": fmean(values), f"reward/{name}_std": pstdev(values)}
    return found
