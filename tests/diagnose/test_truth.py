"""What finds wrong tokens: AUC and average precision by hand, intervals, controls, injected errors, human spans."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import math
import random
import re
import runpy
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.places import ROOT
from tokenward.data import world, world_rows
from tokenward.diagnose.lens.rows import TokenRow
from tokenward.diagnose.measures.intervals import numbered
from tokenward.diagnose.truth import injected
from tokenward.diagnose.truth.human import read_questions
from tokenward.diagnose.truth.localization import (
    ANY,
    Localization,
    from_json,
    localization,
    moved_marks,
    shown,
    suspicion,
)
from tokenward.diagnose.truth.ranking import redrawn
from tokenward.errors import InputError
from tokenward.lab.theory.ranking import BLOCK, ranked
from tokenward.studies import study as studies
from tokenward.trained.credit import habits, measure, words
from tokenward.trained.credit.plan import Plan
from tokenward.trained.directory import text

# --- AUC and average precision -------------------------------------------------------------------------------------


def brute(scores, labels):
    """(AUC by all pairs, average precision by all thresholds), from their definitions."""
    s, y = np.array(scores, float), np.array(labels, bool)
    wins = [(a > b) + 0.5 * (a == b) for a in s[y] for b in s[~y]]
    steps, recall = 0.0, 0.0
    for cut in sorted(set(s.tolist()), reverse=True):
        kept = s >= cut
        now = y[kept].sum() / y.sum()
        steps += (now - recall) * y[kept].mean()
        recall = now
    return float(np.mean(wins)), float(steps)


@pytest.mark.parametrize(
    ("scores", "labels", "area", "precision"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], 3 / 4, (1 + 2 / 3) / 2),
        ([2, 2, 1, 1], [1, 0, 1, 0], 1 / 2, 1 / 2),  # two thresholds: precision ½ at both
        ([3, 2, 2, 2, 1], [0, 1, 1, 0, 0], (0 + 0.5 + 1) / 3, 2 / 4),  # negatives above, equal, below
        ([1, 1, 1], [1, 0, 0], 1 / 2, 1 / 3),  # all equal: chance
        ([1, 2, 3], [1, 0, 0], 0.0, 1 / 3),
    ],
)
def test_areas_and_precisions_by_hand(scores, labels, area, precision):
    found = ranked(
        torch.tensor(scores, dtype=torch.float64), positive=torch.tensor(labels, dtype=torch.bool),
        owner=torch.arange(len(scores)), copies=torch.ones(1, len(scores), dtype=torch.float64),
    )  # fmt: skip
    assert [float(x) for x in found] == pytest.approx([area, precision])
    assert brute(scores, labels) == pytest.approx((area, precision))


def test_copies_of_owners_are_the_same_as_events_written_so_often():
    rng = np.random.default_rng(0)
    scores, labels, owner = rng.integers(0, 6, 40), rng.random(40) < 0.3, rng.integers(0, 7, 40)
    copies = rng.integers(0, 4, (5, 7)).astype(float)
    areas, averages = ranked(
        torch.tensor(scores, dtype=torch.float64), positive=torch.tensor(labels), owner=torch.tensor(owner),
        copies=torch.tensor(copies),
    )  # fmt: skip
    for row, area, average in zip(copies, areas.tolist(), averages.tolist(), strict=True):
        times = row[owner].astype(int)
        assert (area, average) == pytest.approx(brute(np.repeat(scores, times), np.repeat(labels, times)))


def test_draws_are_worked_off_in_blocks_of_the_same_numbers(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    scores = torch.randint(20, (300,), generator=rng).double()
    each = {
        "positive": torch.rand(300, generator=rng) < 0.2, "owner": torch.arange(300) % 30,
        "copies": redrawn(30, draws=40, seed=0),
    }  # fmt: skip
    whole = ranked(scores, **each)
    for block in (1, 301, 7 * 300):
        monkeypatch.setattr("tokenward.lab.theory.ranking.BLOCK", block)
        assert all(torch.equal(one, two) for one, two in zip(whole, ranked(scores, **each), strict=True))


def test_memory_of_a_ranking_does_not_grow_with_texts_times_tokens():
    """2,000 texts of 50 tokens: a table of texts × tokens would be 2·10⁸ numbers; the largest made here is counted."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            for one in made if isinstance(made, tuple | list) else (made,):
                largest = max(largest, one.nbytes if isinstance(one, torch.Tensor) else 0)
            return made

    rng = torch.Generator().manual_seed(0)
    owner = torch.arange(2000).repeat_interleave(50)
    copies = redrawn(2000, draws=200, seed=0)
    each = {"positive": torch.rand(100_000, generator=rng) < 0.1, "owner": owner, "copies": copies}
    with Sizes():
        area, precision = ranked(torch.randn(100_000, generator=rng), **each)
    assert len(area) == len(precision) == 201 and (area - 0.5).abs().max() < 0.05
    assert largest <= 8 * max(BLOCK + BLOCK // 100, copies.numel()) < 10e6


def test_a_weighting_without_a_kind_has_no_area():
    areas, averages = ranked(
        torch.tensor([1.0, 2.0]).double(), positive=torch.tensor([True, False]), owner=torch.arange(2),
        copies=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double(),
    )  # fmt: skip
    assert areas.isnan().tolist() == averages.isnan().tolist() == [True, True, False]
    empty = torch.zeros(0).double()
    none = ranked(empty, positive=empty.bool(), owner=empty.long(), copies=torch.ones(2, 1).double())
    assert all(math.isnan(x) for part in none for x in part.tolist())


# --- tables --------------------------------------------------------------------------------------------------------


def texts(number, *, seed=0, length=12, share=0.2, kinds=("a", "b")):
    """Rows with random marks."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        wrong = tuple(str(rng.choice(kinds)) if rng.random() < share else "" for _ in range(length))
        rows.append(TokenRow("p", ("x",) * length, {}, wrong=wrong))
    return rows


def noisy(rows, gap, *, seed=0, only=None):
    """A score that is higher by `gap` where a token is wrong, with noise of size 1."""
    rng = np.random.default_rng(seed)
    return [
        [float(rng.normal() + gap * (bool(kind) if only is None else kind == only)) for kind in row.wrong]
        for row in rows
    ]


def test_each_type_of_error_stands_against_the_right_tokens_alone():
    rows = [TokenRow("p", tuple("uvwxyz"), {}, wrong=("a", "", "b", "", "", "a"))] * 2
    scores = {"s": [[5.0, 4.0, 3.0, 2.0, None, 1.0]] * 2}
    found = localization(rows, scores, draws=100)
    assert (found.of("s").wrong, found.of("s").right) == (6, 4)
    assert (found.of("s", error="a").wrong, found.of("s", error="a").right) == (4, 4)
    assert found.of("s", error="a").auc.value == pytest.approx(1 / 2)  # 5 above 4 and 2, 1 below both
    assert found.of("s", error="b").auc.value == pytest.approx(1 / 2)
    assert found.of("s").auc.value == pytest.approx(3 / 6)
    some = localization(rows, scores, places=[[True, True, True, False, True, False]] * 2, draws=100)
    assert some.of("s", error="a").auc.value == 1.0 and some.of("s", error="b").auc.value == 0.0
    with pytest.raises(InputError, match="no line t, any in the table"):
        found.of("t")


def test_intervals_cover_the_truth_as_often_as_they_say():
    truth = 0.5 * (1 + math.erf(1.0 / 2))  # P(N(1,1) > N(0,1)) = Φ(1/√2)
    covered = 0
    for seed in range(60):
        rows = texts(40, seed=seed, kinds=("a",))
        one = localization(rows, {"s": noisy(rows, 1.0, seed=seed + 1000)}, draws=200, seed=seed).of("s").auc
        covered += one.low <= truth <= one.high
    assert 51 <= covered <= 60  # 95 % of 60 is 57; 51 or fewer has a chance of 2e-4


def test_a_paired_difference_is_narrower_than_two_intervals_and_signed():
    rows = texts(60)
    good = noisy(rows, 1.5)
    worse = [
        [x + 0.3 * y for x, y in zip(a, b, strict=True)] for a, b in zip(good, noisy(rows, 0.0, seed=5), strict=True)
    ]
    found = localization(rows, {"good": good, "worse": worse}, draws=400)
    lead = found.lead("worse")
    assert lead.auc.value == pytest.approx(found.of("good").auc.value - found.of("worse").auc.value)
    assert lead.ap.value == pytest.approx(found.of("good").ap.value - found.of("worse").ap.value)
    wide = found.of("good").auc.high - found.of("good").auc.low
    assert 0 < lead.auc.low < lead.auc.high and lead.auc.high - lead.auc.low < wide
    same = localization(rows, {"good": good, "again": good}, draws=100).lead("again").auc
    assert (same.low, same.high) == (0.0, 0.0)


def test_a_turned_score_gives_one_minus():
    rows = texts(200, share=0.3)
    score = noisy(rows, 1.0)
    turned = [[-x for x in row] for row in score]
    found = localization(rows, {"score": score, "turned": turned}, draws=200)
    assert found.of("score").auc.value + found.of("turned").auc.value == pytest.approx(1.0)
    assert found.of("score").auc.low > 0.7


def test_moved_marks_leave_what_a_score_knows_of_texts_and_nothing_else():
    even = [TokenRow("p", ("x",) * 12, {}, wrong=("a",) * 3 + ("",) * 9)] * 200
    score = noisy(even, 1.0)
    moved = localization(moved_marks(even, seed=1), {"score": score}, draws=200).of("score")
    assert moved.auc.low < 0.5 < moved.auc.high
    assert moved.ap.low < 0.25 < moved.ap.high
    uneven = [TokenRow("p", ("x",) * 12, {}, wrong=("a",) * n + ("",) * (12 - n)) for n in (1, 8)] * 100
    by_text = [[float("a" in row.wrong[2:])] * 12 for row in uneven]  # the same for every token of a text
    one = localization(uneven, {"s": by_text}, draws=100).of("s")
    assert localization(moved_marks(uneven, seed=1), {"s": by_text}, draws=100).of("s") == one and one.auc.low > 0.6


def test_moved_marks_keep_runs_and_shares_of_each_text():
    rows = [TokenRow("p", tuple("abcdef"), {}, wrong=("", "e", "e", "", "", ""))] * 8
    for row in moved_marks(rows, seed=0):
        ring = "".join(kind or "." for kind in row.wrong) * 2
        assert ring.count("ee") >= 1 and row.wrong.count("e") == 2
    assert len({row.wrong for row in moved_marks(rows, seed=0)}) > 1


def test_texts_of_one_source_are_drawn_together():
    rows = texts(40)
    score = noisy(rows, 1.0)
    twice = localization(rows * 4, {"s": score * 4}, clusters=[str(i) for i in range(40)] * 4, draws=300).of("s").auc
    once = localization(rows, {"s": score}, draws=300).of("s").auc
    alone = localization(rows * 4, {"s": score * 4}, draws=300).of("s").auc
    assert twice == pytest.approx(once) or (twice.high - twice.low) / (once.high - once.low) == pytest.approx(1.0)
    assert (alone.high - alone.low) < 0.7 * (twice.high - twice.low)


def test_a_table_reads_back_and_shows_its_numbers():
    rows = texts(12)
    found = localization(rows, {"s": noisy(rows, 1.0), "t": noisy(rows, 0.0, seed=3)}, draws=100)
    assert from_json(json.loads(json.dumps(found.as_json()))) == found
    assert shown(found.of("s").auc) in found.text() and "average precision" in found.text()
    only = [TokenRow("p", ("x", "y"), {}, wrong=("", ""))] * 3
    nothing = localization(only, {"s": [[0.0, 1.0]] * 3}, draws=100)
    assert nothing.as_json()["found"][0]["auc"]["value"] is None and nothing.of("s").wrong == 0
    assert math.isnan(from_json(nothing.as_json()).of("s").auc.value) and shown(nothing.of("s").auc) == "–"
    unknown = localization(only, {"s": [[None, None]] * 3}, draws=100)  # no token takes part
    assert unknown.text().splitlines()[1].split() == ["s", "any", "–", "–", "–", "0", "0", "0"]


@pytest.mark.parametrize(
    ("rows", "scores", "says"),
    [
        ([], {"s": []}, "0 rows and 1 scores"),
        ([TokenRow("p", ("x",), {})] * 2, {"s": [[0.0]] * 2}, "says nothing of errors"),
        ([TokenRow("p", ("x",), {}, wrong=("",))] * 2, {"s": [[0.0]]}, "s: 1 rows that do not have the tokens"),
        ([TokenRow("p", ("x",), {}, wrong=("",))], {"s": [[0.0]]}, "two of them at least, got 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(rows, scores, says):
    with pytest.raises(InputError, match=says):
        localization(rows, scores)


def test_a_number_that_is_nan_is_refused_by_its_place():
    rows = [TokenRow("p", ("x", "y"), {}, wrong=("", "a"))] * 2
    with pytest.raises(InputError, match="s: NaN at token 2 of text 1; None is for a token without a number"):
        localization(rows, {"s": [[0.0, math.nan], [None, 1.0]]}, draws=100)


def test_numbers_of_rows_are_turned_towards_errors():
    row = TokenRow("p", ("x", "y"), {"credit": (1.0, None), "ref_entropy": (2.0, 3.0)}, where="f:1")
    assert suspicion([row], "credit") == [(-1.0, None)] and suspicion([row], "ref_entropy") == [(2.0, 3.0)]
    with pytest.raises(InputError, match="f:1 has no logp; it has credit, ref_entropy"):
        suspicion([row], "logp")
    with pytest.raises(InputError, match="no way is known in which 'weight'"):
        suspicion([row], "weight")


def test_the_first_row_of_draws_is_the_sample_and_each_other_draws_as_many():
    copies = redrawn(9, draws=50, seed=0)
    assert (copies[0] == 1).all() and (copies.sum(-1) == 9).all() and len(copies) == 51
    assert copies[1:].mean() == 1.0 and copies[1:].var() > 0.5
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]


# --- errors that are injected --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written():
    """Right texts of the built-in writer."""
    _, held = world_rows.prompt_rows(train=10, heldout=50, seed=0)
    rows = [(row["prompt"], row["completion"].split()) for row in world_rows.sft_rows(held, count=150, seed=1)]
    return [(p, w) for p, w in rows if (t := world.truth(p, w)) is not None and not t.errors]


def differences(one, two):
    return [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]


def test_an_injected_error_is_what_it_says(written):
    rng, seen = random.Random(0), 0
    for prompt, right in written:
        facts = set(world.facts_of(prompt).values())
        wrong = injected.wrong_fact(prompt, right, rng)
        if wrong is None:
            assert not facts & set(right)  # nothing stated, nothing to get wrong
            continue
        seen += 1
        (place,) = wrong.errors
        assert differences(wrong.words, right) == [place] and right[place] in facts
        assert wrong.words[place] not in facts  # by hand: another value than the prompt's
        (values,) = (values for values in world.FACTS.values() if right[place] in values)
        assert wrong.words[place] in values
        again = injected.repeat(prompt, right, rng)
        assert again.words[: len(right)] == tuple(right)
        said = " ".join(again.words[len(right) :])
        assert said in " ".join(right) and said[-1] in ".!"
        broke = injected.broken(prompt, right, rng)
        (at,) = broke.errors
        assert differences(broke.words, right) == [at] and right[at] not in facts
        for made, kind in ((wrong, "contradiction"), (again, "repeat"), (broke, "broken")):
            truth = world.truth(prompt, made.words)
            assert {i: k for i, k in enumerate(truth.kind) if k} == made.errors
            assert set(made.errors.values()) == {kind} and truth.errors == 1
    assert seen > 40


def test_a_second_error_differs_from_a_first_one_by_its_context_alone(written):
    rng, seen = random.Random(0), 0
    for prompt, right in written:
        two = injected.second_error(prompt, right, rng)
        if two is None:
            continue
        seen += 1
        assert two.first < two.second and two.clean == tuple(right)
        assert differences(two.only_first, right) == [two.first]
        assert differences(two.only_second, right) == [two.second]
        assert differences(two.both, right) == [two.first, two.second]
        assert two.both[two.second] == two.only_second[two.second]
        assert world.truth(prompt, two.both).errors == 2
    assert seen > 30


def test_a_text_with_an_error_of_its_own_is_left_alone():
    prompt = "order : red lamp . it came late . review :"
    rng = random.Random(0)
    for right in (["the", "lamp", "is", "blue", "."], ["i", "love", "it", ".", "i", "love", "it", "."]):
        assert injected.wrong_fact(prompt, right, rng) is None and injected.repeat(prompt, right, rng) is None
        assert injected.broken(prompt, right, rng) is None and injected.second_error(prompt, right, rng) is None
    assert injected.wrong_fact("what is this", ["it", "was", "late", "."], rng) is None


def test_the_writer_of_habits_errs_with_the_same_word_half_of_the_time():
    _, held = world_rows.prompt_rows(train=10, heldout=300, seed=0)
    told, right = 0, 0
    for number, row in enumerate(habits.habit_rows(held, count=600, seed=3)):
        for word in world.words_of(row["completion"]):
            name = next((n for n, values in world.FACTS.items() if word in values), None)
            if name is not None and held[number % 300][name] != habits.HABITS[name]:
                told, right = told + 1, right + (word == held[number % 300][name])
                assert word in (held[number % 300][name], habits.HABITS[name])
    assert abs(right / told - 0.5) < 4 * math.sqrt(0.25 / told) and told > 800


# --- human spans ---------------------------------------------------------------------------------------------------


def question(**changes):
    plain = {f"prediction {i}": f"answer {i}." for i in (1, 2, 3, 4)}
    errors = [{"error type": "Irrelevant", "start": 0, "end": 6}]
    return {"question": "why?", **plain, "preference": [0, 1, 2, 1, 0, 2], "feedback": {"errors": errors}, **changes}


def test_human_feedback_becomes_pairs_and_marked_answers(tmp_path):
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(question()) + "\n").encode()))
    (one,) = read_questions(path)
    winners = dict(zip(combinations((1, 2, 3, 4), 2), (0, 1, 2, 1, 0, 2), strict=True))
    wanted = [(f"answer {(a, b)[w - 1]}.", f"answer {(b, a)[w - 1]}.") for (a, b), w in winners.items() if w]
    assert [(row["chosen"], row["rejected"]) for row in one.pairs()] == wanted
    assert one.marked() == {"prompt": "why?\n", "completion": "answer 1.", "spans": [[0, 6, "Irrelevant"]]}
    assert [row["completion"] for row in one.demonstrations()] == [f"answer {i}." for i in (1, 2, 3, 4)]


def test_spans_count_the_answer_as_it_stands_after_white_space_is_cut(tmp_path):
    errors = [{"error type": "e", "start": 2, "end": 8}]
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(question(**{"prediction 1": "  answer 1.", "feedback": {"errors": errors}})))
    (one,) = read_questions(path)
    assert one.answers[0][slice(*one.errors[0][:2])] == "answer"
    spans = [(0, 4), (1, 2), (4, 5), (0, 2), (3, 4)]
    errors = [{"error type": "e", "start": start, "end": end} for start, end in spans]
    path.write_text(json.dumps(question(**{"prediction 1": "  abc ", "feedback": {"errors": errors}})))
    (one,) = read_questions(path)
    assert one.answers[0] == "abc" and one.errors == ((0, 2, "e"), (2, 3, "e"), (1, 2, "e"))
    errors = [{"error type": "e", "start": 0, "end": 4}]
    path.write_text(json.dumps(question(**{"prediction 1": "abc ", "feedback": {"errors": errors}})))
    assert read_questions(path)[0].errors == ((0, 3, "e"),)


@pytest.mark.parametrize(
    "changes",
    [{"preference": [1, 2]}, {"preference": [3] * 6}, {"feedback": {}}, {"prediction 2": None}, {"question": 7},
     {"feedback": {"errors": [{"error type": "e", "start": 5, "end": 5}]}}],
)  # fmt: skip
def test_a_row_of_another_format_is_named_by_its_line(tmp_path, changes):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(question()) + "\n" + json.dumps(question(**changes)))
    with pytest.raises(InputError, match=r"f\.jsonl:2: not a row of FineGrainedRLHF's feedback"):
        read_questions(path)


def test_a_damaged_archive_is_named(tmp_path):
    raw = bytearray(gzip.compress(random.Random(0).randbytes(1000)))
    raw[12] ^= 0xFF
    (tmp_path / "f.jsonl.gz").write_bytes(bytes(raw))
    with pytest.raises(InputError, match=r"f\.jsonl\.gz: cannot be read"):
        read_questions(tmp_path / "f.jsonl.gz")


def test_the_real_feedback_is_read_whole(shared):
    found = read_questions(shared / "data" / "finegrained" / "feedback_even.jsonl.gz")
    assert len(found) == 250 and sum(len(one.errors) for one in found) == 716
    assert 100 < sum(one.held_out for one in found) < 150
    assert all(one.answers[0][start:end].strip() for one in found for start, end, _ in one.errors)


@pytest.mark.parametrize(
    ("given", "says"),
    [((), "usage: "), (("none.jsonl", "m", "o"), "none.jsonl: cannot be read"), (("f", "m", "o"), "f:1: not a row")],
)
def test_the_command_of_human_spans_refuses_in_one_line(tmp_path, monkeypatch, given, says):
    (tmp_path / "f").write_text("{}\n")
    script = str(ROOT / "benchmarks" / "credit" / "human_spans.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *given])
    with pytest.raises(SystemExit, match=says):
        runpy.run_path(script, run_name="__main__")
    assert not (tmp_path / "o").exists()


# --- the study -----------------------------------------------------------------------------------------------------


def test_suspicion_is_high_where_credit_is_low_and_the_tables_say_so():
    """Two texts of one prompt each, the second fact wrong: the policy writes it less often than SFT."""
    logps = {"sft": [-1.0, -1.0], "dpo": [-0.5, -3.0], "dpo-random": [-1.0, -1.0], "dpo-swapped": [-3.0, -0.5]}
    models = {name: {"logp": [row, row], "entropy": [[0.2, 0.1]] * 2} for name, row in logps.items()}
    found = measure.suspicions(models, beta=0.5)
    assert found[measure.TRUE] == [[-0.25, 1.0]] * 2 and found[measure.SWAPPED] == [[1.0, -0.25]] * 2
    assert found[measure.SFT_LOGP] == [[1.0, 1.0]] * 2 and found[measure.POLICY_LOGP] == [[0.5, 3.0]] * 2
    texts = {"set": ["sampled"] * 2, "prompt": [0, 1], "tokens": [[3, 4]] * 2, "kind": [["", "contradiction"]] * 2,
             "slot": [[True, True]] * 2}  # fmt: skip
    table = from_json(measure.tables(texts, models, beta=0.5, draws=100)["sampled_facts"])
    assert [table.of(name).auc.value for name in (measure.TRUE, measure.RANDOM, measure.SWAPPED)] == [1.0, 0.5, 0.0]


def near(value, *, reach=0.01, wrong=50):
    interval = {"value": value, "low": value - reach, "high": value + reach}
    return {"auc": interval, "ap": interval, "wrong": wrong, "right": 400, "texts": 20}


def table(values, *, errors=(ANY,), against=measure.TRUE):
    found = [{"score": name, "error": error, **near(value)} for error in errors for name, value in values.items()]
    leads = [
        {"score": against, "against": name, "error": error, "auc": near(values[against] - value)["auc"],
         "ap": near(0.0)["ap"]}
        for error in errors for name, value in values.items() if name != against
    ]  # fmt: skip
    return {"found": found, "leads": leads, "draws": 100, "level": 0.95}


def results():
    """Numbers for which every claim holds."""
    values = dict(zip(words.SCORES, (0.97, 0.5, 0.03, 0.98, 0.6, 0.98), strict=True))
    rare = {**values, measure.SFT_LOGP: 0.9}
    tables = {name: table(values) for name in words.FACTS}
    tables["habit-sampled_facts"] = table({**values, measure.SFT_LOGP: 0.55})
    tables |= {name: table(rare, errors=(ANY, "broken", "contradiction", "repeat")) for name in words.ALL}
    pair = table({"after": 0.97, "alone": 0.97}, against="after")
    credit = {
        name: {"mean": -1.0, "se": 0.1, "count": 5, "clusters": 5} for name in ("both", "only_second", "difference")
    }
    tables["second"] = {**dict.fromkeys(words.SCORES, pair), "credit": credit}
    settings = {"beta": 0.3, "seed": 0, "scale": 1.0, "held_prompts": 8}
    return {"tables": tables, "settings": settings, "pairs": {"built-in": 9}, "seconds": 9.0}


def test_the_study_says_what_the_numbers_say(tmp_path):
    found = words.told(copy.deepcopy(results()))
    assert not found.failed and len(found.claims) == 9 and len(found.tables) == 3 and len(found.figures) == 2
    studies.write(found, tmp_path / "data.jsonl")
    assert studies.read(tmp_path / "data.jsonl").claims == found.claims
    assert "0.970 (0.960 to 0.980)" in text(found)


@pytest.mark.parametrize(
    ("name", "score", "value", "says"),
    [
        ("sampled_facts", measure.RANDOM, 0.961, "random or swapped labels (SFT texts)"),
        ("injected_facts", measure.SWAPPED, 0.961, "random or swapped labels (one injected error)"),
        ("habit-sampled_facts", measure.RANDOM, 0.961, "random or swapped labels (SFT texts, habits)"),
        ("sampled_facts", measure.RANDOM, 0.39, "within 0.1 of chance"),
        ("sampled_facts", measure.SWAPPED, 0.495, "Swapped labels turn it round"),
        ("habit-sampled_facts", measure.SFT_ENTROPY, 0.961, "as likely as the truth"),
        ("sampled_facts", measure.SFT_LOGP, 0.9, "likelihood finds wrong facts as well"),
        ("injected_all", measure.SFT_LOGP, 0.961, "rare words are right as well"),
    ],
)
def test_each_claim_fails_when_its_number_does(name, score, value, says):
    given = results()
    (error,) = ("contradiction",) if name == "injected_all" else (ANY,)
    for one in given["tables"][name]["found"]:
        if (one["score"], one["error"]) == (score, error):
            one |= near(value)
    for one in given["tables"][name]["leads"]:
        if (one["against"], one["error"]) == (score, error):
            one["auc"] = near(0.97 - value)["auc"]
    failed = words.told(given).failed
    assert says in failed[0].text and len(failed) == 1 + (value == 0.961 and name == "sampled_facts")


def test_the_claim_of_the_second_error_fails_when_it_is_found_less_well():
    given = results()
    given["tables"]["second"][measure.TRUE] = table({"after": 0.94, "alone": 0.97}, against="after")
    (failed,) = words.told(given).failed
    assert "second wrong fact" in failed.text


def test_plans_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="draws 100 or more"):
        Plan(draws=10)


TINY = Plan(
    train_prompts=60, held_prompts=16, pair_prompts=30, pair_samples=4, texts=2, written=4, draws=100,
    dpo={"updates": 2, "rows_per_update": 8, "learning_rate": 2e-4, "schedule": "linear"},
)  # fmt: skip


@pytest.mark.slow
def test_the_whole_command_at_a_tiny_scale(tmp_path):
    from tokenward.trained.credit.story import study

    out = tmp_path / "a"
    printed = study(out=str(out), scale=0.02, plan=TINY)
    found = json.loads((out / "results.json").read_text())
    assert set(found["tables"]) == {*words.FACTS, *words.ALL, "second"}
    injected_all: Localization = from_json(found["tables"]["injected_all"])
    kinds = {one.error: one.wrong for one in injected_all.found}
    assert set(kinds) == {ANY, "contradiction", "repeat", "broken"}
    assert kinds["contradiction"] == kinds["repeat"] == kinds["broken"] == kinds[ANY] / 3 > 0  # one of each a text
    facts = from_json(found["tables"]["injected_facts"]).of(measure.TRUE)
    assert facts.wrong == kinds["contradiction"] < facts.right
    second = from_json(found["tables"]["second"][measure.SFT_ENTROPY])
    assert second.of("after").auc.value == pytest.approx(0.5, abs=0.05)  # what stands before it is the same: rounding
    rows = [json.loads(line) for line in (out / "runs" / "data" / "pairs.jsonl").read_text().splitlines()]
    swapped = [json.loads(line) for line in (out / "runs" / "data" / "swapped-pairs.jsonl").read_text().splitlines()]
    assert [(r["chosen"], r["rejected"]) for r in rows] == [(r["rejected"], r["chosen"]) for r in swapped]
    texts_found = json.loads((out / "runs" / "done" / "texts.json").read_text())["found"]
    numbers = json.loads((out / "runs" / "done" / "numbers-sft.json").read_text())["found"]
    assert [len(row) for row in numbers["logp"]] == [len(row) for row in texts_found["tokens"]]
    assert len(studies.read(out / "data.jsonl").claims) == 9 and "numbers:" in printed


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "script"),
    [("credit.md", "credit/tables.py"), ("comparisons.md", "tables.py"),
     ("process_credit.md", "process_credit/tables.py")],
)  # fmt: skip
def test_the_tables_of_the_page_are_those_of_the_recorded_runs(page, script):
    spec = importlib.util.spec_from_file_location("tables_of_page", ROOT / "benchmarks" / script)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    told, tables = (ROOT / "docs" / page).read_text(encoding="utf-8"), made.docs()
    marks = re.findall(r"^<!-- (\w+) -->\n(.*?)<!-- end -->$", told, flags=re.MULTILINE | re.DOTALL)
    assert sorted(name for name, _ in marks) == sorted(tables)
    for name, shown_there in marks:
        assert shown_there == tables[name] + "\n", f"run: python benchmarks/{script} docs"
