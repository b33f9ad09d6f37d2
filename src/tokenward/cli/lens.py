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
        if name := flags.get("recipe"):
            print(f"\n{keywords_help(recipe_maker(name), title=f'flags of {name}')}")
        return 0
    if alone:
        raise InputError(f"credit takes flags only, got {' '.join(alone)}")
    from tokenward.diagnose.lens.record import credit as work
    from tokenward.report.lens.page import write_lens

    recipe, pull, own = _recipe(flags)
    request = Request(**arguments(Request, flags, of="credit", also=("recipe", *own)))  # type: ignore[arg-type]
    found = work(request, recipe=recipe, recipe_beta=pull)
    page = found.folder / "credit.html"
    write_lens(found.folder / "credit.jsonl", page, title=f"credit of {request.model}", notes=found.notes)
    print("\n".join(found.notes), file=sys.stderr)
    print(page)
    return 0


def _recipe(flags: dict[str, Any]) -> tuple[Recipe | None, float | None, tuple[str, ...]]:
    """The recipe that is asked for; its keywords leave the flags, but for beta, which credit reads as well.

    The recipe of the run itself keeps the run's keywords where no others are given. Beside it stands the keyword that
    holds its policy to the reference, where it has one, and the names of all of its keywords.
    """
    name = flags.pop("recipe", None)
    if name is None:
        return None, None, ()
    from tokenward.diagnose.lens.run_directory import pull_of, trained
    from tokenward.recipes import build

    make = recipe_maker(name)
    own = inspect.signature(make).parameters
    given = {key: flags[key] if key == "beta" else flags.pop(key) for key in list(flags) if key in own}
    run = trained(flags["model"]) if "model" in flags else None
    before = run.settings if run is not None and run.recipe == name else {}
    keywords = arguments(make, {**{key: before[key] for key in own if key in before}, **given}, of=name)
    recipe = build(name, **keywords)
    return recipe, pull_of(recipe, make, keywords), tuple(own)
