"""The command line: words in, one call each, exit codes out (0 done, 1 failed, 2 bad input, 130 interrupted)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from tokenward import __version__
from tokenward.cli import diagnose, exact, lens, runs, texts
from tokenward.errors import InputError, RunError, nearest

USAGE = """\
tokenward: align language models, and see token by token what was learned

  tokenward demo                        the whole story on the built-in world: a few minutes on two cores
  tokenward train RECIPE --model M --data D --out RUN_DIR
  tokenward sweep FILE.yaml --out DIR   many runs of one file: methods, a grid, seeds; compared with intervals
  tokenward lab RECIPE… | --all         exact verification: predicted and reached optimum; --rate: how fast
  tokenward study NAME… | --all         claims, their checks and figures as pages
  tokenward recipes [NAME]              every method: axes, scenario, needs, citation
  tokenward sample --model M --prompts P [--strategy sample | best-of-n | vote | beam | mcts | guided]
  tokenward eval --model M --data D     held-out accuracy, reward, KL, length, with intervals
  tokenward credit --model M --data D --out DIR     what was learned, token by token: JSONL and a page
  tokenward diagnose --model M --ref R --data D --out DIR | RUN_DIR…     drift, coverage, health
  tokenward report RUN_DIR… --out PAGE.html
  tokenward data check | show FILE --tokenizer T
  tokenward data graph FILE             what pairs compare, and what their labels can fix
  tokenward doctor                      machine and versions

`tokenward COMMAND --help` tells the flags of a command, `tokenward --version` the version.
"""
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": runs.demo, "train": runs.train, "sweep": runs.sweep, "lab": exact.lab, "study": exact.study,
    "recipes": exact.recipes, "sample": texts.sample, "eval": texts.evaluate, "report": texts.report,
    "credit": lens.credit, "diagnose": diagnose.diagnose, "data": texts.data, "doctor": texts.doctor,
}  # fmt: skip


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
