"""A run directory: config.yaml, recipe.txt, environment.json, events.jsonl, checkpoints/step-N/, model/ (partner/)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch

from tokenward import __version__
from tokenward.errors import InputError
from tokenward.models.cache import RefCache
from tokenward.models.save import save_policy, save_reward_model
from tokenward.models.value_head import FILE as VALUE_HEAD
from tokenward.models.value_head import save_value_head
from tokenward.recipes import maker
from tokenward.runlog import write_json, write_text
from tokenward.train import checkpoint
from tokenward.train.assemble import Run
from tokenward.train.cast import CACHE
from tokenward.train.checkpoint import Saved
from tokenward.train.settings import Settings, dump, read_file, resolve
from tokenward.train.state import Place, capture, restore

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "datasets", "safetensors", "numpy")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Refuse a directory that holds a run already, or that cannot be written; a run refused inside leaves none."""
    held = [name for name in ("config.yaml", "events.jsonl", "checkpoints", "model") if (out / name).exists()]
    if held:
        raise InputError(
            f"{out} holds a run already ({held[0]}): give another --out, or go on with: tokenward train --resume {out}"
        )
    absent = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {out} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what holds a file stays
            for folder in absent:
                folder.rmdir()
        raise


def begin(run: Run) -> None:
    """What was asked and where, before the first step; config.yaml last: with it the directory holds a run."""
    write_text(run.out / "recipe.txt", "\n".join([str(run.recipe), *map(str, run.advice)]) + "\n")
    write_json(run.out / "environment.json", {**environment(), "device": str(run.runtime.device), "inputs": run.inputs})
    if isinstance(run.roles.reference, RefCache):
        run.roles.reference.save(run.out / CACHE)
    write_text(run.out / "config.yaml", dump(run.settings))


def environment() -> dict[str, object]:
    """Versions and machine: what else a run depends on."""
    found = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
    return {
        "tokenward": __version__,
        "python": platform.python_version(),
        "packages": found,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def settings(out: Path) -> Settings:
    """The settings of the run that a directory holds; `out` is that directory, also where it was copied or moved."""
    path = out / "config.yaml"
    if not path.is_file():
        raise InputError(f"{out} holds no run: there is no config.yaml in it")
    file = read_file(path)
    recipe = str(file.pop("recipe", ""))
    return resolve(recipe=recipe, function=maker(recipe), file=file, flags={"out": str(out)})


def same_inputs(run: Run) -> None:
    """Refuse to go on when a file or model that the run reads has changed since it began."""
    before = json.loads((run.out / "environment.json").read_text(encoding="utf-8"))["inputs"]
    for name, now in run.inputs.items():
        if before.get(name) != now:
            value = getattr(run.config, name)
            raise InputError(
                f"{name} = {value} has changed since this run began (hash {str(before.get(name))[:9]}, now {now[:9]}): "
                "put it back, or start a new run"
            )


def save(run: Run, place: Place) -> None:
    """Write checkpoints/step-N."""
    saved = capture(place, modules=run.modules, optimizer=run.optimizer)
    saved = replace(saved, state={**saved.state, "source": run.source.state(), "total": run.total})
    if place.piece is not None and (old := run.roles.remembered()):
        saved = replace(saved, tensors={**saved.tensors, "old": old})
    checkpoint.save(run.out / "checkpoints", saved, keep=run.config.keep_checkpoints)


def load(run: Run, saved: Saved) -> Place:
    """Put a run where its checkpoint was taken."""
    if saved.state["total"] != run.total:
        raise InputError(
            f"{run.out}: its checkpoint is of a run of {saved.state['total']} updates, the settings give {run.total}"
        )
    run.source.load_state(saved.state["source"])
    run.roles.recall(saved.tensors.get("old", {}))
    return restore(saved, modules=run.modules, optimizer=run.optimizer, device=run.runtime.device)


def finish(run: Run) -> Path:
    """Write model/, before it partner/ and the critic/ that has its own trunk; a name appears when it is whole."""
    if run.roles.partner is not None:
        save_policy(run.roles.partner.policy, run.tokenizer, run.out / "partner", adapter="partner-adapter")
    if run.roles.critic is not None:
        save_reward_model(run.roles.critic, run.tokenizer, run.out / "critic")
    scores = "model_score" in run.recipe.needs
    if run.roles.policy.value_head is not None and not scores:
        save_value_head(run.roles.policy, run.out / VALUE_HEAD)
    write = save_reward_model if scores else save_policy
    return write(run.roles.policy, run.tokenizer, run.out / "model")


def finished(out: Path) -> bool:
    """Whether the run of a directory has written its model."""
    return (out / "model" / "config.json").is_file()


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
