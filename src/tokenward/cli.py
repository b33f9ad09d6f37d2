"""The command line: words in, one call each, exit codes out (0 done, 1 failed, 2 bad input, 130 interrupted)."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenward import __version__
from tokenward.errors import InputError, RunError, nearest
from tokenward.train.flags import keywords_help, options_help, read_words
from tokenward.train.settings import arguments, read_file, resolve

USAGE = """\
tokenward: align language models, and see token by token what was learned

  tokenward demo                        the whole story on the built-in world: a few minutes on two cores
  tokenward train RECIPE --model M --data D --out RUN_DIR
  tokenward lab RECIPE… | --all         exact verification: predicted and reached optimum
  tokenward recipes [NAME]              every method: axes, scenario, needs, citation
  tokenward sample --model M --prompts P [--strategy sample | best-of-n | beam]
  tokenward eval --model M --data D     held-out accuracy, reward, KL, length, with intervals
  tokenward report RUN_DIR… --out PAGE.html
  tokenward data check | show FILE --tokenizer T
  tokenward doctor                      machine and versions

`tokenward COMMAND --help` tells the flags of a command, `tokenward --version` the version.
"""
TRAIN_USAGE = """\
tokenward train RECIPE --model M --data D --out RUN_DIR [--config run.yaml] [flags]
tokenward train --from RUN_DIR --out NEW_DIR [flags]     the same run again, flags on top
tokenward train --resume RUN_DIR                         go on with an interrupted run

RECIPE is a name that `tokenward recipes` lists, or file.py:function. Precedence: default < file < flag; the file's
keys are the flags' names with underscores, and `recipe`.
"""
LAB_USAGE = """\
tokenward lab RECIPE… | --all [--world FILE.json] [--json] [recipe flags]

Solves each recipe exactly on a finite world and compares with the closed form. Exit 1 when one is missed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = ["--help" if word == "-h" else word for word in (sys.argv[1:] if argv is None else argv)]
    if not words or words[0] in ("--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        print(f"tokenward {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(f"unknown command {words[0]!r}.{nearest(words[0], COMMANDS)}")
        code = COMMANDS[words[0]](words[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:  # a run that was saved says so, and which signal it was
        print(f"tokenward: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 0 if getattr(stop, "signal", None) == signal.SIGTERM else 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, RunError) as error:
        if os.environ.get("TOKENWARD_DEBUG") == "1":
            raise
        print("\n".join(f"tokenward: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def train(words: list[str]) -> int:
    """tokenward train."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(TRAIN_USAGE)
        print(keywords_help(_maker(alone[0]), title="recipe") if alone else "Add RECIPE for its own flags.")
        print(options_help())
        return 0
    from tokenward.train import loop, opened

    from_dir, config, back = (flags.pop(name, None) for name in ("from", "config", "resume"))
    if len(alone) > 1:
        raise InputError(f"train takes one RECIPE, got {' '.join(alone)}")
    if back is not None:
        if alone or flags or from_dir or config:
            raise InputError("--resume RUN_DIR goes on with the run as it was: give no recipe and no other flag")
        with opened.resumed(Path(back)) as live:
            return _told(loop.train(live))
    if from_dir is not None and config is not None:
        raise InputError("--from and --config both give the settings: give one")
    file = {} if config is None else read_file(config)
    if from_dir is not None:
        file = read_file(Path(from_dir) / "config.yaml")
        file.pop("out", None)
    name = str(file.pop("recipe", ""))
    name = alone[0] if alone else name
    if not name:
        raise InputError("train needs a RECIPE: `tokenward recipes` lists them")
    made = resolve(recipe=name, function=_maker(name), file=file, flags=flags)
    with opened.fresh(made.config, made.recipe, keywords=made.keywords) as live:
        return _told(loop.train(live))


def _told(result: Any) -> int:
    """Say where the model lies."""
    print(f"{result.updates} updates in {result.seconds:.0f} s: {result.model}")
    return 0


def demo(words: list[str]) -> int:
    """tokenward demo."""

    def story(*, seed: int = 0, out: str = "runs/demo", scale: float = 1.0) -> str:
        """SFT, DPO, a reward model, PPO and RTO on the built-in world, and a report. `scale` multiplies the updates."""
        from tokenward.demo import demo as work

        return work(seed=seed, out=out, scale=scale)

    if (told := _call(story, words, of="demo")) is not None:
        print(told)
    return 0


def lab(words: list[str]) -> int:
    """tokenward lab."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(LAB_USAGE, end="")
        return 0
    from tokenward.lab import verify
    from tokenward.recipes import RECIPES

    every, as_json, world = (flags.pop(name, None) for name in ("all", "json", "world"))
    if every is not None and alone:
        raise InputError(f"lab takes --all or names, got both: {' '.join(alone)}")
    names = list(RECIPES) if every is not None else alone
    if not names:
        raise InputError("lab needs a RECIPE, or --all")
    overrides = {key: value for name in names for key, value in arguments(_maker(name), flags, of=name).items()}
    answers = verify.run(names, world_path=world, overrides=overrides)
    print(json.dumps(answers, indent=2) if as_json is not None else verify.render(answers))
    return 1 if verify.missed(answers) else 0


def recipes(words: list[str]) -> int:
    """tokenward recipes: a table, or one recipe with its axes and its BibTeX."""
    alone, flags = read_words(words)
    from tokenward.recipes import RECIPES

    if "help" in flags:
        print("tokenward recipes [NAME] [--json]")
        return 0
    _only(flags, ("json",), of="recipes")
    if len(alone) > 1:
        raise InputError(f"recipes takes one NAME, got {' '.join(alone)}")
    made = {name: _maker(name)() for name in (alone or RECIPES)}
    if "json" in flags:
        print(json.dumps([_facts(name, recipe) for name, recipe in made.items()], indent=2))
    elif alone:
        (recipe,) = made.values()
        print(f"{keywords_help(_maker(alone[0]), title='keywords')}\n\n{recipe}\n\n{recipe.cite()}")
    else:
        print(f"{'recipe':<16}{'scenario':<10}{'learns from':<13}needs")
        for name, facts in ((name, _facts(name, recipe)) for name, recipe in made.items()):
            print(
                f"{name:<16}{facts['scenario'] or '–':<10}{', '.join(facts['streams']):<13}{', '.join(facts['needs'])}"
            )
    return 0


def _facts(name: str, recipe: Any) -> dict[str, Any]:
    streams = [stream.kind for stream in recipe.streams]
    found = {"recipe": name, "scenario": recipe.scenario, "streams": streams, "needs": sorted(recipe.needs)}
    terms = {term.name: repr(term) for term in recipe.terms}
    return {**found, "steps": [repr(step) for step in recipe.steps], "terms": terms, "sources": list(recipe.sources)}


def sample(words: list[str]) -> int:
    """tokenward sample: one JSON object per text."""
    from tokenward.search.answers import answers

    for record in _call(answers, words, of="sample") or ():
        print(json.dumps(record, ensure_ascii=False))
    return 0


def evaluate(words: list[str]) -> int:
    """tokenward eval."""
    from tokenward.diagnose.evaluate import evaluate as work

    as_json = "--json" in words
    found = _call(work, [word for word in words if word != "--json"], of="eval")
    if found is not None:
        print(json.dumps(found.plain(), indent=2) if as_json else found)
    return 0


def report(words: list[str]) -> int:
    """tokenward report."""
    alone, flags = read_words(words)
    if "help" in flags:
        print("tokenward report RUN_DIR… --out PAGE.html [--title TEXT]")
        return 0
    _only(flags, ("out", "title"), of="report")
    if "out" not in flags:
        raise InputError("report needs out: give --out PAGE.html")
    from tokenward.report.page import write_page

    print(write_page(alone, flags["out"], **({"title": flags["title"]} if "title" in flags else {})))
    return 0


def data(words: list[str]) -> int:
    """tokenward data check, tokenward data show; exit 2 when a run would refuse the file."""
    names = ("check", "show")
    if words[:1] in ([], ["--help"]):
        print("tokenward data check FILE --tokenizer T [flags]\ntokenward data show FILE --tokenizer T [flags]")
        return 0
    if words[0] not in names:
        raise InputError(f"data has no command {words[0]!r}.{nearest(words[0], names)}")
    from tokenward.diagnose.data_file import check_file, show_file

    rest = ["--file", *words[1:]] if words[1:] and not words[1].startswith("--") else words[1:]
    if words[0] == "show":
        print("\n\n".join("\n".join(row.lines()) for row in _call(show_file, rest, of="data show") or ()))
        return 0
    found = _call(check_file, rest, of="data check")
    if found is not None:
        print("\n".join(found.lines()))
    return 2 if found is not None and found.verdict else 0


def doctor(words: list[str]) -> int:
    """tokenward doctor."""
    if words == ["--help"]:
        print("tokenward doctor")
        return 0
    if words:
        raise InputError(f"doctor takes no words, got {' '.join(words)}")
    from tokenward.train.directory import environment

    for name, value in environment().items():
        for part, text in value.items() if isinstance(value, dict) else [(name, value)]:
            print(f"{part:<16}{text}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo, "train": train, "lab": lab, "recipes": recipes, "sample": sample, "eval": evaluate, "report": report,
    "data": data, "doctor": doctor,
}  # fmt: skip


def _call(work: Callable[..., Any], words: list[str], *, of: str) -> Any:
    """Call a function with its keywords from flags; its help instead, where that is asked."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(keywords_help(work, title=f"tokenward {of}"))
        return None
    if alone:
        raise InputError(f"{of} takes flags only, got {' '.join(alone)}")
    return work(**arguments(work, flags, of=of))


def _maker(name: str) -> Callable[..., Any]:
    from tokenward.recipes import maker

    return maker(name)


def _only(flags: dict[str, str], known: tuple[str, ...], *, of: str) -> None:
    """Refuse flags that a command does not have."""
    wrong = [f"{of} has no flag --{name}.{nearest(name, [*known, 'help'])}" for name in flags if name not in known]
    if wrong:
        raise InputError("\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
