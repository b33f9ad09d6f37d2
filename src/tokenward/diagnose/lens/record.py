"""Credit of a file's texts as files: credit.jsonl, a row for each text, and credit.json, what the numbers are."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, final

import torch

from tokenward import __version__
from tokenward.data.tokenize import Limits, StepPair
from tokenward.diagnose.lens.batches import batch_of, recipe_batch
from tokenward.diagnose.lens.columns import Models, columns_of
from tokenward.diagnose.lens.recipe_values import Method, recipe_columns, units
from tokenward.diagnose.lens.request import Meant, Request, claim, meant
from tokenward.diagnose.lens.rows import MEANINGS, TokenRow, write_rows, writing
from tokenward.diagnose.lens.sampled import Sampled
from tokenward.diagnose.lens.texts import Given, Text, by_prompt, read, scored, texts
from tokenward.diagnose.lens.token_rows import token_rows
from tokenward.diagnose.lens.voices import Cast, cast
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.likely import Candidate, likely
from tokenward.models.value_head import value_source
from tokenward.objective.recipe import Recipe
from tokenward.rollout import rewards
from tokenward.runlog import write_json
from tokenward.types import Batch, take

BLOCK = 256  # examples whose tensors are held at once
FORMAT = "tokenward credit 1"


@final
@dataclass(frozen=True)
class Written:
    """Where the rows lie, how many there are, and lines that say what they are."""

    folder: Path
    texts: int
    notes: tuple[str, ...]


def credit(
    request: Request,
    *,
    recipe: Recipe | None = None,
    recipe_beta: float | None = None,
    show: Literal["lines", "none"] = "lines",
) -> Written:
    """Write credit.jsonl and credit.json of a request; `recipe` adds its rewards, advantages and token weights.

    Texts pass in micro-batches and are written as they come (a recipe's rewards and advantages are of all texts at
    once, so there the numbers of all of them are held, never logits). `recipe_beta`: the pull to the reference that the
    recipe was made with, which a note tells apart from the β of credit. `show`: progress on stderr.
    """
    start = time.monotonic()
    asked = meant(request, recipe)
    rewards.check(request.reward, timeout_s=request.reward_timeout_s)
    claim(Path(request.out))
    tokenizer = load.tokenizer(asked.model)
    limits = Limits(request.max_tokens, request.max_prompt_tokens)
    given = read(request.data, tokenizer=tokenizer, split=request.split, limits=limits, limit=request.limit)
    asked = _one_model(request, asked, given)
    speakers = cast(request, asked, tokenizer=tokenizer, recipe=recipe)
    given = _fitting(given, request, speakers, tokenizer)
    if request.reward is not None:
        given = scored(given, _judge(request, tokenizer))
    seen = _Seen(show=show, of=len(given.examples))
    rows = _rows(request, asked, given, speakers, recipe, seen)
    folder = Path(request.out)
    with writing(folder):
        (folder / "credit.json").unlink(missing_ok=True)  # until it is written anew it would speak of other rows
    count = write_rows(folder / "credit.jsonl", seen.counted(rows))
    notes = _notes(request, asked, given, recipe, seen, count)
    notes += [] if recipe is None else _scales(recipe, asked, recipe_beta)
    about = _about(request, asked, given, recipe, seen)
    with writing(folder):
        write_json(folder / "credit.json", {**about, "notes": notes, "seconds": round(time.monotonic() - start, 3)})
    return Written(folder, count, tuple(notes))


def _one_model(request: Request, asked: Meant, given: Given) -> Meant:
    """The same without a partner where it wrote no text; one that was given is refused there."""
    if asked.partner is None or any(isinstance(example, StepPair) for example in given.examples):
        return asked
    if request.partner is not None:
        raise InputError(f"partner = {request.partner} writes steps of a pipeline: {request.data} has none, drop it")
    told = {name: line for name, line in asked.said.items() if name != "partner"}
    return replace(asked, partner=None, partner_ref=None, said=told)


def _fitting(given: Given, request: Request, speakers: Cast, tokenizer: Any) -> Given:
    """The texts cut to what the models can read, where no limit was given and one is longer."""
    contexts = [c for c in speakers.contexts if c is not None]
    longest = min(contexts, default=None)
    if request.max_tokens is not None or longest is None:
        return given
    rows = texts(given, given.examples)
    if all(len(text.prompt.tokens) + len(text.response.tokens) <= longest for text in rows):
        return given
    limits = Limits(longest, request.max_prompt_tokens)
    return read(request.data, tokenizer=tokenizer, split=request.split, limits=limits, limit=request.limit)


def _judge(request: Request, tokenizer: Any) -> rewards.Reward:
    judge = rewards.judge(
        request.reward, tokenizer=tokenizer, dtype=request.dtype, device=request.device,
        timeout_s=request.reward_timeout_s,
    )  # fmt: skip
    assert judge is not None  # there is a spec
    return judge


def _rows(
    request: Request, asked: Meant, given: Given, speakers: Cast, recipe: Recipe | None, seen: _Seen
) -> Iterator[TokenRow]:
    """The rows, block by block; a recipe's are one block."""
    if recipe is not None and recipe.streams[0].kind == "rollouts":
        given = by_prompt(given)
    size = BLOCK if recipe is None else len(given.examples)
    left = request.alternatives
    for first in range(0, len(given.examples), size):
        part = replace(given, examples=given.examples[first : first + size])
        rows = texts(part, part.examples, first=first)
        if recipe is None:
            batch = batch_of(part.examples, pad_id=given.pad)
        else:
            batch = recipe_batch(recipe, part, rows, ends=asked.sentence_ends)
        said = columns_of(speakers.voices, batch, beta=asked.beta)
        if recipe is not None:
            method = Method(recipe, guide=speakers.guide, guide_ref=speakers.guide_ref)
            said |= recipe_columns(method, batch, said=said, models=speakers.voices[0])
            seen.units, seen.unit = units(batch), "texts" if batch.pairs is None else "pairs"
        seen.values = tuple(name for name in MEANINGS if name in said)
        candidates = _candidates(speakers.voices, batch, rows[:left], top=request.top)
        left -= len(candidates)
        ordered = {name: said[name] for name in seen.values}
        mute = [models.mute for models in speakers.voices]
        made = token_rows(rows, batch, ordered, encoder=given.data.encoder, candidates=candidates, mute=mute)
        yield from seen.sampled.compared(rows, made)
        seen.reached(first + len(part.examples), rows)


def _candidates(voices: tuple[Models, ...], batch: Batch, rows: list[Text], *, top: int) -> list[list[list[Candidate]]]:
    """The likeliest tokens at each place of the first texts, of the model that wrote each."""
    found: list[list[list[Candidate]]] = []
    for number, text in enumerate(rows):
        models = voices[text.actor or 0]
        alone = take(batch, torch.tensor([number]), width=max(int(batch.length[number]), 1))
        found += likely(
            models.policy, alone, top=top, reference=models.reference, temperature=models.temperature
        )  # fmt: skip
    return found


@final
@dataclass
class _Seen:
    """What is known once the rows have been made: counts, values present, texts sampled in other tokens."""

    show: Literal["lines", "none"]
    of: int
    values: tuple[str, ...] = ()
    units: int | None = None
    unit: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    sampled: Sampled = field(default_factory=Sampled)
    started: float = field(default_factory=time.monotonic)

    def counted(self, rows: Iterator[TokenRow]) -> Iterator[TokenRow]:
        """The rows, counted on their way."""
        for row in rows:
            self.counts["texts"] += 1
            self.counts["tokens"] += int(row.totals["length"])
            self.counts["cut"] += "cut" in row.totals
            self.counts["with_alternatives"] += row.alternatives is not None
            self.counts["wrong_tokens"] += 0 if row.wrong is None else sum(map(bool, row.wrong))
            self.counts["with_errors_marked"] += row.wrong is not None
            yield row

    def reached(self, examples: int, rows: list[Text]) -> None:
        """Say how far it is."""
        marked = sum(text.spans is not None for text in rows)
        self.counts["with_spans"] += marked
        if self.show == "lines":
            seconds = time.monotonic() - self.started
            print(f"credit: {examples} of {self.of} rows, {seconds:.1f} s", file=sys.stderr, flush=True)


def _notes(request: Request, asked: Meant, given: Given, recipe: Recipe | None, seen: _Seen, count: int) -> list[str]:
    """What the numbers are of, one line each."""
    against = "no reference" if asked.ref is None else f"reference {asked.ref}, β = {asked.beta:g}"
    lines = [f"model {asked.model}, {against}"]
    if asked.partner is not None:
        lines.append(f"partner {asked.partner}, reference {asked.partner_ref}")
    lines += asked.said.values()
    lines.append(f"{count} texts, {seen.counts['tokens']} tokens of {request.data} ({given.data.schema.name})")
    if dropped := given.data.tally.summary():
        lines.append(dropped)
    if cut := seen.counts["cut"]:
        why = "the models' context" if request.max_tokens is None else "--max-tokens"
        lines.append(f"{cut} of {count} texts were cut: longer with prompt than {given.longest} tokens ({why})")
    tally = given.data.tally
    if shorter := tally.changed["prompt cut"]:
        lines.append(
            f"{shorter} of {tally.rows} rows read have a prompt cut to its last {request.max_prompt_tokens} tokens"
        )
    if request.temperature is not None:
        lines.append(f"temperature {asked.temperature:g} divides the logits of every policy and reference")
    if recipe is not None:
        lines.append(f"recipe {recipe.name}: {seen.units} {seen.unit} taken as one batch")
    if (lost := seen.counts["with_spans"] - seen.counts["with_errors_marked"]) > 0:
        lines.append(f"{lost} texts have marked errors that could not be placed: their tokens do not read as the text")
    lines += seen.sampled.notes()
    if (kept := seen.counts["with_alternatives"]) < count:
        lines.append(f"alternatives are kept of the first {kept} texts" if kept else "no alternatives are kept")
    return lines


def _scales(recipe: Recipe, asked: Meant, recipe_beta: float | None) -> list[str]:
    """A line where the β of credit is not the pull that the recipe's rewards and weights are made with."""
    if asked.beta is None or not recipe_beta or recipe_beta == asked.beta:
        return []
    return [
        f"credit has β = {asked.beta:g}, recipe {recipe.name} has {recipe_beta:g}: reward, advantage and weight "
        f"are the recipe's (--beta {recipe_beta:g} puts credit on its scale)"
    ]


def _about(request: Request, asked: Meant, given: Given, recipe: Recipe | None, seen: _Seen) -> dict[str, Any]:
    """The object of credit.json, but for its notes."""
    critic = asked.critic if asked.value_head is None else request.model  # a run whose head is on the policy's trunk
    models = {"model": asked.model, "ref": asked.ref, "critic": critic, "partner": asked.partner}
    models |= {"partner_ref": asked.partner_ref, "guide": request.guide, "guide_ref": request.guide_ref}
    known = {name: path for name, path in models.items() if path is not None}
    return {
        "format": FORMAT,
        "models": {name: _hashed(path) if name != "critic" else _critic(path) for name, path in known.items()},
        "beta": asked.beta,
        "temperature": asked.temperature,
        "reward": request.reward,
        "recipe": None if recipe is None else {"name": recipe.name, "text": str(recipe), "units": seen.units},
        "data": {
            "source": given.data.source,
            "sha256": given.data.data_hash,
            "kind": given.data.schema.kind,
            "rows": len(given.examples),
            "dropped": dict(given.data.tally.dropped),
        },
        "counts": dict(seen.counts),
        "values": {name: vars(MEANINGS[name]) for name in seen.values},
        "versions": {"tokenward": __version__, **{n: metadata.version(n) for n in ("torch", "transformers")}},
    }


def _hashed(path: str) -> dict[str, str]:
    return {"path": path, "sha256": load.fingerprint(path)}


def _critic(path: str) -> dict[str, str]:
    """A critic, with the hashes of the trunk that gives its values and of a head that lies beside it."""
    trunk, head = value_source(path)
    hashed = {"path": path, "sha256": load.fingerprint(trunk)}
    if head is None:
        return hashed
    with head.open("rb") as file:
        return {**hashed, "head_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
