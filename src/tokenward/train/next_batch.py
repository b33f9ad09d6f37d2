"""The next batch of a run; where it cannot be had, what was learned before is saved first."""

from __future__ import annotations

from tokenward.errors import InputError, RunError
from tokenward.train import directory
from tokenward.train.assemble import Run
from tokenward.train.runtime import rng_state, set_rng_state
from tokenward.train.state import Place
from tokenward.types import Batch


def next_batch(run: Run, place: Place) -> Batch:
    """The source's next batch. When it fails (a reward that raises or takes too long) after the first update, a
    checkpoint is written as if it had not been asked for: resumed, the run asks for the same batch again.
    """
    before, (numbers, tensors) = run.source.state(), rng_state()
    try:
        return run.source.next()
    except (InputError, RunError) as error:
        if place.update == 0:
            raise  # nothing was learned yet
        run.source.load_state(before)
        set_rng_state(numbers, tensors)
        directory.save(run, place)
        raise RunError(
            f"{error}; saved at update {place.update} of {run.total}: once that is mended, go on with: "
            f"tokenward train --resume {run.out}"
        ) from error
