"""Where a run's settings come from: default < file < flag, every problem reported at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tokenward.errors import InputError, nearest
from tokenward.own_file import hints
from tokenward.train.config import OPTIONS, RunConfig, Scalar, coerce, flag, make

T = TypeVar("T")
Keywords = dict[str, Scalar]


@dataclass(frozen=True)
class Settings:
    """A run as it will be: which recipe, its keywords as given, and everything else."""

    recipe: str
    keywords: Keywords
    config: RunConfig


def read_file(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file; a key that stands twice, a nested or an unreadable file is one line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}: must be lines of `key: value`, got {type(values).__name__}")
    keys = [str(key.value) for key, _ in node.value]
    wrong = [f"{path}: {key} stands twice: keep one" for key in sorted({k for k in keys if keys.count(k) > 1})]
    wrong += [
        f"{path}: {key} must be one value, got {type(value).__name__}"
        for key, value in values.items()
        if isinstance(value, dict | list)
    ]
    if wrong:
        raise InputError("\n".join(wrong))
    return {str(key): value for key, value in values.items()}


def keyword_types(function: Callable[..., object]) -> dict[str, Any]:
    """The keyword arguments of a recipe function with their annotations."""
    known = hints(function)
    return {name: known.get(name, str) for name in inspect.signature(function).parameters}


def arguments(
    function: Callable[..., object], given: Mapping[str, object], *, of: str, also: Iterable[str] = ()
) -> Keywords:
    """Values for a function's keywords, typed as it says; InputError with one line for each problem.

    `also`: what else `of` takes, which a message about an unknown name tells too.
    """
    types, defaults = keyword_types(function), inspect.signature(function).parameters
    wrong = [
        _elsewhere(n, of=of) or f"{of} has no flag --{flag(n)}.{nearest(flag(n), map(flag, (*types, *also)))}"
        for n in given
        if n not in types
    ]
    found: Keywords = {}
    for name in types:
        if name in given:
            try:
                found[name] = coerce(name, given[name], types[name])
            except InputError as error:
                wrong.append(str(error))
        elif defaults[name].default is inspect.Parameter.empty:
            wrong.append(f"{of} needs {name}: give --{flag(name)}")
    if wrong:
        raise InputError("\n".join(wrong))
    return found


def _elsewhere(name: str, *, of: str) -> str:
    """One line where recipes of the catalog have a setting that this one lacks; "" where none has."""
    from tokenward.recipes import RECIPES  # with torch: only once something is wrong

    have = [other for other, function in RECIPES.items() if name in inspect.signature(function).parameters]
    shown = ", ".join(have[:4]) + (" …" if len(have) > 4 else "")
    return f"{of} has no setting {name} ({shown} {'has' if len(have) == 1 else 'have'} it)" if have else ""


def resolve(
    *,
    recipe: str,
    function: Callable[..., object],
    file: Mapping[str, object],
    flags: Mapping[str, object],
) -> Settings:
    """The settings of a run; InputError with one line for each unknown key, wrong type and value out of range."""
    types = keyword_types(function)
    known = {*OPTIONS, *types}
    wrong = [
        _elsewhere(name, of=recipe) or f"unknown key {name!r} in the file.{nearest(name, known)}"
        for name in file
        if name not in known
    ]
    wrong += [
        _elsewhere(name, of=recipe) or f"unknown flag --{flag(name)}.{nearest(flag(name), map(flag, known))}"
        for name in flags
        if name not in known
    ]
    given = {**file, **flags}
    own = {name: value for name, value in given.items() if name in types}
    keywords = _collect(wrong, lambda: arguments(function, own, of=recipe))
    config = _collect(wrong, lambda: make({name: value for name, value in given.items() if name in OPTIONS}))
    if wrong or keywords is None or config is None:
        raise InputError("\n".join(wrong))
    return Settings(recipe, keywords, config)


def _collect(wrong: list[str], work: Callable[[], T]) -> T | None:
    """What the work gives, or None and its problems added to the list."""
    try:
        return work()
    except InputError as error:
        wrong += str(error).splitlines()
        return None


def without_use(config: RunConfig, *, kinds: frozenset[str], needs: frozenset[str]) -> list[str]:
    """One line for each value that differs from its default and that this recipe would never read."""
    rollouts = "rollouts" in kinds
    idle = {name for name, f in OPTIONS.items() if f.metadata["used"] == ("offline" if rollouts else "rollouts")}
    reads = {"ref": {"ref_logp", "kl_ref"}, "guide": {"guide_logp"}, "guide_ref": {"guide_ref_logp"}}
    reads["partner_ref"] = {"ref_logp"}
    idle |= {name for name, fields in reads.items() if not fields & needs}
    if not needs & {"value", "old_value"}:
        idle |= {"critic", "critic_warmup"}
    if not needs & {"value", "old_value", "model_score"}:
        idle.add("critic_learning_rate")
    if "old_logp" not in needs:
        idle.add("old_logp")
    if "model_score" in needs:
        idle.add("temperature")
    if config.schedule == "constant":
        idle.add("learning_rate_floor")
    if "segment" not in needs:
        idle.add("sentence_ends")
    if "score" not in needs:
        idle.add("reward")
    if config.environment is None:
        idle |= {"max_turns", "environment_seconds"}
    if not needs & {"ref_logp", "kl_ref"}:
        idle |= {"probe_samples", "probe_every"}
    if not config.probe_samples:
        idle.add("probe_every")
    if config.eval_data is None:
        idle |= {"eval_reward", "eval_every", "eval_prompts", "eval_samples", "eval_beta"}
    if "demos" not in kinds:
        idle |= {"demos", "demo_rows"}
    if all(Path(source).is_file() for source in (config.data, config.demos, config.eval_data) if source is not None):
        idle.add("split")
    if config.partner is None:
        idle |= {"partner_ref", "learns"}
    if not config.lora_rank:
        idle |= {"lora_alpha", "lora_targets"}
    return [
        f"{name} = {getattr(config, name)!r} has no effect here: {_unread(name, kinds)}: leave it out"
        for name in OPTIONS
        if name in idle and getattr(config, name) != OPTIONS[name].default
    ]


def _unread(name: str, kinds: frozenset[str]) -> str:
    """Why a setting is not read, in the recipe's own terms."""
    if name in ("demos", "demo_rows") and "rollouts" in kinds:
        return "the recipe reads no demonstrations (ppo_max does with ptx_coef above 0)"
    used = OPTIONS[name].metadata["used"]
    if used != "always" and (used == "rollouts") != ("rollouts" in kinds):
        return f"the recipe learns from {' and '.join(sorted(kinds))}"
    return _ABSENT[name]


_ABSENT = {
    "split": "all data are files, and files have no splits",
    "ref": "the recipe reads no reference",
    "partner_ref": "no partner is given, or the recipe reads no reference",
    "learns": "there is no second model (partner)",
    "guide": "the recipe reads no guide",
    "guide_ref": "the recipe reads no reference of a guide",
    "critic": "the recipe has no critic",
    "critic_warmup": "the recipe has no critic",
    "critic_learning_rate": "the recipe has neither a critic nor a score head",
    "old_logp": "the recipe divides by no older policy",
    "temperature": "a reward model has no law of tokens",
    "learning_rate_floor": "the learning rate stays as it is (schedule = constant)",
    "sentence_ends": "the recipe counts no sentences",
    "reward": "the recipe reads no score",
    "max_turns": "no environment is given",
    "environment_seconds": "no environment is given",
    **dict.fromkeys(
        ("eval_reward", "eval_every", "eval_prompts", "eval_samples", "eval_beta"), "there are no held-out prompts"
    ),
    "probe_samples": "the recipe reads no reference",
    "probe_every": "there is no probe (probe_samples = 0), or no reference",
    "lora_alpha": "no adapters are trained (lora_rank = 0)",
    "lora_targets": "no adapters are trained (lora_rank = 0)",
}


def dump(settings: Settings) -> str:
    """The YAML text that `--config` and `--from` read back to the same settings."""
    values: dict[str, Scalar] = {"recipe": settings.recipe, **settings.keywords}
    values |= {name: getattr(settings.config, name) for name in OPTIONS}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
