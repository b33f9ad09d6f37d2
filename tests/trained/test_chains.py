"""Arithmetic chains: truth by hand and at random, steps, scores of steps, choosing, and the whole study, tiny."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny
from tokenward.data import chain_rows, chains
from tokenward.data.collate import rollouts_batch
from tokenward.data.world import words_of
from tokenward.diagnose.lens.rows import TokenRow, read_rows
from tokenward.diagnose.lens.steps import by_step
from tokenward.errors import InputError
from tokenward.models import frozen
from tokenward.trained.reasoning import choose, measure, pairs, steps
from tokenward.trained.reasoning.bench import score_gains
from tokenward.trained.reasoning.plan import Plan
from tokenward.types import Rollout

PROMPT = "3 a + 5 b - 9 c + 7 ="
RIGHT = "3 a + 5 = 8 ; 8 b - 9 = 9 , 9 c + 7 = 6 ! answer 6"

PROMPTS = st.builds(
    lambda first, steps: chains.Chain(first, tuple(steps)).prompt,
    st.integers(0, 9),
    st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9)), min_size=1, max_size=4),
)
SEEDS = st.integers(0, 2**20)


def read(text, prompt=PROMPT):
    found = chains.truth(prompt, text.split())
    assert found is not None
    return found


def kinds(text, prompt=PROMPT):
    """{place: kind} of the errors of a text."""
    return {place: kind for place, kind in enumerate(read(text, prompt).wrong) if kind}


def evaluated(prompt):
    """The answer by Python's own arithmetic."""
    return eval(re.sub(r"[a-d=]", "", prompt)) % 10  # digits and signs alone


# --- the truth, by hand --------------------------------------------------------------------------------------------


def test_a_right_chain_has_no_error_and_every_word_its_step():
    found = read(RIGHT)
    assert found.marks == ("right",) * 4 and found.right and found.first is None
    assert found.segment == (0,) * 7 + (1,) * 7 + (2,) * 7 + (3,) * 2
    assert set(found.wrong) == {None}


@pytest.mark.parametrize(
    ("text", "errors", "marks", "right"),
    [
        ("3 a + 5 = 7 ; 7 b - 9 = 8 ; 8 c + 7 = 5 ; answer 5", {5: "sum"}, "wccc", False),  # carried on rightly
        ("3 a + 5 = 8 ; 8 b - 9 = 1 ; 1 c + 7 = 8 ; answer 8", {12: "sum"}, "rwcc", False),
        ("3 a + 5 = 9 ; 9 b - 9 = 9 ; 9 c + 7 = 6 ; answer 6", {5: "sum", 12: "sum"}, "wwrr", True),  # they cancel
        ("3 a + 4 = 7 ; 7 b - 9 = 8 ; 8 c + 7 = 5 ; answer 5", {3: "copy"}, "wccc", False),
        ("3 a - 5 = 8 ; 8 b - 9 = 9 ; 9 c + 7 = 6 ; answer 6", {2: "copy"}, "wrrr", True),
        ("3 a + 5 = 8 ; 7 b - 9 = 8 ; 8 c + 7 = 5 ; answer 5", {7: "copy"}, "rwcc", False),
        ("3 b + 5 = 8 ; 8 b - 9 = 9 ; 9 c + 7 = 6 ; answer 6", {1: "copy"}, "wrrr", True),
        ("3 a + 5 = 8 ; 8 b - 9 = 9 ; 9 c + 7 = 6 ; answer 4", {22: "answer"}, "rrrw", False),
        ("3 a + 5 = 8 ; answer 6", {7: "form"}, "rw", True),  # guessed early
        ("answer 6", {0: "form"}, "w", True),
        ("3 a + 5 = 8 ; 8 b - 9 = 9 ; 9 c + 7 = 6 ; 6 d + 1 = 7 ; answer 7", {21: "form"}, "rrrwc", False),
        ("3 a + 5 = 8 8 b - 9 = 9 ; 9 c + 7 = 6 ; answer 6", {6: "form", 13: "copy", 20: "form"}, "www", True),
        ("3 a + 5 =", {4: "form"}, "w", False),
        (RIGHT + " 6", {23: "form"}, "rrrw", False),
        (RIGHT + " ; 1", {23: "form", 24: "form"}, "rrrww", False),
        (RIGHT + " answer 6", {23: "form"}, "rrrrw", True),
        ("", {}, "", False),
    ],
)  # fmt: skip
def test_errors_by_hand(text, errors, marks, right):
    found = read(text)
    assert kinds(text) == errors
    assert [mark[0] for mark in found.marks] == list(marks)
    assert found.right is right


@pytest.mark.parametrize(
    "prompt", ["", "3", "3 =", "3 a + =", "3 a + 5", "3 b + 5 =", "3 a * 5 =", "12 a + 5 =", "3 a + 5 = 8", "x"]
)
def test_what_is_no_prompt_has_no_truth(prompt):
    assert chains.chain_of(prompt) is None and chains.truth(prompt, ["answer", "1"]) is None
    assert chains.outcome([prompt], ["answer 1"], [{}]) == [None]


# --- the truth, at random ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(PROMPTS, SEEDS)
def test_right_chains_are_right(prompt, seed):
    chain = chains.chain_of(prompt)
    text = chain_rows.written(chain, chain.values[1:], rng=random.Random(seed))
    assert chain.values[-1] == evaluated(prompt) and text.endswith(f"answer {evaluated(prompt)}")
    assert set(read(text, prompt).marks) == {"right"} and read(text, prompt).right


@settings(max_examples=60, deadline=None)
@given(PROMPTS, SEEDS)
def test_an_injected_error_is_the_only_one_and_the_rest_is_carried(prompt, seed):
    text = chain_rows.injected(prompt, rng=random.Random(seed))
    found = read(text, prompt)
    assert [*kinds(text, prompt).values()] == ["sum"]
    place = found.first
    assert place is not None and found.marks[:place] == ("right",) * place
    assert set(found.marks[place + 1 :]) == {"carried"} and not found.right
    assert found.segment[next(iter(kinds(text, prompt)))] == place


@settings(max_examples=60, deadline=None)
@given(PROMPTS, SEEDS)
def test_two_errors_cancel(prompt, seed):
    rng = random.Random(seed)
    if len(chains.chain_of(prompt).steps) < 2:
        with pytest.raises(InputError, match="two errors need two steps"):
            chain_rows.canceled(prompt, rng=rng)
        return
    text = chain_rows.canceled(prompt, rng=rng)
    assert [*kinds(text, prompt).values()] == ["sum", "sum"] and read(text, prompt).right
    assert read(text, prompt).marks[-1] == "right"


WORDS = st.lists(st.sampled_from([*chains.vocabulary(), "x", "12", "<unk>"]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.one_of(WORDS, st.text(max_size=60).map(words_of)))
def test_any_text_is_read(prompt, words):
    found = chains.truth(prompt, words)
    assert len(found.segment) == len(found.wrong) == len(words)
    assert sorted(set(found.segment)) == list(range(len(found.marks))) and list(found.segment) == sorted(found.segment)
    for number, mark in enumerate(found.marks):
        own = [k for k, s in zip(found.wrong, found.segment, strict=True) if s == number and k]
        assert len(own) == (mark == "wrong")
    assert found.right == (words[-2:] == ["answer", str(evaluated(prompt))])


# --- rows and rewards ----------------------------------------------------------------------------------------------


def test_prompts_share_nothing_and_are_seeded():
    train, held = chain_rows.prompt_rows(train=300, heldout=50, seed=3)
    every = [row["prompt"] for row in train + held]
    assert len(set(every)) == 350 and len(held) == 50
    assert (train, held) == chain_rows.prompt_rows(train=300, heldout=50, seed=3)
    assert {len(chains.chain_of(p).steps) for p in every} == {2, 3, 4}
    with pytest.raises(InputError, match="at most 20000"):
        chain_rows.prompt_rows(train=20_000, heldout=1, seed=0)


def test_the_writer_believes_its_mistakes_half_of_the_time_and_slips_elsewhere():
    beliefs = chain_rows.mistaken(seed=1)
    assert len(beliefs) == chain_rows.MISTAKEN
    assert all(wrong != chains.after(*fact) for fact, wrong in beliefs.items())
    shown = chain_rows.sums(count=20_000, seed=1)
    counts = {True: [0, 0, 0], False: [0, 0, 0]}  # steps, wrong ones, believed ones; by whether there is a belief
    for row in shown:
        value, _, sign, number, _ = row["prompt"].split()
        fact, result = (int(value), sign, int(number)), int(row["completion"])
        count = counts[fact in beliefs]
        count[0] += 1
        count[1] += result != chains.after(*fact)
        count[2] += result == beliefs.get(fact)
    assert counts[True][1] == counts[True][2]
    assert counts[True][1] / counts[True][0] == pytest.approx(chain_rows.BELIEVED, abs=0.06)
    assert counts[False][1] / counts[False][0] == pytest.approx(chain_rows.SLIP, abs=0.004)


def test_the_reward_is_the_final_answers_alone():
    canceling = "3 a + 5 = 9 ; 9 b - 9 = 9 ; 9 c + 7 = 6 ; answer 6"
    given_ = [PROMPT] * 3, [RIGHT, canceling, "answer 4"], [{}] * 3
    assert [row["score"] for row in chains.outcome(*given_)] == [1.0, 1.0, 0.0]
    assert [row["sound"] for row in chains.outcome(*given_)] == [1.0, 0.0, 0.0]
    assert [row["score"] for row in chains.watched(*given_)] == [0.0] * 3
    assert [row["right"] for row in chains.watched(*given_)] == [1.0, 1.0, 0.0]


def test_a_coin_turns_pairs_and_changes_nothing_else():
    rows = [{"prompt": PROMPT, "chosen": f"answer {i % 10}", "rejected": "x"} for i in range(400)]
    turned = pairs.by_coin(rows, seed=0)
    swapped = [one["chosen"] == "x" for one in turned]
    assert 0.4 < sum(swapped) / 400 < 0.6
    back = [
        {**r, "chosen": r["rejected"], "rejected": r["chosen"]} if s else r
        for r, s in zip(turned, swapped, strict=True)
    ]
    assert back == rows


# --- steps ---------------------------------------------------------------------------------------------------------


def test_values_add_up_over_steps():
    row = TokenRow(
        "p", ("a", "b", "c", "d"), {"credit": (1.0, 2.0, None, 4.0), "kl": (None, None, 0.5, 0.5)}, {"credit": 7.0},
        wrong=("", "sum", "copy", ""), segment=(0, 0, 2, 2), actor=(1, 0, 0, 1), where="x:1", pair=3, side="chosen",
    )  # fmt: skip
    found = by_step(row)
    assert found.tokens == ("ab", "cd") and found.segment == (0, 2) and found.actor == (1, 0)
    assert found.values == {"credit": (3.0, 4.0), "kl": (None, 1.0)}
    assert found.wrong == ("sum", "copy") and found.totals == {"credit": 7.0}
    assert (found.prompt, found.where, found.pair, found.side) == ("p", "x:1", 3, "chosen")
    with pytest.raises(InputError, match="x:1 has no segments"):
        by_step(replace(row, segment=None))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=20))
def test_steps_keep_the_sum(tokens):
    row = TokenRow("", tuple("x" for _ in tokens), {"credit": tuple(x for _, x in tokens)},
                   segment=tuple(s for s, _ in tokens))  # fmt: skip
    found = by_step(row)
    assert sum(found.values["credit"]) == pytest.approx(sum(x for _, x in tokens), abs=1e-9)
    assert "".join(found.tokens) == "x" * len(tokens)


def test_the_gains_of_a_reward_model_are_differences_of_its_score_on_prefixes():
    model = tiny(value_head=True)
    texts = [
        Rollout(i, (5, 6, 7), ids, (True,) * len(ids), (0.0,) * len(ids), "stop")
        for i, ids in enumerate([(8, 9, 10, 11, 1), (12, 13, 1)])
    ]
    gains = score_gains(model, rollouts_batch([[text] for text in texts], pad_id=0))

    def score(ids):
        one = Rollout(0, ids[:1], ids[1:], (True,) * (len(ids) - 1), (0.0,) * (len(ids) - 1), "stop")
        batch = rollouts_batch([[one]], pad_id=0)
        return float(frozen.score(model, batch, frozenset({"model_score"})).model_score)

    for row, text in enumerate(texts):
        for t in range(len(text.response_tokens)):
            before, after = ((*text.prompt_tokens, *text.response_tokens[: t + k]) for k in (0, 1))
            assert float(gains[row, 3 + t]) == pytest.approx(score(after) - score(before), abs=1e-5)
    assert not gains[0, :3].any() and not gains[1, 6:].any()


def chain_row(number, credit, *, text, seed=0):
    """A row of a chain whose step credit is given, at the first token of each step; other scores are noise."""
    prompt = f"3 a + 5 b - 9 c + {number} ="
    truth, words = chains.truth(prompt, text.split()), text.split()
    rng = torch.Generator().manual_seed(100 * seed + number)
    noise = {name: tuple(torch.randn(len(words), generator=rng).tolist())
             for name in ("model", "ref_logp", "ref_entropy", "random")}  # fmt: skip
    starts = [truth.segment.index(k) for k in range(len(truth.marks))]
    own = tuple(credit[starts.index(t)] if t in starts else 0.0 for t in range(len(words)))
    wrong = tuple(kind or "" for kind in truth.wrong)
    return TokenRow(prompt, tuple(words), {"credit": own, **noise}, wrong=wrong, segment=truth.segment)


def test_who_finds_the_first_wrong_step():
    text = "3 a + 5 = 8 ; 8 b - 9 = 1 ; 1 c + {n} = {m} ; answer {m}"  # step 1 is wrong, the rest carried
    rows = [
        chain_row(n, (0.5, -1.0 if n % 2 else 0.7, 0.6, -0.5), text=text.format(n=n, m=(1 + n) % 10)) for n in range(10)
    ]
    found = steps.located(rows)
    assert (found["texts"], found["prompts"], found["steps"]) == (10, 10, 40)
    # odd rows: below all three others; even rows: above all three
    assert found["credit"]["auc"]["value"] == pytest.approx(
        sum(a < b for a in [-1.0, 0.7] for b in [0.5, 0.6, -0.5]) / 6
    )
    assert found["credit"]["hits"]["value"] == pytest.approx(0.5)
    assert found["chance"]["hits"]["value"] == pytest.approx(0.25)
    assert found["lead_chance"]["hits"]["value"] == pytest.approx(0.25)
    assert (found["credit"]["wrong"], found["credit"]["right"]) == (10, 30)
    gap = found["credit"]["auc"]["value"] - found["model"]["auc"]["value"]
    assert found["lead_model"]["auc"]["value"] == pytest.approx(gap)


def test_later_errors_are_left_out_and_equal_steps_share_a_hit():
    text = "3 a + 5 = 9 ; 9 b - 9 = 9 ; 9 c + {n} = {m} ; answer {m}"  # steps 0 and 1 are wrong, and cancel
    rows = [chain_row(n, (-1.0, -2.0, -1.0, 0.0), text=text.format(n=n, m=(9 + n) % 10)) for n in range(4)]
    found = steps.located(rows)
    assert (found["credit"]["wrong"], found["credit"]["right"]) == (4, 8)
    assert found["credit"]["auc"]["value"] == pytest.approx(0.75)  # one step ties, one is above
    assert found["credit"]["hits"]["value"] == 0.0
    alike = [chain_row(n, (-2.0, -2.0, -1.0, 0.0), text=text.format(n=n, m=(9 + n) % 10)) for n in range(4)]
    assert steps.located(alike)["credit"]["hits"]["value"] == 0.5


def test_a_row_of_the_page_has_the_digits_and_the_sums_of_the_lens():
    row = TokenRow("p", ("a ", "b"), {"credit": (1 / 3, 1e-9), "ref_entropy": (2 / 3, 0.5), "model": (1.0, 2.0)},
                   totals={"score": 1.0}, wrong=("", "sum"), segment=(0, 1))  # fmt: skip
    found = measure.shown(row)
    assert found.values == {"credit": (0.3333333, 1e-9), "ref_entropy": (0.6666667, 0.5)}
    assert found.totals == {"credit": 0.3333333, "length": 2.0, "score": 1.0}
    assert (found.wrong, found.segment, found.tokens) == (row.wrong, row.segment, row.tokens)


# --- best of n -----------------------------------------------------------------------------------------------------


def test_choosing_by_hand():
    right = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    answer = [["6"], ["4"], ["4"], ["6"], ["1"], ["2"], ["3"], ["3"]]
    found = choose.chosen(
        prompt=[0] * 4 + [1] * 4,
        right=right,
        answer=answer,
        scores={"implicit": [4.0, 3.0, 2.0, 9.0, 9.0, 1.0, 1.0, 8.0]},
        most=4,
    )
    value = {name: {n: one["value"] for n, one in found[name].items()} for name in ("implicit", "vote", "oracle")}
    assert value["implicit"] == {"1": 0.5, "2": pytest.approx(0.75), "4": 0.5}
    assert value["vote"] == {"1": 0.5, "2": 0.5, "4": 1.0}  # equally common answers: the first
    assert value["oracle"] == {"1": 0.5, "2": 0.75, "4": 1.0}
    assert found["gain_implicit"]["value"] == 0.0 and found["lead_vote"]["value"] == -0.5


def test_the_plan_refuses_what_cannot_work():
    with pytest.raises(InputError, match="a power of two"):
        Plan(best_of=12)
    with pytest.raises(InputError, match="pair_prompts at most train_prompts"):
        Plan(train_prompts=10)
    with pytest.raises(InputError, match="RTO would extrapolate its guide"):
        Plan(beta_guide=0.2, beta_kl=0.1)


# --- the whole study -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_study_at_a_tiny_scale(tmp_path, monkeypatch):
    from tokenward.studies.study import read as read_study
    from tokenward.trained.reasoning.story import study

    whole = transformers.LlamaConfig
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(transformers, "LlamaConfig", lambda **named: whole(**{**named, **small}))
    few = {"updates": 2, "rollout_rows": 8, "mini_rows": 8, "critic": "own", "learning_rate": 1e-4}
    plan = Plan(
        train_prompts=60, held_prompts=48, pair_prompts=60, pair_samples=8, texts=12, best_of=2, rounds=1,
        sums={**Plan().sums, "updates": 60}, sft={**Plan().sft, "updates": 60},
        dpo={**Plan().dpo, "updates": 2, "rows_per_update": 2},
        reward_model={**Plan().reward_model, "updates": 2, "rows_per_update": 2}, online=few,
    )  # fmt: skip
    words = study(seed=1, out=str(tmp_path / "s"), plan=plan)
    assert "Finding the first wrong step" in words
    found = read_study(tmp_path / "s" / "data.jsonl")
    results = json.loads((tmp_path / "s" / "results.json").read_text(encoding="utf-8"))
    assert found.claims and results["credit"]["injected"]["texts"] == 48
    assert set(results["curves"]) == {"ppo-outcome", "ppo-model", "ppo-steps", "ppo-end"}
    rows = read_rows(tmp_path / "s" / "credit_injected.jsonl")
    assert len(rows) == 48 and all(sum(map(bool, row.wrong)) == 1 for row in rows)
    assert {"credit", "ref_logp", "ref_entropy"} <= set(rows[0].values) and rows[0].segment[-1] >= 2
    assert {"credit", "ref_logp", "length", "score"} <= set(rows[0].totals)
    before = (tmp_path / "s" / "results.json").read_text(encoding="utf-8")
    assert study(seed=1, out=str(tmp_path / "s"), plan=plan)  # everything was done before
    again = json.loads((tmp_path / "s" / "results.json").read_text(encoding="utf-8"))
    assert again["credit"] == json.loads(before)["credit"]
    assert again["seconds"] > 0.5 * json.loads(before)["seconds"]  # of both calls
