"""`tokenward diagnose RUN_DIR…`: the health of runs, printed and written to health.json."""

from __future__ import annotations

from pathlib import Path

from tokenward.cli.words import only
from tokenward.errors import InputError

HEALTH_USAGE = """\
tokenward diagnose RUN_DIR… [--out DIR]

The health of on-policy runs, from events.jsonl alone: each check is ok, worth watching, bad, or not known, with a
sentence that says what it means and what to do; then what length explains of the gain, the fit of held-out reward over
√KL, and the best model, where the run was given --eval-data. Writes RUN_DIR/health.json (with --out: DIR/NAME.json).
"""


def health(folders: list[str], flags: dict[str, str]) -> int:
    """Print and write what is found; 0, whatever it is."""
    only(flags, ("out",), of="diagnose")
    from tokenward.diagnose.health import run

    out = flags.get("out")
    paths = [Path(one) / run.FILE if out is None else Path(out) / f"{Path(one).resolve().name}.json" for one in folders]
    for index, path in enumerate(paths):
        if out is not None and (first := paths.index(path)) < index:
            raise InputError(
                f"diagnose: {folders[first]} and {folders[index]} would both be written to {path}: leave --out out "
                "(each run then gets its own health.json), or ask for one at a time"
            )
    for found, path in zip(run.health(folders), paths, strict=True):
        print("\n".join(found.lines()))
        print(f"  {run.write(found, path)}")
    return 0
