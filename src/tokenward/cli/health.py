"""`tokenward diagnose RUN_DIR…`: the health of runs, printed and written to health.json."""

from __future__ import annotations

from pathlib import Path

from tokenward.cli.words import only

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

    for folder, found in zip(folders, run.health(folders), strict=True):
        print("\n".join(found.lines()))
        out = flags.get("out")
        path = Path(folder) / run.FILE if out is None else Path(out) / f"{found.run}.json"
        print(f"  {run.write(found, path)}")
    return 0
