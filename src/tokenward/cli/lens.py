"""What a model learned, token by token: `tokenward credit`."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from tokenward.cli.words import recipe_maker
from tokenward.errors import InputError
from tokenward.train.flags import keywords_help, read_words
from tokenward.train.settings import arguments

if TYPE_CHECKING:
    from tokenward.objective.recipe import Recipe

USAGE = """\
tokenward credit --model M --ref R --beta B --data D --out DIR [flags]
tokenward credit --model RUN_DIR --data D --out DIR [flags]
tokenward credit … --recipe NAME [its keywords as flags]
"""


def credit(words: list[str]) -> int:
    """tokenward credit: credit.jsonl, credit.json and credit.html into a directory."""
    alone, flags = read_words(words)
    from tokenward.diagnose.lens.request import Request

    if "help" in flags:
        print(USAGE)
        print(keywords_help(Request, title="flags"))
        print(f"  {'--recipe':<26}a recipe's name or file.py:function; its keywords are flags too")
        return 0
    if alone:
        raise InputError(f"credit takes flags only, got {' '.join(alone)}")
    from tokenward.diagnose.lens.record import credit as work
    from tokenward.report.lens.page import write_lens

    recipe = _recipe(flags)
    request = Request(**arguments(Request, flags, of="credit"))  # type: ignore[arg-type]
    found = work(request, recipe=recipe)
    page = found.folder / "credit.html"
    write_lens(found.folder / "credit.jsonl", page, title=f"credit of {request.model}", notes=found.notes)
    print("\n".join(found.notes), file=sys.stderr)
    print(page)
    return 0


def _recipe(flags: dict[str, Any]) -> Recipe | None:
    """The recipe that is asked for; its keywords leave the flags, but for beta, which credit reads as well.

    The recipe of the run itself keeps the run's keywords where no others are given.
    """
    name = flags.pop("recipe", None)
    if name is None:
        return None
    from tokenward.diagnose.lens.run_directory import trained
    from tokenward.recipes import build

    make = recipe_maker(name)
    own = inspect.signature(make).parameters
    given = {key: flags[key] if key == "beta" else flags.pop(key) for key in list(flags) if key in own}
    run = trained(flags["model"]) if "model" in flags else None
    before = run.keywords if run is not None and run.recipe == name else {}
    return build(name, **{**before, **arguments(make, given, of=name)})
