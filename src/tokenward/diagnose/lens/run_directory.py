"""What the directory of a finished run says of its model: where it lies, what it was held to, and how strongly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final, get_args, get_type_hints

import yaml

from tokenward import ranges
from tokenward.errors import InputError
from tokenward.models.value_head import FILE as VALUE_HEAD
from tokenward.objective.recipe import Recipe
from tokenward.recipes import build, maker

_POLICY_ITSELF = (None, "copy", "adapter", "cached")  # references that are the model as it was loaded
_PULLS = ("beta", "beta_kl")  # keywords that hold a policy to its reference


@final
@dataclass(frozen=True)
class Trained:
    """A model and what it was trained with; None where the run has no such thing.

    `settings` are all of its config.yaml, `beta` the recipe's pull to the reference. `critic` has a trunk of its own,
    `value_head` is a file with the head of a critic on the policy's.
    """

    model: str
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    beta: float | None = None
    critic: str | None = None
    value_head: str | None = None
    partner: str | None = None
    partner_reference: str | None = None
    temperature: float = 1.0
    sentence_ends: str | None = None

    @property
    def own_file(self) -> bool:
        """Whether the recipe is a file: Python that nobody has asked to run."""
        return self.recipe is not None and ":" in self.recipe


@final
@dataclass(frozen=True)
class Opened:
    """Where a run's model lies, the reference it was held to, and its settings; no settings where it is no run."""

    model: str
    reference: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def temperature(self) -> float:
        """What divided the logits of the law that was trained; 1 where nothing is said of it."""
        told = self.settings.get("temperature")
        return 1.0 if told is None else _number("temperature", told, Path(self.model).parent)


def opened(path: str) -> Opened:
    """A run directory by its config.yaml alone, no recipe read; any other path is a model of its own."""
    folder = Path(path)
    config = folder / "config.yaml"
    if not config.is_file():
        return Opened(path)
    if not (folder / "model" / "config.json").is_file():
        raise InputError(f"{path} is a run that has not written its model: go on with tokenward train --resume {path}")
    settings = _settings(config)
    ref = settings.get("ref")
    return Opened(str(folder / "model"), _text(settings.get("model") if ref in _POLICY_ITSELF else ref), settings)


def trained(path: str) -> Trained:
    """The model of a run directory with what its config.yaml and its recipe say; any other path is its own model.

    A recipe that is a file is not run, for the directory may be anybody's: β is then the number of its settings, and a
    critic's head is one that the policy has.
    """
    run, folder = opened(path), Path(path)
    settings = run.settings
    if not settings:
        return Trained(path)
    name = str(settings.get("recipe", ""))
    beta, valued = _of_file(settings, folder) if ":" in name else _of_recipe(name, settings, folder)
    partner, partner_ref = settings.get("partner"), settings.get("partner_ref")
    return Trained(
        model=run.model,
        recipe=name,
        settings=settings,
        reference=run.reference,
        beta=beta,
        critic=str(folder / "critic") if (folder / "critic" / "config.json").is_file() else None,
        value_head=str(folder / VALUE_HEAD) if valued and (folder / VALUE_HEAD).is_file() else None,
        partner=str(folder / "partner") if (folder / "partner" / "config.json").is_file() else None,
        partner_reference=_text(partner if partner_ref in _POLICY_ITSELF else partner_ref),
        temperature=run.temperature,
        sentence_ends=_text(settings.get("sentence_ends")),
    )


def _of_recipe(name: str, settings: Mapping[str, Any], folder: Path) -> tuple[float | None, bool]:
    """(β, whether the policy has a value head) of a recipe of the catalog with the settings of a run."""
    make = maker(name)
    given = {key: settings[key] for key in inspect.signature(make).parameters if key in settings}
    for key, kind in get_type_hints(make).items():
        kinds = get_args(kind) or (kind,)
        if given.get(key) is not None and float in kinds and str not in kinds:
            given[key] = _number(key, given[key], folder)
    recipe = build(name, **given)
    return pull_of(recipe, make, given), "old_value" in recipe.needs


def _of_file(settings: Mapping[str, Any], folder: Path) -> tuple[float | None, bool]:
    """The same by the settings alone."""
    known = [_number(key, settings[key], folder) for key in _PULLS if settings.get(key) is not None]
    return next((number for number in known if number), None), True


def pull_of(recipe: Recipe, make: Callable[..., Recipe], given: Mapping[str, Any]) -> float | None:
    """How strongly the recipe holds a policy to its reference: its keyword as given or by default; None: not at all."""
    known = inspect.signature(make).parameters
    key = next((key for key in _PULLS if key in known), None) if recipe.needs & {"ref_logp", "kl_ref"} else None
    beta = None if key is None else given.get(key, known[key].default)
    return float(beta) if beta else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(key: str, value: Any, folder: Path) -> float:
    """A setting as a number in its range; what is none is refused with its file."""
    bounds = ranges.Range(above=0) if key == "temperature" else ranges.KEYWORDS.get(key, ranges.Range())
    try:
        found = float(value)  # YAML reads 1e-3 as a word
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder / 'config.yaml'}: {key} must be a number, got {value!r}") from error
    if wrong := bounds.wrong(key, found):
        raise InputError(f"{folder / 'config.yaml'}: {wrong[0]}")
    return found


def _settings(config: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{config}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or "model" not in found:
        raise InputError(f"{config}: not the settings of a run, which name their model")
    return found
