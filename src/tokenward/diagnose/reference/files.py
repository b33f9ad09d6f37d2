"""`tokenward diagnose --model M --ref R --data D`: the diagnostics of directories and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tokenward.data import dataset
from tokenward.data.tokenize import Limits
from tokenward.diagnose.reference.measure import Sampling, reference_report
from tokenward.diagnose.reference.record import ReferenceReport
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.runlog import write_json


def diagnose_files(
    model: str,
    *,
    data: str,
    ref: str | None = None,
    samples: int = 2,
    prompts: int = 128,
    max_new_tokens: int = 64,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    split: str = "train",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
) -> ReferenceReport:
    """The report of a model (directory, run directory or hub name), its reference, and a file of rows."""
    where, default = run_model(model)
    against = ref or default
    if against is None:
        raise InputError(f"{model} is no run directory, so its reference is not known: give --ref DIR")
    sampling = Sampling(prompts, samples, max_new_tokens, temperature, seed)
    tokenizer = load.tokenizer(where)
    policy = load.policy(where, dtype=dtype, device=device)
    reference = load.policy(run_model(against)[0], dtype=dtype, device=device).requires_grad_(False)
    longest = min([n for n in (max_tokens, policy.context, reference.context) if n is not None], default=None)
    room = None if longest is None else longest - max_new_tokens
    if room is not None and room < 1:
        raise InputError(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in {longest} tokens")
    limits = Limits(max_tokens=longest, max_prompt_tokens=room)
    found = dataset.survey(data, tokenizer=tokenizer, asked_by="diagnose", split=split, limits=limits)
    return reference_report(
        policy.requires_grad_(False),
        reference,
        found.examples,
        end_ids=load.end_ids(policy, tokenizer),
        pad_id=found.encoder.pad,
        sampling=sampling,
        about={"model": where, "reference": against, "data": data},
    )


def run_model(path: str) -> tuple[str, str | None]:
    """(model directory, reference) of a run directory; any other path as it is, its reference not known."""
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        return path, None
    if not (folder / "model" / "config.json").is_file():
        raise InputError(f"{path} is a run without a model yet: go on with it, or give a finished run")
    try:
        settings: Any = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        start, ref = str(settings["model"]), settings.get("ref")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.yaml'}: not the settings of a run: {error!r}") from error
    return str(folder / "model"), start if ref in (None, "copy", "adapter", "cached") else str(ref)


def write_report(found: ReferenceReport, folder: Path) -> Path:
    """DIR/reference.json; its path."""
    path = folder / "reference.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, found.as_json())
    except OSError as error:
        raise InputError(f"out = {folder} cannot be written: {error.strerror}") from error
    return path
