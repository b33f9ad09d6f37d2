"""The figures of docs/: drawn by the studies that make them, never by hand.

`python scripts/figures.py` runs the studies that the pages name and writes docs/figures/STUDY-FIGURE.svg. A test holds
that every picture of a page is a figure of a study.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tokenward.cli import main as tokenward

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
TRAINED = {"language-model": "language_model", "reference-runs": "reference"}  # studies that train: their folders


def shown() -> set[str]:
    """The names of the figures that the pages of docs/ show, as STUDY-FIGURE."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    return set(re.findall(r"\(figures/([a-z_-]+)\.svg\)", pages))


def origin(name: str, studies: list[str]) -> tuple[str, str]:
    """Study and figure of a name: the longest study that it begins with.

    >>> origin("data-design-error", ["data-design", "shift"])
    ('data-design', 'error')
    """
    study = max((one for one in studies if name.startswith(f"{one}-")), key=len)
    return study, name.removeprefix(f"{study}-")


def main() -> int:
    """Run the studies named, and put their figures in place."""
    from tokenward.studies import STUDIES

    places = {name: origin(name, [*STUDIES, *TRAINED]) for name in sorted(shown())}
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for study in sorted({study for study, _ in places.values()}):
            if tokenward(["study", study, "--out", folder]):
                return 1
        for name, (study, figure) in places.items():
            text = (Path(folder) / study / f"{figure}.svg").read_text(encoding="utf-8")
            (FIGURES / f"{name}.svg").write_text(text, encoding="utf-8")
    print(f"{len(places)} figures in {FIGURES.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
