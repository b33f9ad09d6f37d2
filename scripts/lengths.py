"""Length limits of the house: files of 300 lines, functions of 50, recipes of 12 lines of code.

Run from anywhere: `python scripts/lengths.py [ROOT]`. Prints each line that is too long and exits 1 if there is any.
An exception needs its reason here; one that is no longer needed is an error too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES, RECIPE_LINES = 300, 50, 12

# "path" or "path:function" (below src/tokenward) -> why it may be longer
EXCEPTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(function: Function) -> int:
    """Lines of the body that hold code: docstring, comments and blank lines do not count."""
    body = function.body
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        body = body[1:]
    spans = (
        (node.lineno, node.end_lineno or node.lineno)
        for statement in body
        for node in ast.walk(statement)
        if hasattr(node, "lineno")
    )
    return len({line for start, end in spans for line in range(start, end + 1)})


def too_long(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """(what, how long against which limit) of one source file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield name, f"{lines} lines, limit {FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{name}:{node.name}", f"{length} lines, limit {FUNCTION_LINES}"
    if name.startswith("recipes/") and not name.endswith("__init__.py"):
        for node in tree.body:
            if isinstance(node, Function) and not node.name.startswith("_") and code_lines(node) > RECIPE_LINES:
                yield f"{name}:{node.name}", f"{code_lines(node)} lines of code, limit {RECIPE_LINES} for a recipe"


def main(root: Path) -> int:
    """Print what is too long below ROOT/src/tokenward; 1 if anything is."""
    package = root / "src" / "tokenward"
    found = {
        what: how
        for path in sorted(package.rglob("*.py"))
        for what, how in too_long(path, path.relative_to(package).as_posix())
    }
    complaints = [f"{what}: {how}" for what, how in found.items() if what not in EXCEPTIONS]
    complaints += [f"{what}: stands in EXCEPTIONS but is short enough" for what in EXCEPTIONS if what not in found]
    print("\n".join(complaints) or "lengths: every file, function and recipe is within its limit")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
