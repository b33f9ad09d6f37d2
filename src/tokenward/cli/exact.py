"""Commands that compute exactly, without a language model: `tokenward lab`, `tokenward study`, `tokenward recipes`."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenward.cli.trained import TRAINED, trained
from tokenward.cli.words import only, recipe_maker
from tokenward.errors import InputError, nearest
from tokenward.train.config import flag
from tokenward.train.flags import keywords_help, read_words
from tokenward.train.settings import arguments

LAB_FLAGS = ("all", "json", "world", "rate", "step")
LAB_USAGE = """\
tokenward lab RECIPE… | --all [--world FILE.json] [--json] [recipe flags]
tokenward lab RECIPE… --rate [--step S] [--world FILE.json] [--json] [recipe flags]

Solves each recipe exactly on a finite world and compares with the closed form. Exit 1 when one is missed.
--rate: how fast gradient descent comes to rest there, predicted and measured, and what sets it. Step: 1/λ_max, half
the largest stable one, unless it is given; proximal recipes are counted in exact steps, eta = 1/(2 tau).
"""
STUDY_USAGE = f"""\
tokenward study NAME… | --all [--out DIR] [--world FILE.json]    (DIR: runs/studies)
tokenward study {" | ".join(TRAINED)}
                [--out DIR] [--seed S] [--scale X]

Computes each claim of a study, and writes data.jsonl, figures (SVG, PNG) and index.html into DIR/NAME. Exit 1 when a
claim does not hold. Of your world `shift`, `rate`, `connection`, `data-design`, `frontier`, `reference` and
`credit-lab` take tokens, prompts, references, rewards and τ: pairs, labels and samplers are their own; `beam-width`
takes its tree and τ alone. `frontier`, `reference` and `beam-width` claim of it only what theory says of every world.
--all: the exact studies. Those of the second line train small models for minutes, and are named one by one; the same
command goes on where it was interrupted.

"""


def lab(words: list[str]) -> int:
    """tokenward lab."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(LAB_USAGE, end="")
        return 0
    from tokenward.lab import verify
    from tokenward.recipes import RECIPES

    every, as_json, world, rate, step = (flags.pop(name, None) for name in LAB_FLAGS)
    if every is not None and alone:
        raise InputError(f"lab takes --all or names, got both: {' '.join(alone)}")
    names = list(RECIPES) if every is not None else alone
    if not names:
        raise InputError("lab needs a RECIPE, or --all")
    makers = [recipe_maker(name) for name in names]
    for given in flags:  # a word that no recipe knows may be a misspelt flag of the lab itself
        if not any(given in inspect.signature(make).parameters for make in makers):
            known = {*LAB_FLAGS, *(key for make in makers for key in inspect.signature(make).parameters)}
            raise InputError(
                f"neither lab nor {alone[0] if len(alone) == 1 else 'a recipe'} has a flag --{flag(given)}."
                f"{nearest(flag(given), map(flag, known))}"
            )
    overrides = {key: value for name in names for key, value in arguments(recipe_maker(name), flags, of=name).items()}
    if rate is not None:
        return _rates(names, world, overrides, step, as_json)
    if step is not None:
        raise InputError("lab: --step belongs to --rate: give --rate too")
    answers = verify.run(names, world_path=world, overrides=overrides)
    print(json.dumps(answers, indent=2) if as_json is not None else verify.render(answers))
    return 1 if verify.missed(answers) else 0


def _rates(names: list[str], world: str | None, overrides: dict[str, Any], step: str | None, as_json: Any) -> int:
    from tokenward.lab.rates import rate_table

    try:
        size = None if step is None else float(step)
    except ValueError:
        raise InputError(f"lab: step must be a number, got {step!r}") from None
    rates = rate_table.run(names, world_path=world, overrides=overrides, step=size)
    objects = [rate_table.as_json(one) for one in rates]
    print(json.dumps(objects, indent=2) if as_json is not None else rate_table.render(rates))
    return 1 if rate_table.missed(rates) else 0


def study(words: list[str]) -> int:
    """tokenward study."""
    alone, flags = read_words(words)
    from tokenward.studies import STUDIES

    if "help" in flags:
        print(STUDY_USAGE, end="")
        print("\n".join(f"  {name:<15} {(make.__doc__ or '').splitlines()[0]}" for name, make in STUDIES.items()))
        return 0
    known = [*STUDIES, *TRAINED]
    wrong = [f"unknown study {name!r}.{nearest(name, known)}" for name in alone if name not in known]
    if wrong:
        raise InputError("\n".join(wrong))
    if len(alone) == 1 and alone[0] in TRAINED:
        return trained(alone[0], flags)
    training = [name for name in alone if name in TRAINED]
    if training:
        raise InputError(f"study {training[0]} trains models: name it alone")
    only(flags, ("all", "out", "world"), of="study")
    names = list(STUDIES) if "all" in flags else alone
    if not names or ("all" in flags and alone):
        raise InputError(f"study takes --all or names: {', '.join(known)}")
    from tokenward.report.study_page import write_index, write_study
    from tokenward.studies.run import run

    out, failed, written = Path(flags.get("out", "runs/studies")), 0, []
    refused: list[str] = []
    for done in run(names, out=out, world_path=flags.get("world"), workers=min(2, os.cpu_count() or 1)):
        if done.refused is not None:
            refused.append(done.refused)
            continue
        path = write_study(out / done.name)
        written.append(done.name)
        held = f"{done.claims - len(done.failed)} of {done.claims} claims hold"
        print(f"{done.name:<15} {held:<24} {done.seconds:5.1f} s  {path}", flush=True)
        print("".join(f"  does not hold: {text}\n" for text in done.failed), end="")
        failed += len(done.failed)
    if len(written) > 1:
        print(write_index(out, [name for name in names if name in written]))
    if refused:
        raise InputError("\n".join(refused))
    return 1 if failed else 0


def recipes(words: list[str]) -> int:
    """tokenward recipes: a table, or one recipe with its axes, what is known of it, and its BibTeX."""
    alone, flags = read_words(words)
    from tokenward.objective.advice import Facts, advise
    from tokenward.recipes import RECIPES

    if "help" in flags:
        print("tokenward recipes [NAME] [--json]")
        return 0
    only(flags, ("json",), of="recipes")
    if len(alone) > 1:
        raise InputError(f"recipes takes one NAME, got {' '.join(alone)}")
    names = alone or list(RECIPES)
    if "json" in flags:
        print(json.dumps(_catalog(names), indent=2))
    elif alone:
        recipe = recipe_maker(alone[0])()
        known = "".join(f"{one}\n" for one in advise(recipe, facts=Facts())) + "\n"
        parts = f"{recipe}\n{_known(alone[0])}\n{known}{recipe.cite()}"
        print(f"{keywords_help(recipe_maker(alone[0]), title='keywords')}\n\n{parts}")
    else:
        print(f"{'recipe':<22}{'tier':<6}{'scenario':<10}{'optimum':<22}{'learns from':<21}needs")
        for one in _catalog(names):
            cells = f"{one['recipe']:<22}{one['tier']:<6}{one['scenario'] or '–':<10}{one['target'] or '–':<22}"
            print(f"{cells}{', '.join(one['streams']):<21}{', '.join(one['needs'])}")
    return 0


def _known(name: str) -> str:
    """A recipe's tier, its optimum on the lab's own world, and where its defaults come from, as rows of its text."""
    from tokenward.lab.verify import optimum_name, predicted
    from tokenward.lab.worlds.world import default_world
    from tokenward.recipes.catalog import CATALOG

    method = CATALOG.get(name)
    try:
        found = predicted([name], default_world())[name]
        shares = "" if found.target is None else f", {'shares' if found.shares else 'does not share'} π^τ"
        optimum = optimum_name(found) + shares + (f"; {found.note}" if found.note else "")
    except InputError as error:  # a recipe of one's own may ask for what the lab's world does not have
        optimum = f"not known: {error}"
    rows = [("tier", method.tier if method else "C"), ("optimum", optimum)]
    rows += [("defaults", method.defaults if method else "those of the file")]
    return "\n".join(f"{left:<9} {right}" for left, right in rows)


def _catalog(names: list[str]) -> list[dict[str, Any]]:
    """Facts of each recipe, its optimum on the lab's own world among them."""
    from tokenward.lab.verify import predicted
    from tokenward.lab.worlds.world import default_world

    return [_facts(name, found) for name, found in predicted(names, default_world()).items()]


def _facts(name: str, prediction: Any) -> dict[str, Any]:
    from tokenward.objective.advice import Facts, advise
    from tokenward.objective.bibliography import reference
    from tokenward.recipes.catalog import CATALOG

    make = recipe_maker(name)
    recipe, method = make(), CATALOG.get(name)
    return {
        "recipe": name,
        "tier": method.tier if method else "C",
        "scenario": recipe.scenario,
        "target": prediction.target,
        "shares_pi_tau": prediction.shares,
        "streams": [s.sampler if s.kind == "rollouts" and not s.own else s.kind for s in recipe.streams],
        "needs": sorted(recipe.needs),
        "defaults": {key: one.default for key, one in inspect.signature(make).parameters.items()},
        "defaults_from": method.defaults if method else None,
        "steps": [repr(step) for step in recipe.steps],
        "terms": {term.name: repr(term) for term in recipe.terms},
        "update": repr(recipe.update),
        "advice": [asdict(one) for one in advise(recipe, facts=Facts())],
        "sources": [reference(source) for source in recipe.sources],
    }
