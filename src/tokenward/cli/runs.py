"""Commands that train: `tokenward train`, `tokenward sweep`, `tokenward demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenward.cli.words import call, only, recipe_maker
from tokenward.errors import InputError
from tokenward.train.flags import keywords_help, options_help, read_words
from tokenward.train.settings import read_file, resolve

TRAIN_USAGE = """\
tokenward train RECIPE --model M --data D --out RUN_DIR [--config run.yaml] [flags]
tokenward train --from RUN_DIR --out NEW_DIR [flags]     the same run again, flags on top
tokenward train --resume RUN_DIR                         go on with an interrupted run

RECIPE is a name that `tokenward recipes` lists, or file.py:function. Precedence: default < file < flag; the file's
keys are the flags' names with underscores, and `recipe`.
"""
SWEEP_USAGE = """\
tokenward sweep FILE.yaml --out DIR [--jobs N]

Runs every method of FILE at every place of its grid with every seed, one process of one thread each, N at a time
(absent: one per core), and measures each model on held-out prompts. Writes DIR/results.jsonl and DIR/index.html. The
same command goes on where an earlier one stopped; exit 1 when a job failed. FILE holds:

  settings: {model: M, data: D, reward: R, updates: 100}     what all share: flags of `tokenward train`
  methods:  {ppo: {critic: own}, mine: {recipe: grpo, group: 8}}
  grid:     {beta_kl: [0.05, 0.1]}                           every list multiplies, in a method too
  seeds:    [0, 1, 2]
  measure:  {data: HELDOUT, samples: 4}                      besides: reward, max_new_tokens, by (a column), seed
"""


def train(words: list[str]) -> int:
    """tokenward train."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(TRAIN_USAGE)
        print(keywords_help(recipe_maker(alone[0]), title="recipe") if alone else "Add RECIPE for its own flags.")
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
    if config is not None and not Path(config).is_file():
        raise InputError(f"--config: no file {config}")
    file = {} if config is None else read_file(config)
    if from_dir is not None:
        file = read_file(Path(from_dir) / "config.yaml")
        file.pop("out", None)
    name = str(file.pop("recipe", ""))
    name = alone[0] if alone else name
    if not name:
        raise InputError("train needs a RECIPE: `tokenward recipes` lists them")
    made = resolve(recipe=name, function=recipe_maker(name), file=file, flags=flags)
    with opened.fresh(made.config, made.recipe, keywords=made.keywords) as live:
        return _told(loop.train(live))


def _told(result: Any) -> int:
    """Say where the model lies."""
    print(f"{result.updates} updates in {result.seconds:.0f} s: {result.model}")
    return 0


def sweep(words: list[str]) -> int:
    """tokenward sweep."""
    alone, flags = read_words(words)
    if "help" in flags:
        print(SWEEP_USAGE, end="")
        return 0
    only(flags, ("out", "jobs"), of="sweep")
    if len(alone) != 1 or "out" not in flags:
        raise InputError("sweep takes one FILE.yaml and --out DIR")
    if not flags.get("jobs", "1").isdigit():
        raise InputError(f"jobs must be a whole number, got {flags['jobs']!r}")
    from tokenward.sweep.run import sweep as work

    swept = work(alone[0], out=flags["out"], jobs=int(flags["jobs"]) if "jobs" in flags else None)
    print(swept)
    return 1 if swept.failed else 0


def demo(words: list[str]) -> int:
    """tokenward demo."""

    def story(*, seed: int = 0, out: str = "runs/demo", scale: float = 1.0) -> str:
        """SFT, DPO, a reward model, PPO and RTO on the built-in world, and a report. `scale` multiplies the updates."""
        from tokenward.demo.story import demo as work

        return work(seed=seed, out=out, scale=scale)

    if (told := call(story, words, of="demo")) is not None:
        print(told)
    return 0
