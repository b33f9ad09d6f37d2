"""`tokenward diagnose`: a policy against its reference and data, or the health of runs."""

from __future__ import annotations

from pathlib import Path

from tokenward.cli.words import call
from tokenward.errors import InputError, RunError
from tokenward.train.flags import keywords_help, read_words

USAGE = """\
tokenward diagnose --model M [--ref R] --data D --out DIR [flags]

What the reference R knows of the data D, how far the model M drifted from it, where the probability went, and whether
a fall of the chosen log-probs is expected or a sign of damage. Writes DIR/reference.json and DIR/reference.html. M may
be a run directory: R is then its reference. D: pairs, demonstrations, or prompts alone. Before training, give R as M.
--samples N fresh texts of both models on each of at most --prompts P prompts of D.
"""


def diagnose(words: list[str]) -> int:
    """tokenward diagnose."""
    from tokenward.cli.health import HEALTH_USAGE, health
    from tokenward.diagnose.reference.files import diagnose_files

    alone, flags = read_words(words)
    if "help" in flags:
        print(f"{USAGE}\n{keywords_help(diagnose_files, title='flags').partition(chr(10) * 2)[2]}\n\n{HEALTH_USAGE}")
        return 0
    if alone and "model" in flags:
        raise InputError(f"diagnose takes run directories, or --model M: got {' '.join(alone)} and --model")
    if alone:
        return health(alone, flags)
    if "model" not in flags:
        raise InputError("diagnose needs RUN_DIR…, or --model M --ref R --data D --out DIR")
    return _reference(flags)


def _reference(flags: dict[str, str]) -> int:
    """A policy against its reference and data."""
    from tokenward.diagnose.lens.request import claim
    from tokenward.diagnose.reference.files import diagnose_files, write_report
    from tokenward.report.reference_page import write_reference_page

    if "out" not in flags:
        raise InputError("diagnose --model needs out: give --out DIR")
    folder = Path(flags.pop("out"))
    new = not folder.exists()
    claim(folder, own=("reference.json", "reference.html"), by="diagnose --model")
    try:
        found = call(diagnose_files, [f"--{key}={value}" for key, value in flags.items()], of="diagnose")
    except (InputError, RunError):
        if new:
            folder.rmdir()  # what was refused leaves nothing behind
        raise
    print("\n".join(found.lines()))
    print(f"numbers: {write_report(found, folder)}\npage: {write_reference_page(found, folder)}")
    return 0
