"""The results of the two-model story as a study: claims, tables, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table

Row = Mapping[str, Any]
HERE = "measured here"
LABELS = {
    "sft": "SFT pipeline",
    "joint": "joint: both models, one loss",
    "rewriter": "rewriter alone, answerer SFT",
    "answerer": "answerer alone, rewriter SFT",
    "separate": "each trained alone, put together",
}
COLUMNS = {
    "reward": "true reward", "facts": "right facts in the note (of 3)", "great": "notes of good mood",
    "own_errors": "errors against the own note",
}  # fmt: skip
MARKS = {
    "note": "rewriter: wrong facts of notes, from right ones",
    "mood": "rewriter: notes' mood bad, from great",
    "own": "answerer: facts that are not its note's, from right ones",
    "inherited": "answerer: facts that are false as the note was, from right ones",
}


def told(results: dict[str, Any]) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    plan = results["settings"]
    return Study(
        name="two-models",
        title="Two models, one preference",
        question="Does one preference on the final answer train a rewriter and an answerer together?",
        world=(
            "the built-in text world; a rewriter turns a prompt into a note of three facts and a mood, an answerer "
            "writes a review and sees the note alone; both start from one careless SFT model of 0.44 million weights; "
            f"seed {plan['seed']}, scale {plan['scale']:g}; {_sample(results)}"
        ),
        claims=(*_gains(results), *_credits(results)),
        figures=(_figure(results),),
        tables=(_table(results), _marks(results)),
        notes=_notes(results),
    )


def _gains(results: Row) -> tuple[Claim, ...]:
    """Joint training against each alone, and each against the SFT pipeline."""
    found = results["pipelines"]
    check = f"bootstrap over prompts, {_sample(results)}; measured: "
    better = [
        Claim(
            f"{LABELS[name].split(':')[0].split(',')[0].capitalize()} training earns more than the SFT pipeline.",
            HERE, f"{check}lower end of the paired difference {_ends(found[name]['minus_sft'])}",
            found[name]["minus_sft"]["low"], at_least=0.0,
        )
        for name in ("joint", "rewriter", "answerer")
    ]  # fmt: skip
    alone = [
        Claim(
            f"Joint DPO earns more than training the {name} alone, with equally many updates on the same pairs.",
            "after Rafailov et al. 2024, App. D, which has no experiment for it; measured here",
            f"{check}upper end of {name} alone − joint {_ends(found[name]['minus_joint'])}",
            found[name]["minus_joint"]["high"], at_most=0.0,
        )
        for name in ("rewriter", "answerer")
    ]  # fmt: skip
    return (*better, *alone)


def _credits(results: Row) -> tuple[Claim, ...]:
    """What each model's credit says, from preferences between reviews alone."""
    mood, plain = (results["credit"][value]["mood"] for value in ("credit", "ref_logp"))
    inherited = results["credit"]["credit"]["inherited"]
    check = "area under the ROC curve (AUC), bootstrap over runs; "
    known = None not in (mood["low"], plain["high"])
    return (
        Claim(
            "Low credit of the rewriter tells a bad mood from a great one, better than low log π_ref does, though "
            "nobody judged a note.", HERE,
            f"{check}credit {_area(mood)}, log π_ref {_area(plain)}; measured: lower end less upper end",
            mood["low"] - plain["high"] if known else math.nan, at_least=0.0,
        ),
        Claim(
            "The answerer is not blamed for what its note got wrong: its credit does not tell facts that it inherited "
            "from right ones.", "derived here: it sees the note alone; measured here",
            f"{check}credit {_area(inherited)}; measured: |AUC − ½|",
            math.nan if inherited["auc"] is None else abs(inherited["auc"] - 0.5), at_most=0.1,
        ),
    )  # fmt: skip


def _table(results: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, label in LABELS.items():
        found = results["pipelines"][name]
        gap = None if name == "joint" else _ends(found["minus_joint"])
        rows.append((label, *(_ends(found[key]) for key in COLUMNS), gap))
    return Table(
        "Held-out runs", ("pipeline", *COLUMNS.values(), "reward − joint's"), tuple(rows),
        note=(
            f"Mean (95 % interval, bootstrap over prompts), {_sample(results)}. Every run of preferences took "
            f"{results['settings']['dpo']['updates']} updates (× scale) on the same {results['pairs']['pairs']} pairs, "
            "so the last line has taken twice as many. Intervals are of prompts and texts for these trained models, "
            "not of training seeds."
        ),
    )  # fmt: skip


def _marks(results: Row) -> Table:
    found, plain = results["credit"]["credit"], results["credit"]["ref_logp"]
    rows = tuple(
        (label, _area(found[name]), _area(plain[name]), float(found[name]["positives"]))
        for name, label in MARKS.items()
    )
    return Table(
        "What low credit finds after joint DPO: area under the ROC curve",
        ("wrong words", "AUC of low credit", "AUC of low log π_ref, before any preference", "words"), rows,
        note=(
            "In runs of the SFT pipeline on held-out prompts; 95 % interval, bootstrap over runs. Wrong facts may "
            "surprise the reference as well: only what credit tells better than log π_ref comes from preferences. "
            "The mood is a coin's toss in the SFT data, one word wherever it stands. The answerer cannot know that a "
            "note is false."
        ),
    )  # fmt: skip


def _figure(results: Row) -> Figure:
    found = results["pipelines"]
    rows = [found[name]["reward"] for name in LABELS]
    columns = [[row[key] for row in rows] for key in ("value", "low", "high")]
    names = [label.split(":")[0] for label in LABELS.values()]
    return Figure(
        "rewards", "True reward of held-out reviews", "", "reward",
        (Series("true reward", names, columns[0], "bars", *columns[1:]),),
        "95 % intervals, bootstrap over prompts.",
    )  # fmt: skip


def _notes(results: Row) -> tuple[str, ...]:
    gap = results["pipelines"]["separate"]["minus_joint"]
    sign = "more than" if gap["low"] > 0 else "less than" if gap["high"] < 0 else "not told apart from"
    return (
        f"Models trained apart and put together: {_ends(gap)} against joint, {sign} joint training.",
        "Pairs: two runs of the SFT pipeline on one training prompt, the first preferred with probability "
        "σ(r_first − r_second), r the true reward of the review; the notes are never judged.",
        "Credit of both models: runs/credit/credit.html.",
        f"Whole command {results['seconds']:.0f} s on one thread.",
    )


def _sample(results: Row) -> str:
    return f"{results['counts']['prompts']} held-out prompts × {results['counts']['runs']} runs"


def _ends(found: Row) -> str:
    """An estimate and its interval: `0.12 (0.10 to 0.14)`."""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _area(found: Row) -> str:
    if found["auc"] is None:
        return "no such words"
    return f"{found['auc']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
