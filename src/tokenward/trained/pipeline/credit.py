"""Credit of both models on one page: each run of the pipeline as one text, the note first, then the review."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import Any

from tokenward.data import world
from tokenward.diagnose.lens.record import credit
from tokenward.diagnose.lens.request import Request
from tokenward.diagnose.lens.rows import TokenRow, read_rows, write_rows
from tokenward.diagnose.measures.intervals import Area, area
from tokenward.report.lens.page import write_lens
from tokenward.stages import Stages
from tokenward.trained.pipeline.notes import MOODS, facts_in, prompt_of, wrong_words

TOTALS = ("credit", "ratio", "logp", "ref_logp", "kl", "length")  # what adds up over the steps of a run


def looked_at(stages: Stages, *, beta: float) -> dict[str, Any]:
    """credit.jsonl and credit.html of the joint run; what low credit finds of bad words, and what low log π_ref."""
    folder = stages.out / "credit"
    request = Request(
        model=stages.model("joint"),
        ref=stages.model("sft"),
        partner=str(stages.out / "joint" / "partner"),
        partner_ref=stages.model("sft"),
        beta=beta,
        data=str(stages.file("held-pairs.jsonl")),
        out=str(folder / "steps"),
    )
    credit(request, show="none")
    rows = [marked(row) for row in joined(read_rows(folder / "steps" / "credit.jsonl"))]
    write_rows(folder / "credit.jsonl", rows)
    write_lens(
        rows,
        folder / "credit.html",
        title="Two models, one preference",
        notes=(
            "Each text is a run of the pipeline: the rewriter's note (actor 0, segment 0), then the answerer's review "
            "(actor 1, segment 1), which was written from the note alone. Credit is that of each model after joint "
            "DPO on preferences between reviews; the texts are of held-out prompts.",
        ),
    )
    return {value: _plain(areas(rows, value=value)) for value in ("credit", "ref_logp")}


def _plain(found: Mapping[str, Area]) -> dict[str, dict[str, float | None]]:
    """As JSON; what no word stands behind is None."""
    return {
        name: {key: None if isnan(x) else x for key, x in vars(one).items()} for name, one in found.items()
    }  # fmt: skip


def joined(steps: Iterable[TokenRow]) -> list[TokenRow]:
    """The rows of single steps as a row for each run of the pipeline: tokens in order, a segment for each step.

    Steps of a run stand together and share `where`, `pair` and `side`; the prompt is that of the first step. Numbers of
    MEANINGS that some step lacks are left out, and so are alternatives; of `where` the file's name and line stay.
    """
    found = []
    for _, group in groupby(steps, key=lambda row: (row.where, row.pair, row.side)):
        parts = list(group)
        names = [name for name in parts[0].values if all(name in part.values for part in parts)]
        sums = [name for name in TOTALS if all(name in part.totals for part in parts)]
        others = {name: value for name, value in parts[0].totals.items() if name not in TOTALS}
        found.append(
            replace(
                parts[0],
                where=None if parts[0].where is None else Path(parts[0].where).name,
                tokens=tuple(token for part in parts for token in part.tokens),
                values={name: tuple(x for part in parts for x in part.values[name]) for name in names},
                totals={name: sum(part.totals[name] for part in parts) for name in sums} | others,
                wrong=None,
                segment=tuple(place for place, part in enumerate(parts) for _ in part.tokens),
                actor=tuple(a for part in parts for a in part.actor or (0,) * len(part.tokens)),
                alternatives=None,
            )
        )
    return found


def marked(run: TokenRow) -> TokenRow:
    """The run with the world's marks at its words, where words are tokens one to one.

    In the note "wrong fact" · in the review what contradicts its own note is "wrong copy", also where it is right by
    luck, what is false only because the note was is "inherited", and besides the world's "repeat" and "broken".
    """
    assert run.segment is not None  # `joined` gives it
    note, review = ([t for t, s in zip(run.tokens, run.segment, strict=True) if s == n] for n in (0, 1))
    words = [world.words_of("".join(part)) for part in (_written(note), _written(review))]
    said, wrong = facts_in(" ".join(words[0])), wrong_words(run.prompt, " ".join(words[0]))
    if said is None or wrong is None or [len(note), len(review)] != [len(w) + 1 for w in words]:
        return run
    of_prompt, of_note = (world.truth(asked, words[1]) for asked in (run.prompt, prompt_of(said)))
    assert of_prompt is not None and of_note is not None  # `wrong_words` has read the prompt
    names = {"contradiction": "inherited"}
    kinds = [
        "wrong copy" if own == "contradiction" else names.get(kind or "", kind or "")
        for kind, own in zip(of_prompt.kind, of_note.kind, strict=True)
    ]
    return replace(run, wrong=(*wrong, "", *kinds, ""))


def _written(tokens: Sequence[str]) -> list[str]:
    """The pieces of a step without its end token."""
    return list(tokens[:-1])


def areas(runs: Sequence[TokenRow], *, value: str = "credit") -> dict[str, Area]:
    """How well a low value (of MEANINGS) tells bad words from good ones of the same model; bootstrap over runs.

    note: facts of a note that are wrong from those that are right · mood: "bad" at the end of a note from "great", a
    coin's toss in the SFT data · own: facts of a review that are not its note's from those without a mark ·
    inherited: facts that are false because the note was, from the same.
    """
    facts = {word for values in world.FACTS.values() for word in values}
    wanted = {"note": (0, "wrong fact"), "mood": (0, ""), "own": (1, "wrong copy"), "inherited": (1, "inherited")}
    found: dict[str, Area] = {}
    for name, (actor, kind) in wanted.items():
        scores: list[float] = []
        labels: list[bool] = []
        owners: list[int] = []
        for number, run in enumerate(runs):
            if run.wrong is None or run.actor is None:
                continue
            for token, mark, own, x in zip(run.tokens, run.wrong, run.actor, run.values[value], strict=True):
                word = token.strip()
                if own != actor or x is None or mark not in ("", kind) or word not in (facts if kind else MOODS):
                    continue
                scores.append(-x)
                labels.append(mark == kind if kind else word == "bad")
                owners.append(number)
        found[name] = area(scores, labels, clusters=owners)
    return found
