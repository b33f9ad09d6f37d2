"""The generated parts of README.md and docs/: the table of methods, the map of the source, the formats of data.

`python scripts/readme.py` prints them, `--write` puts them between their markers. A test holds the two equal.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from tokenward.data.formats import schema_table
from tokenward.lab.verify import optimum_name, predicted
from tokenward.lab.worlds.world import default_world
from tokenward.objective.bibliography import reference
from tokenward.recipes import build
from tokenward.recipes.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "",
    "objective",
    "objective/signal",
    "objective/advice",
    "objective/health",
    "recipes",
    "lab",
    "lab/worlds",
    "lab/optima",
    "lab/solving",
    "lab/rates",
    "lab/theory",
    "data",
    "models",
    "environments",
    "rollout",
    "rollout/rewards",
    "train",
    "search",
    "diagnose",
    "diagnose/data",
    "diagnose/lens",
    "diagnose/measures",
    "diagnose/reference",
    "diagnose/truth",
    "diagnose/health",
    "studies",
    "report",
    "report/lens",
    "demo",
    "sweep",
    "trained",
    "trained/language_model",
    "trained/agents",
    "trained/credit",
    "trained/reasoning",
    "trained/reference",
    "trained/search",
    "trained/pipeline",
    "cli",
)  # bottom to top
SPEAKING = ("recipes", "studies", "cli", "objective/advice", "rollout/rewards")  # their __init__ holds code of its own


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)\]`])(?<!et al)[.](?: |$)", line)[0].rstrip(".")


def tree() -> str:
    """The map, as a fenced block."""
    lines = ["```", "src/tokenward/"]
    for folder in FOLDERS:
        here = ROOT / "src" / "tokenward" / folder
        if folder:
            lines.append(f"{'  ' * (1 + folder.count('/'))}{folder.rpartition('/')[2]}/")
        indent = "  " * (1 + bool(folder) + folder.count("/"))
        lines += [
            f"{indent}{path.name:<{26 - len(indent)}}{first_sentence(path)}"
            for path in sorted(here.glob("*.py"))
            if folder in SPEAKING or path.name != "__init__.py"
        ]
    return "\n".join([*lines, "```"])


def recipes() -> str:
    """The table of methods: what each learns from, its scenario, and the optimum that the lab predicts and reaches."""
    head = ("recipe", "tier", "learns from", "scenario", "optimum", "shares π^τ", "source")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in predicted(list(CATALOG), default_world()).items():
        recipe, method = build(name), CATALOG[name]
        kinds = ", ".join(dict.fromkeys(stream.kind for stream in recipe.streams))
        cells = (f"`{name}`", method.tier, kinds, recipe.scenario or "–", optimum_name(found))
        cells += ("yes" if found.shares else "", reference(recipe.sources[0]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BLOCKS = {"README.md": {"recipes": recipes, "tree": tree}, "docs/training.md": {"schemas": schema_table}}


def renewed(name_of_file: str) -> str:
    """A page with its generated blocks made anew."""
    text = (ROOT / name_of_file).read_text(encoding="utf-8")
    for name, make in BLOCKS[name_of_file].items():
        start, end = f"<!-- {name}: python scripts/readme.py --write -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def main(argv: list[str]) -> int:
    """Print the blocks, or write them into their pages."""
    for page, blocks in BLOCKS.items():
        if argv == ["--write"]:
            (ROOT / page).write_text(renewed(page), encoding="utf-8")
        else:
            print("\n\n".join(make() for make in blocks.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
