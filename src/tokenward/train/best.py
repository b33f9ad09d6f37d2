"""The best model of a run by its held-out prompts: looked at every so often, kept in best/."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tokenward.errors import InputError, RunError
from tokenward.folders import holds_model, replaced, settle
from tokenward.models.save import save_policy
from tokenward.runlog import write_json
from tokenward.train import directory
from tokenward.train.assemble import Run
from tokenward.train.journal import Journal
from tokenward.train.state import Place

FILE = "best.json"


def look(run: Run, place: Place, journal: Journal) -> None:
    """Evaluate where it is due and not done, tell, and keep the model where none before it was better.

    What was best before is read off the events: a run that goes on from a checkpoint looks as one without interruption.
    The model in best/ is replaced by better ones alone, also where the events have been taken back behind it.
    """
    held = run.heldout
    due = place.update % run.config.eval_every == 0 or place.update == run.total
    if held is None or not due or place.update in journal.watch.evaluated:
        return
    try:
        start = time.perf_counter()
        found = held.measure(run.roles)
        seconds = time.perf_counter() - start
    except (InputError, RunError) as error:
        if place.update == 0:
            raise
        directory.save(run, place)
        raise RunError(
            f"{error}; saved at update {place.update} of {run.total}: once that is mended, go on with: "
            f"tokenward train --resume {run.out}"
        ) from error
    before = journal.watch.told.values("eval/objective")
    best = found["eval/objective"] > max(before, default=float("-inf"))
    kept = stored(run.out)
    if best and (kept is None or found["eval/objective"] > kept["eval/objective"]):
        with replaced(run.out / "best") as folder:  # model, adapter and numbers change together
            save_policy(run.roles.policy, run.tokenizer, folder / "model")
            write_json(folder / FILE, {"update": place.update, **found})
    journal.say(_line(place.update, found, best=best))
    journal.held_out(place.update, {**found, "eval/best": float(best), "timing_s/eval": seconds})


def stored(out: Path) -> dict[str, Any] | None:
    """The update and the numbers of the model in best/; None where no whole model is.

    Where a kill came while best/ was replaced, what it held is put back first.
    """
    settle(out / "best")
    path = out / "best" / FILE
    if not path.is_file() or not holds_model(out / "best" / "model"):
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _line(update: int, found: dict[str, float], *, best: bool) -> str:
    words = [f"held-out at update {update}: reward {found['eval/reward']:.3g} ± {found['eval/reward_se']:.2g}"]
    words += [f"proxy {found['eval/proxy']:.3g}"] if "eval/proxy" in found else []
    words += [f"KL {found['eval/kl']:.3g}", f"{found['eval/length']:.1f} tokens"]
    return " · ".join([*words, *(["best so far"] if best else [])])
