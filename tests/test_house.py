"""The house's own tools: length limits, the planted faults, and what must not stand in the source."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
import tomllib
from pathlib import Path

import pytest

import figures
import lengths
import mutate
import readme
from faults import FAULTS, Fault
from tests.conftest import SOLVES
from tests.places import ROOT
from tokenward import recipes
from tokenward.studies import STUDIES

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def package(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / "src" / "tokenward" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def function(lines: int) -> str:
    return (
        "def f():\n"
        + '    """One.\n\n    Two.\n    """\n'
        + "    x = (\n        1\n    )  # why\n\n"
        + "    x += 1\n" * lines
    )


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.py": "x = 1\n" * 301}, "a.py: 301 lines, limit 300"),
        ({"a.py": function(42)}, "a.py:f: 51 lines, limit 50"),
        ({"recipes/a.py": function(10)}, "recipes/a.py:f: 13 lines of code, limit 12 for a recipe"),
    ],
)
def test_what_is_too_long_is_named(tmp_path, capsys, files, complaint):
    assert lengths.main(package(tmp_path, files)) == 1
    assert capsys.readouterr().out.strip() == complaint


def test_what_just_fits_is_let_through(tmp_path, capsys):
    fits = {
        "a.py": "x = 1\n" * 300,
        "b.py": function(41),
        "recipes/a.py": function(9),
        "recipes/__init__.py": function(20),
    }
    assert lengths.main(package(tmp_path, fits)) == 0


def test_an_exception_is_taken_only_while_it_is_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lengths, "EXCEPTIONS", {"a.py": "a table"})
    assert lengths.main(package(tmp_path, {"a.py": "x = 1\n" * 301})) == 0
    assert lengths.main(package(tmp_path, {"a.py": "x = 1\n"})) == 1
    assert "a.py: stands in EXCEPTIONS but is short enough" in capsys.readouterr().out


@functools.cache
def fast(named: str) -> list[str]:
    """The tests of a file, a folder or `file::test` that are not slow as a whole; of a source file, its examples."""
    place, _, name = named.partition("::")
    path = ROOT / place
    if place.startswith("src/"):
        return re.findall(r">>> .*", path.read_text(encoding="utf-8"))
    files = [path] if place.endswith(".py") else sorted(path.rglob("test_*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    tests = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    quick = [test.name for test in tests if "pytest.mark.slow" not in map(ast.unparse, test.decorator_list)]
    return [test for test in quick if name in ("", test)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.breaks)
def test_every_planted_fault_still_has_its_place(fault):
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new
    assert fault.tests and [test for test in fault.tests if not fast(test)] == []  # mutate.py leaves slow ones out


def test_planted_faults_are_told_apart_by_what_they_break():
    assert len({fault.breaks for fault in FAULTS}) == len(FAULTS) >= 20


@pytest.mark.parametrize(
    ("new", "outcome", "why"),
    [
        ("a - b", "found", "test_add.py::test_add"),
        ("b + a", "SURVIVED", "all named tests passed"),
        ("a + (", "UNCLEAR", "error"),
    ],
)
def test_mutation_tells_found_survived_and_unclear(tmp_path, new, outcome, why):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "add.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "test_add.py").write_text("from add import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    verdict = mutate.judge(Fault("src/add.py", "a + b", new, "adding", ("test_add.py",)), tmp_path)
    assert (verdict.outcome, why in verdict.why) == (outcome, True), verdict
    assert (tmp_path / "src" / "add.py").read_text() == "def add(a, b):\n    return a + b\n"


def test_a_fault_without_its_place_is_unclear(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    assert mutate.judge(Fault("a.py", "x = 1", "x = 2", "x", ()), tmp_path).outcome == "UNCLEAR"
    assert mutate.judge(Fault("b.py", "x = 1", "x = 2", "x", ()), tmp_path).why == "old text stands 0 times in b.py"


def test_modules_that_solve_with_shapes_unchecked_are_there():
    assert {file.stem for file in (ROOT / "tests").rglob("test_*.py")} >= SOLVES


@pytest.mark.parametrize(
    "word", [r"trust_remote_code\s*=\s*True", r"import pickle|pickle\.loads?\(", r"torch\.load\(", r"\byaml\.load\("]
)
def test_nothing_in_the_source_can_execute_data(word):
    assert [path.name for path in SOURCES if re.search(word, path.read_text(encoding="utf-8"))] == []


def test_the_constraints_hold_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert [name for name in asked if re.split("[<>=!~ ]", name)[0].lower() not in pinned] == []


@pytest.mark.parametrize("page", readme.BLOCKS)
def test_the_generated_parts_of_the_pages_are_current(page):
    assert (ROOT / page).read_text(encoding="utf-8") == readme.renewed(page), "run: python scripts/readme.py --write"


def test_the_readme_names_no_file_that_is_gone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    have = {path.name for folder in ("src", "tests", "scripts", "examples") for path in (ROOT / folder).rglob("*.py")}
    own = {"reward.py"}  # the reader's files in its examples
    assert sorted(set(re.findall(r"\b([a-z_0-9]+\.py)\b", text)) - have - own) == []


def test_every_picture_of_the_pages_is_a_figure_that_was_drawn():
    drawn = {path.stem for path in figures.FIGURES.glob("*.svg")}
    assert figures.shown() and figures.shown() == drawn, "run: python scripts/figures.py"
    for name in drawn:
        study, figure = figures.origin(name, [*STUDIES, *figures.TRAINED])
        own = figures.TRAINED.get(study)
        texts = (ROOT / "src" / "tokenward").glob(f"trained/{own}/*.py" if own else "studies/*.py")
        assert any(f'"{figure}"' in path.read_text(encoding="utf-8") for path in texts), name


def test_the_example_of_contributing_is_a_recipe(tmp_path):
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    (tmp_path / "mine.py").write_text(textwrap.dedent(code), encoding="utf-8")
    recipe = recipes.load(f"{tmp_path / 'mine.py'}:my_method")(beta=0.2)
    assert (recipe.name, recipe.needs) == ("my_method", {"logp", "ref_logp", "pairs"})
