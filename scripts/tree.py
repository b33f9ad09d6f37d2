"""The README's map of the source: one line per file, taken from the files' own first lines.

`python scripts/tree.py` prints it, `--write` puts it into README.md between its markers. A test holds the two equal.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- tree: python scripts/tree.py --write -->", "<!-- end of tree -->"
FOLDERS = (
    "",
    "objective",
    "recipes",
    "lab",
    "data",
    "models",
    "rollout",
    "train",
    "search",
    "diagnose",
    "report",
)  # bottom to top


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)\]`])[.](?: |$)", line)[0].rstrip(".")


def tree() -> str:
    """The map, as a fenced block."""
    lines = ["```", "src/tokenward/"]
    for folder in FOLDERS:
        here = ROOT / "src" / "tokenward" / folder
        if folder:
            lines.append(f"  {folder}/")
        indent = "    " if folder else "  "
        lines += [
            f"{indent}{path.name:<{20 - len(indent)}}{first_sentence(path)}"
            for path in sorted(here.glob("*.py"))
            if folder == "recipes" or path.name != "__init__.py"
        ]
    return "\n".join([*lines, "```"])


def main(argv: list[str]) -> int:
    """Print or write the map."""
    if argv != ["--write"]:
        print(tree())
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    readme.write_text(f"{before}{START}\n{tree()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
