"""Pairs of runs of a pipeline as a Batch: a row for each step, a unit for each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from tokenward.data.collate import column, complete, rows_batch
from tokenward.data.tokenize import Demonstration, StepPair
from tokenward.types import Batch


def steps_batch(pairs: Sequence[StepPair], *, pad_id: int) -> Batch:
    """The steps of both runs of each pair in order; a pair names the first row of either unit.

    `group` is the pair's number, so that all of its rows are one group; a unit's score stands at each of its rows.
    """
    runs = [run for pair in pairs for run in (pair.chosen, pair.rejected)]
    steps = [step for run in runs for step in run]
    batch = rows_batch([Demonstration(step.prompt, step.response) for step in steps], pad_id=pad_id)
    sizes = torch.tensor([len(run) for run in runs])
    starts = list(accumulate((len(run) for run in runs), initial=0))[:-1]
    scores = [score for pair in pairs for score in (pair.score_chosen, pair.score_rejected)]
    whole = complete(scores, what="runs of the pairs")
    return replace(
        batch,
        actor=torch.tensor([step.actor for step in steps])[:, None].expand(batch.tokens.shape).contiguous(),
        unit=torch.arange(len(runs)).repeat_interleave(sizes),
        score=None if whole is None else whole.repeat_interleave(sizes),
        pairs=torch.tensor(starts).view(-1, 2),
        pair_target=column([pair.target for pair in pairs], absent=1.0),
        pair_weight=column([pair.weight for pair in pairs], absent=1.0),
    )
