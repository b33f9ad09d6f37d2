"""`tokenward diagnose --model M --ref R --data D`: the diagnostics of directories and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from tokenward.data import dataset
from tokenward.data.tokenize import Limits
from tokenward.diagnose.lens.run_directory import opened
from tokenward.diagnose.reference.findings import gravest_first
from tokenward.diagnose.reference.measure import Sampling, reference_report
from tokenward.diagnose.reference.record import Finding, ReferenceReport
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.vocabulary import same_tokens
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
    temperature: float | None = None,
    split: str = "train",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
) -> ReferenceReport:
    """The report of a model (directory, run directory or hub name), its reference, and a file of rows.

    `temperature`: absent, that of the run, or 1 where the model is no run directory.
    """
    run = opened(model)
    where, against = run.model, ref or run.reference
    if against is None:
        raise InputError(f"{model} is no run directory, so its reference is not known: give --ref DIR")
    warmth = run.temperature if temperature is None else temperature
    sampling = Sampling(prompts, samples, max_new_tokens, warmth, seed)
    tokenizer = load.tokenizer(where)
    base = opened(against).model
    remedy = "both models score the same token ids: give the model it was trained from"
    same_tokens(base, tokenizer, what="reference", remedy=remedy)
    policy = load.policy(where, dtype=dtype, device=device)
    reference = load.policy(base, dtype=dtype, device=device).requires_grad_(False)
    longest = min([n for n in (max_tokens, policy.context, reference.context) if n is not None], default=None)
    room = None if longest is None else longest - max_new_tokens
    if room is not None and room < 1:
        raise InputError(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in {longest} tokens")
    limits = Limits(max_tokens=longest, max_prompt_tokens=room)
    found = dataset.survey(data, tokenizer=tokenizer, asked_by="diagnose", split=split, limits=limits)
    report = reference_report(
        policy.requires_grad_(False),
        reference,
        found.examples,
        end_ids=load.end_ids(policy, tokenizer),
        pad_id=found.encoder.pad,
        sampling=sampling,
        about={"model": where, "reference": against, "data": data},
    )
    known = seen(data, split, run.settings)
    return report if known is None else replace(report, findings=gravest_first((*report.findings, known)))


def seen(data: str, split: str, run: Mapping[str, Any]) -> Finding | None:
    """A warning where the rows are those that the run was trained on: by name, by place, or by their bytes."""
    own = run.get("data")
    if not own:
        return None
    here, there = Path(data).expanduser(), Path(str(own)).expanduser()
    if here.is_file() and there.is_file():
        same = here.samefile(there) or cmp(here, there, shallow=False)
    else:
        same = here == there and split == run.get("split", "train")
    if not same:
        return None
    return Finding(
        "training-data", "warning", 1.0, 0.0,
        f"The policy was trained on these very rows ({own}). What a rise or a fall of the answers says of their law "
        "holds for answers that the policy does not depend on: on its own training rows it looks better than it is.",
        "Give held-out rows of the same kind as --data.",
    )  # fmt: skip


def write_report(found: ReferenceReport, folder: Path) -> Path:
    """DIR/reference.json; its path."""
    path = folder / "reference.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, found.as_json())
    except OSError as error:
        raise InputError(f"out = {folder} cannot be written: {error.strerror}") from error
    return path
