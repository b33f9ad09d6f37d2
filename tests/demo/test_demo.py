"""The demo's parts by hand, and (slow) its whole code at a tenth of its updates: shapes and bounds, no significance."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from tokenward.data import world, world_model, world_rows
from tokenward.demo import measure as demo_measure
from tokenward.demo import story as demo
from tokenward.demo import words as demo_words
from tokenward.diagnose.measures.intervals import estimate
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.runlog import read
from tokenward.types import Rollout

METHOD = {"reward", "reward_se", "kl", "kl_se", "error_rate", "length", "seconds"}
RUNS = ["sft-copy", "sft", "dpo", "dpo-random-labels", "reward-model", "ppo", "rto"]


def test_a_directory_that_is_not_the_demos_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that the demo did not make"):
        demo.demo(out=str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match=r"thesis.txt is a file: give another --out"):
        demo.demo(out=str(tmp_path / "mine" / "thesis.txt"))


def test_a_directory_of_an_earlier_demo_is_made_anew(tmp_path):
    out = demo.claimed(tmp_path / "demo")
    (out / "report.html").write_text("old")
    assert demo.claimed(out) == out and not (out / "report.html").exists() and (out / "data").is_dir()


@pytest.mark.parametrize("scale", [0.0, -1.0, 11.0, math.nan])
def test_a_scale_out_of_range_is_refused(tmp_path, scale):
    with pytest.raises(InputError, match="scale multiplies the updates"):
        demo.demo(out=str(tmp_path / "demo"), scale=scale)
    assert not (tmp_path / "demo").exists()


def test_rto_keeps_its_guide_below_the_pull_to_the_reference():
    plan = demo.Plan()
    assert 0 < plan.beta_guide <= plan.beta_kl
    with pytest.raises(InputError, match=r"β_guide 0\.3 is above β_kl 0\.1"):
        demo.Plan(beta_guide=0.3, beta_kl=0.1)


def test_the_judge_is_the_world():
    (row,), _ = world_rows.prompt_rows(train=1, heldout=1, seed=0)
    text = f"the {row['item']} is {'red' if row['color'] != 'red' else 'blue'} . i love it ."
    (found,) = demo_measure.judge([row["prompt"]], [text], [{}])
    truth = world.truth(row["prompt"], text.split())
    assert found == {"score": truth.total, "errors": 1.0}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A bench on a policy that knows nothing."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("bench")
    tokenizer = world_model.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(world_model.model_config(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows, _ = world_rows.prompt_rows(train=3, heldout=1, seed=1)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return demo_measure.Bench(str(folder / "model"), folder / "prompts.jsonl", seed=0)


def response(bench, text, *, finish="stop", number=0):
    ids = bench.tokenizer(text, add_special_tokens=False)["input_ids"] + ([bench.ends[0]] if finish == "stop" else [])
    n = len(ids)
    return Rollout(number, bench.prompts[number].tokens, tuple(ids), (True,) * n, (0.0,) * n, finish)


def test_marks_stand_at_the_tokens_that_are_wrong(bench):
    facts = world.facts_of(bench.prompts[0].text)
    other = "red" if facts["color"] != "red" else "blue"
    text = response(bench, f"the {facts['item']} is {other} . it was {facts['event']} .")
    kinds, slots = bench.marks(text)
    assert kinds == ("", "", "", "contradiction", "", "", "", "", "", "")
    assert slots == (False, True, False, True, False, False, False, True, False, False)  # the end token is no slot


def test_a_text_whose_tokens_are_not_its_words_has_no_marks(bench):
    assert bench.marks(response(bench, "i love it . <bos> it was late .")) is None
    assert bench.marks(response(bench, "i love it", finish="length"))[0][-1] == "broken"


def test_credit_reads_texts_with_their_errors(bench):
    facts = world.facts_of(bench.prompts[0].text)
    texts = [response(bench, f"my {facts['item']} came {facts['event']} ."), response(bench, "i love it . i love it .")]
    area, rows = bench.credit(bench.reference, texts, beta=0.1)
    assert (area.auc, area.positives, area.negatives) == (0.5, 1, 2)  # a policy that is its reference knows nothing
    assert rows[0].prompt == bench.prompts[0].text and rows[0].tokens[-1] == "<eos>"
    assert "".join(rows[0].tokens[:-1]).split() == ["my", facts["item"], "came", facts["event"], "."]
    assert [kind for kind in rows[1].wrong if kind] == ["repeat"]


def test_a_search_row_says_what_its_text_is_worth(bench):
    backbone = bench.reference.backbone
    judge = Scorer(backbone, None, torch.nn.Linear(backbone.config.hidden_size, 1, bias=False))
    found = bench.search(bench.reference, judge=judge, n=2, width=2, count=3)
    assert set(found) == {"best_of_n", "best_of_n_implicit", "beam"}
    assert found["best_of_n"]["kl"] == pytest.approx(math.log(2) - 0.5, abs=1e-5)  # the policy is its reference
    assert found["beam"]["kl"] > 1  # −log π of one text of a model that knows nothing
    assert all(row["tokens"] > 0 and row["length"] >= 1 for row in found.values())


def test_the_gap_is_taken_prompt_by_prompt():
    """Prompt means 1 and 5 against 0 and 2: differences 1 and 3, mean 2 ± 1."""

    def samples(*scores):
        texts = [Rollout(number, (1,), (2,), (True,), (0.0,), "stop", score=score) for number, score in scores]
        return demo_measure.Samples(texts, {})

    one = samples((0, 0.0), (0, 2.0), (1, 5.0))
    assert demo_measure.gap(one, samples((0, 0.0), (1, 2.0))) == estimate([1.0, 3.0])


def result(name="x"):
    method = {
        "reward": 1.0,
        "reward_se": 0.1,
        "kl": 2.0,
        "kl_se": 0.1,
        "error_rate": 0.5,
        "length": 9.0,
        "seconds": 10.0,
    }
    search = {**method, "tokens": 100.0}
    return {
        "methods": {
            "sft": method, "dpo": {**method, "reward": 2.0}, "ppo": {**method, "reward": 1.1},
            "rto": {**method, "reward": 0.0},
        },
        "search": {"best_of_n": search, "beam": search},
        "rto_minus_ppo": {"reward": -1.1, "reward_se": 0.1},
        "ceiling": [{"kl": 0.0, "reward": 1.0, "reward_se": 0.1, "effective": 400.0}],
        "credit_auc": 0.9, "credit_auc_interval": [0.88, 0.92], "credit_auc_random_labels": 0.5,
        "heldout_accuracy": {
            name: {"accuracy": 0.7} for name in ("dpo", "reward_model", "dpo-random-labels", "longer_wins")
        },
        "settings": {
            "beta_guide": 0.05, "beta_kl": 0.1, "best_of": 8, "width": 4, "search_prompts": 96,
            "ceiling_samples": 400, "ceiling_prompts": 24, "held_prompts": 256, "texts": 4,
        },
    }  # fmt: skip


def test_the_words_say_what_the_numbers_say_whatever_the_sign():
    text = "\n".join(demo_words.notes(result()))
    assert "DPO is above SFT in true reward (+1.00 ± 0.14)" in text
    assert "PPO is not to be told from SFT in true reward (+0.10 ± 0.14)" in text
    assert "RTO is below SFT in true reward (-1.00 ± 0.14)" in text
    assert "is below PPO at the same tuning and budget (-1.10 ± 0.10 on the same prompts)" in text
    assert "nothing above it; every method is further from SFT than that" in text


def test_a_method_above_the_ceiling_is_named():
    found = result()
    found["methods"]["dpo"] |= {"ceiling": 1.0, "ceiling_se": 0.2}
    assert "DPO above it by more than two standard errors" in "\n".join(demo_words.notes(found))
    found["methods"]["dpo"] |= {"ceiling": 1.9}
    assert "; nothing above it." in "\n".join(demo_words.notes(found))


def test_the_table_has_a_line_for_every_method_and_search():
    table = demo_words.table(result())
    assert all(label in table for label in ("SFT", "DPO", "PPO", "RTO", "best of n by reward model"))
    assert "2.00 ± 0.10" in table and max(map(len, table.splitlines())) <= 100


@pytest.mark.slow
def test_the_demo_at_a_tenth_of_its_updates(tmp_path):
    out = tmp_path / "demo"
    plan = replace(demo.Plan(), held_prompts=64, search_prompts=16, ceiling_samples=200, pair_prompts=100)
    words = demo.demo(out=str(out), scale=0.1, seed=3, plan=plan)
    summary = json.loads((out / "summary.json").read_text())
    check_summary(summary, words, out)
    for run in RUNS:
        events = [event for event in read(out / run / "events.jsonl") if event["event"] == "update"]
        assert len(events) >= 2 and (out / run / "model" / "config.json").is_file()
        assert all(math.isfinite(event["loss"]) for event in events)
    assert max(e["rewards/accuracies"] for e in read(out / "dpo" / "events.jsonl") if "rewards/accuracies" in e) > 0.5
    page = (out / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("SFT", "DPO", "PPO", "RTO", "rto"))
    assert page.count("data:image/svg+xml") >= 5 and "<script" not in page


def check_summary(summary, words, out):
    """Shapes, signs and bounds that hold for any policies."""
    assert set(summary["methods"]) == {"sft", "dpo", "ppo", "rto"} and {"best_of_n", "beam"} <= set(summary["search"])
    for row in summary["methods"].values():
        assert set(row) >= METHOD and all(math.isfinite(row[key]) for key in METHOD)
        assert row["reward_se"] > 0 and row["seconds"] > 0 and 1 <= row["length"] <= demo_measure.MAX_NEW_TOKENS
    for row in summary["search"].values():
        assert {"reward", "reward_se", "kl", "tokens"} <= set(row) and row["tokens"] > 0
    methods = summary["methods"]
    assert methods["sft"]["kl"] == 0 and methods["sft"]["kl_se"] == 0
    assert all(methods[name]["kl"] > 0 for name in ("dpo", "ppo", "rto"))
    assert methods["sft"]["length"] < demo_measure.MAX_NEW_TOKENS - 5  # it has learned to stop
    assert all(point["effective"] >= 50 for point in summary["ceiling"])
    assert all(0 <= summary[key] <= 1 for key in ("credit_auc", "credit_auc_random_labels"))
    assert summary["credit_auc_counts"]["wrong"] > 20 and summary["credit_auc_counts"]["other_slots"] > 0
    assert summary["seconds"] >= sum(summary["stages"].values()) * 0.9
    assert summary["settings"]["scale"] == 0.1 and summary["settings"]["seed"] == 3
    assert str(out / "report.html") in words and all(note in words for note in summary["notes"])
