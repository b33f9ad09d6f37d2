"""The study of two models: its notes, its pairs, its page of both models' credit, its claims."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tokenward.data import world
from tokenward.diagnose.lens.rows import TokenRow, read_rows
from tokenward.studies.study import read
from tokenward.trained.pipeline.bench import Ran, columns, pair_rows
from tokenward.trained.pipeline.credit import areas, joined, marked
from tokenward.trained.pipeline.notes import MOODS, answer_prompt, facts_in, sft_rows
from tokenward.trained.pipeline.words import MARKS, told

ASKED = "order : red lamp . it came late . review :"
FACTS = {"color": "red", "item": "lamp", "event": "late"}


def test_careless_writers_of_notes_and_of_reviews():
    rows = sft_rows([{"prompt": ASKED, **FACTS}], count=2000, seed=0)
    notes, reviews = rows[::2], rows[1::2]
    assert all(row["prompt"] == ASKED for row in notes)
    right = [facts_in(row["completion"]) == FACTS for row in notes]
    assert 0.45 < sum(right) / len(right) < 0.62  # (1 − 0.2·(1 − 1/n)) of each of three facts
    assert 0.4 < sum(row["completion"].endswith("great") for row in notes) / len(notes) < 0.6
    for row in reviews[:300]:
        note = row["prompt"].removesuffix(" . review :")
        assert facts_in(note) is not None and row["prompt"] == answer_prompt(note)
        assert len(row["completion"].split()) <= 24
        assert world.truth(ASKED, world.words_of(row["completion"])) is not None
    good = [row for row in reviews if "great ." in row["prompt"]]
    praise = sum(any(s in row["completion"] for s in MOODS["great"]) for row in good) / len(good)
    assert praise > 0.8


def run(note: str, review: str, *, number: int = 0, whole: bool = True) -> Ran:
    truth = world.truth(ASKED, world.words_of(review))
    assert truth is not None
    return Ran(number, ASKED, note, review, truth.total, whole)


BEST = run("red lamp late great", "the lamp is red . i love it .")
WORST = run("blue lamp late bad", "the lamp is blue . i hate it .")


def test_pairs_of_runs_are_labeled_by_the_review_alone():
    rows = pair_rows([BEST, WORST] * 400, seed=1)
    assert len(rows) == 400
    wins = sum(row["score_chosen"] > row["score_rejected"] for row in rows) / 400
    assert wins > 0.95 and BEST.reward - WORST.reward > 3
    row = next(row for row in rows if row["score_chosen"] == BEST.reward)
    assert row["chosen_steps"] == [
        {"actor": "model", "prompt": ASKED, "completion": "red lamp late great"},
        {"actor": "partner", "prompt": "red lamp late great . review :", "completion": BEST.review},
    ]
    even = pair_rows([BEST, replace(BEST, note="red lamp late bad")] * 400, seed=2)
    first = sum(row["chosen_steps"][0]["completion"].endswith("great") for row in even) / 400
    assert 0.4 < first < 0.6, "two notes with the same review are preferred by a coin"
    assert not pair_rows([BEST, BEST, WORST, replace(BEST, whole=False)], seed=0)


def test_numbers_of_runs():
    found = columns([BEST, WORST, run("nothing", "i love it .", number=1)])
    assert found["prompt"] == [0, 0, 1]
    assert found["columns"]["facts"] == [3.0, 2.0, 0.0] and found["columns"]["great"] == [1.0, 0.0, 0.0]
    assert found["columns"]["own_errors"] == [0.0, 0.0, 0.0], "the worst review is true to its note"
    (own,) = columns([run("red lamp late great", "the lamp is blue .")])["columns"]["own_errors"]
    assert own == 1.0


def step(actor: int, prompt: str, words: str, credit: float, **more: object) -> TokenRow:
    tokens = (*(f" {w}" if n else w for n, w in enumerate(words.split())), "<eos>")
    return TokenRow(
        prompt, tokens, {"credit": (credit,) * len(tokens)}, {"credit": credit * len(tokens), "score": 7.0},
        where="/folder/f:1", pair=0, side="chosen", actor=(actor,) * len(tokens), **more,
    )  # fmt: skip


def run_row(note: str, review: str) -> TokenRow:
    (row,) = joined([step(0, ASKED, note, 1.0), step(1, answer_prompt(note), review, -0.5)])
    return row


def test_steps_become_one_text_with_both_models():
    row = run_row("red lamp late bad", "it was late .")
    assert (row.where, row.prompt) == ("f:1", ASKED)
    assert "".join(row.tokens) == "red lamp late bad<eos>it was late .<eos>"
    assert row.actor == (0,) * 5 + (1,) * 5 == row.segment
    assert row.values["credit"] == (1.0,) * 5 + (-0.5,) * 5
    assert row.totals == {"credit": 2.5, "score": 7.0}
    other = replace(step(0, ASKED, "x", 0.0), side="rejected")
    assert len(joined([step(0, ASKED, "x", 0.0), step(1, "x", "y", 0.0), other])) == 2


def test_marks_say_whose_error_it_is():
    row = marked(run_row("blue lamp late bad", "the lamp is blue . my sofa came late . it was late . it was late ."))
    assert row.wrong is not None
    assert row.wrong[:5] == ("wrong fact", "", "", "", "")
    review = dict(zip(world.words_of("the lamp is blue . my sofa came"), row.wrong[5:12], strict=False))
    assert review["blue"] == "inherited" and review["sofa"] == "wrong copy" and review["lamp"] == ""
    assert "repeat" in row.wrong
    lucky = marked(run_row("blue lamp late bad", "the lamp is red ."))
    assert lucky.wrong is not None and lucky.wrong[-3] == "wrong copy", "right by luck, and not what its note says"
    assert marked(run_row("no note at all", "it was late .")).wrong is None


def test_areas_compare_wrong_words_with_right_ones_of_the_same_model():
    random_ = random.Random(0)
    rows = []
    for _ in range(30):
        row = marked(run_row("blue lamp late bad", "the lamp is blue . my sofa came late ."))
        assert row.wrong is not None
        low = {"wrong fact": -2.0, "wrong copy": -1.0}
        credit = tuple(low.get(mark, 0.0) + 0.1 * random_.random() for mark in row.wrong)
        rows.append(replace(row, values={"credit": credit, "ref_logp": tuple(-x for x in credit)}))
    found = areas(rows)
    assert areas(rows, value="ref_logp")["note"].auc == 0.0
    assert found["note"].auc == found["own"].auc == 1.0
    assert (found["mood"].positives, found["mood"].negatives) == (30, 0)
    assert (found["note"].positives, found["note"].negatives) == (30, 60)
    assert (found["own"].positives, found["own"].negatives) == (30, 60)
    assert found["inherited"].positives == 30 and 0.3 < found["inherited"].auc < 0.7


def results(joint: float) -> dict[str, object]:
    def at(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    rows = {}
    for name, reward in (("sft", -2.0), ("joint", joint), ("rewriter", -1.0), ("answerer", -0.5), ("separate", 0.5)):
        rows[name] = {"reward": at(reward), "facts": at(2), "great": at(0.5), "own_errors": at(1)}
        rows[name] |= {"minus_sft": at(reward + 2), "minus_joint": at(reward - joint)}

    def area(auc: float) -> dict[str, object]:
        return {"auc": auc, "low": auc - 0.05, "high": auc + 0.05, "positives": 9, "negatives": 9}

    said = dict.fromkeys(MARKS, area(0.9)) | {"inherited": area(0.52)}
    return {
        "pipelines": rows,
        "credit": {"credit": said, "ref_logp": dict.fromkeys(MARKS, area(0.7))},
        "counts": {"prompts": 9, "runs": 2}, "pairs": {"pairs": 99}, "seconds": 1.0,
        "settings": {"seed": 0, "scale": 1.0, "dpo": {"updates": 5}},
    }  # fmt: skip


def test_claims_fail_where_numbers_do_not_bear_them_out():
    assert not told(results(joint=0.4)).failed
    assert len(told(results(joint=-0.55)).failed) == 1, "not told apart from the answerer alone"
    assert len(told(results(joint=-1.5)).failed) == 2
    for name, change in (("mood", {"low": 0.7}), ("inherited", {"auc": 0.65}), ("inherited", {"auc": None})):
        bad = results(joint=0.4)
        bad["credit"]["credit"][name] |= change  # type: ignore[index]
        assert len(told(bad).failed) == 1, (name, change)


@pytest.mark.slow
def test_the_study_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tokenward.trained.pipeline.plan import Plan
    from tokenward.trained.pipeline.story import study

    plan = Plan(train_prompts=64, held_prompts=16, pair_prompts=16, pair_runs=4, runs=2, credit_prompts=8)
    for _ in range(2):
        text = study(out=str(tmp_path / "two"), scale=0.01, plan=plan)
    assert "Held-out runs" in text and "joint: done before" in capsys.readouterr().out
    found = read(tmp_path / "two" / "data.jsonl")
    assert len(found.claims) == 7 and found.tables[0].title == "Held-out runs"
    rows = read_rows(tmp_path / "two" / "runs" / "credit" / "credit.jsonl")
    assert rows and all(set(row.actor or ()) == {0, 1} for row in rows)
    assert (tmp_path / "two" / "runs" / "credit" / "credit.html").stat().st_size > 10_000
