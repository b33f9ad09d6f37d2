"""The command line: words in, one call each, exit codes out (0 done, 1 failed, 2 bad input, 130 interrupted)."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenward import __version__
from tokenward.errors import InputError, RunError, nearest
from tokenward.train.flags import keywords_help, options_help, read_words
from tokenward.train.settings import Settings, read_file, resolve

USAGE = """\
tokenward: align language models, and see token by token what was learned

  tokenward train RECIPE --model M --data D --out RUN_DIR
  tokenward recipes [NAME] [--json]     every method: axes, scenario, needs, citation
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        print(f"tokenward {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(f"unknown command {words[0]!r}.{nearest(words[0], COMMANDS)}")
        return COMMANDS[words[0]](words[1:])
    except KeyboardInterrupt:
        print("tokenward: interrupted before anything was saved", file=sys.stderr)
        return 128 + signal.SIGINT
    except (InputError, RunError) as error:
        if os.environ.get("TOKENWARD_DEBUG") == "1":
            raise
        print("\n".join(f"tokenward: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def train(words: list[str]) -> int:
    """tokenward train."""
    alone, flags = read_words(words)
    if "help" in flags or "-h" in alone:
        names = [word for word in alone if word != "-h"]
        print(TRAIN_USAGE)
        print(keywords_help(_maker(names[0])) if names else "Add RECIPE for its own keywords.")
        print(options_help())
        return 0
    from_dir, config, back = (flags.pop(name, None) for name in ("from", "config", "resume"))
    if len(alone) > 1:
        raise InputError(f"train takes one RECIPE, got {' '.join(alone)}")
    if back is not None:
        if alone or flags or from_dir or config:
            raise InputError("--resume RUN_DIR goes on with the run as it was: give no recipe and no other flag")
        return _trained(lambda: _loop().resume(Path(back)))
    if from_dir is not None and config is not None:
        raise InputError("--from and --config both give the settings: give one")
    file = {} if config is None else read_file(config)
    if from_dir is not None:
        file = read_file(Path(from_dir) / "config.yaml")
        file.pop("out", None)
    named = str(file.pop("recipe", ""))
    settings = _settings(alone[0] if alone else named, file=file, flags=flags)
    return _trained(lambda: _loop().run(settings.config, settings.recipe, keywords=settings.keywords))


def recipes(words: list[str]) -> int:
    """tokenward recipes: a table, or one recipe with its axes and its BibTeX."""
    alone, flags = read_words(words)
    _only(flags, {"json"}, of="recipes")
    from tokenward.recipes import RECIPES, build

    if len(alone) > 1:
        raise InputError(f"recipes takes one NAME, got {' '.join(alone)}")
    found = {name: build(name) for name in (alone or RECIPES)}
    if "json" in flags:
        rows = [
            {
                "name": name,
                "scenario": recipe.scenario,
                "streams": [stream.kind for stream in recipe.streams],
                "needs": sorted(recipe.needs),
                "sources": list(recipe.sources),
            }
            for name, recipe in found.items()
        ]
        print(json.dumps(rows, indent=2))
    elif alone:
        print(f"{keywords_help(_maker(alone[0]))}\n\n{found[alone[0]]}\n\n{found[alone[0]].cite()}")
    else:
        for name, recipe in found.items():
            learns = ", ".join(stream.kind for stream in recipe.streams)
            print(f"{name:<16}{recipe.scenario or '–':<5}{learns:<10}{', '.join(sorted(recipe.needs))}")
    return 0


def doctor(words: list[str]) -> int:
    """tokenward doctor."""
    alone, flags = read_words(words)
    _only({**flags, **dict.fromkeys(alone, "")}, set(), of="doctor")
    from tokenward.train.directory import environment

    for name, value in environment().items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for part, text in inner:
            print(f"{part or name:<16}{text}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"train": train, "recipes": recipes, "doctor": doctor}


def _trained(work: Callable[[], object]) -> int:
    """Run it; 0 when done or saved on SIGTERM, 130 after Ctrl-C."""
    from tokenward.train.runtime import Interrupted

    try:
        print(work())
    except Interrupted as stop:
        print(f"tokenward: {stop}", file=sys.stderr)
        return 128 + stop.signal if stop.signal == signal.SIGINT else 0
    return 0


def _settings(name: str, *, file: dict[str, object], flags: dict[str, str]) -> Settings:
    if not name:
        raise InputError("train needs a RECIPE: `tokenward recipes` lists them")
    return resolve(recipe=name, function=_maker(name), file=file, flags=flags)


def _maker(name: str) -> Callable[..., object]:
    from tokenward.recipes import maker

    return maker(name)


def _loop():  # type: ignore[no-untyped-def]
    from tokenward.train import loop

    return loop


def _only(flags: dict[str, str], known: set[str], *, of: str) -> None:
    """Refuse flags that a command does not have."""
    wrong = [f"{of} has no flag --{name}.{nearest(name, known | {'help'})}" for name in flags if name not in known]
    if wrong:
        raise InputError("\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
