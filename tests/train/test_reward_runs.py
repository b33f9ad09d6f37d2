"""Rewards where they are used: runs that fail and go on, logs, eval, best of n, and real answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests import runs
from tests.tiny import saved
from tokenward.cli import main
from tokenward.data.tokenize import Prompt
from tokenward.diagnose.evaluate import evaluate
from tokenward.errors import InputError, RunError
from tokenward.rollout.rewards.answer import Answer
from tokenward.rollout.rewards.number import MARK, answer
from tokenward.search.answers import answers
from tokenward.train import loop
from tokenward.train.config import RunConfig

# The share of even words; from the third batch on it fails, loops or forgets a row while a file says so.
REWARD = """
import random
from pathlib import Path

CALLS = []

def evens(prompts, completions, columns):
    CALLS.append(random.random())
    found = [[int(word[1:]) for word in text.split()] for text in completions]
    scores = [sum(n % 2 == 0 for n in numbers) / max(1, len(numbers)) for numbers in found]
    now = Path(__file__).with_name("now")
    if len(CALLS) >= 3 and now.exists():
        exec(now.read_text())
    return scores
"""


def config(folder: Path, **more: object) -> RunConfig:
    """Eight updates of REINFORCE with leave-one-out, two a batch; checkpoints only when something goes wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(REWARD)
    settings = {"reward": f"{folder}/mine.py:evens", "updates": 8, "epochs": 1, "save_every": 0, **more}
    return runs.config(folder, "rloo", **settings)


@pytest.mark.parametrize(
    ("fault", "message", "more"),
    [
        ("1 / 0", r"raised ZeroDivisionError: division by zero, mine.py line 1\d; at row 0 \(prompt .*jsonl:\d+\)", {}),
        ("scores[3] = None", r"row 3 \(prompt .*jsonl:\d+\) has no score \(None\): a missing score is not 0", {}),
        (
            "while True: pass",
            r"gave no answer within 1 s \(8 completions\).*asked about 8 completions of .*jsonl:\d+, ",
            {"reward_timeout_s": 1.0},
        ),
    ],
    ids=["raises", "missing", "endless"],
)
def test_a_run_whose_reward_fails_goes_on_as_if_it_had_not(tmp_path, fault, message, more):
    """Saved at update 4 (after two batches), resumed when the function is mended: the weights of the straight run."""
    loop.run(config(tmp_path / "straight"), "rloo", show="nothing")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "now").write_text(fault)
    failed = config(tmp_path / "failed", **more)
    with pytest.raises(RunError, match=message) as error:
        loop.run(failed, "rloo", show="nothing")
    text = str(error.value)
    assert text.endswith(
        "saved at update 4 of 8: once that is mended, go on with: tokenward train --resume " + str(failed.out)
    )
    assert "\n" not in text
    assert (Path(failed.out) / "checkpoints" / "step-4").is_dir()
    assert not (Path(failed.out) / "model").exists()
    (tmp_path / "failed" / "now").unlink()
    loop.resume(Path(failed.out), show="nothing")
    one, two = tmp_path / "straight" / "run", Path(failed.out)
    assert runs.facts(one) == runs.facts(two)
    for a, b in zip(runs.weights(one / "model"), runs.weights(two / "model"), strict=True):
        assert torch.equal(a, b)


def test_a_reward_that_fails_at_once_is_bad_input(tmp_path):
    made = config(tmp_path)
    (tmp_path / "now").write_text("scores.pop()\n")
    (tmp_path / "mine.py").write_text(REWARD.replace("len(CALLS) >= 3", "len(CALLS) >= 1"))
    with pytest.raises(InputError, match=r"mine.py:evens returned 7 scores for 8 completions"):
        loop.run(made, "rloo", show="nothing")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_wrong_with_a_reward_is_said_before_any_model_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenward.train.assemble.roles", lambda *_: pytest.fail("a model was read"))
    with pytest.raises(InputError, match=r"part 1 has the unknown prefix 'anwser:'\. Did you mean 'answer'"):
        loop.run(config(tmp_path / "a", reward="anwser:gold"), "rloo", show="nothing")
    with pytest.raises(InputError, match=r"reward_timeout_s limits functions, and reward 'stop:1' has none"):
        loop.run(config(tmp_path / "b", reward="stop:1", reward_timeout_s=3.0), "rloo", show="nothing")


def test_every_part_is_logged_and_told_with_its_weight(tmp_path, capsys):
    made = config(tmp_path, reward=f"0.75*{tmp_path}/mine.py:evens + -0.5*length:4 + 2*stop:0.25", updates=2)
    loop.run(made, "rloo", show="lines")
    assert re.search(
        r"reward = 0.75 × evens \(function .*mine.py:evens\) − 0.5 × length \(length:4\) \+ 2 × stop \(stop:0.25\)",
        capsys.readouterr().out,
    )
    first = runs.facts(Path(made.out))[0]
    parts = {name: first[f"reward/{name}"] for name in ("evens", "length", "stop")}
    want = 0.75 * parts["evens"] - 0.5 * parts["length"] + 2 * parts["stop"]
    assert first["score"] == pytest.approx(want, abs=1e-6)
    assert parts["stop"] == pytest.approx(-0.25 * first["completions/clipped_ratio"])
    assert 0 < first["reward/evens_std"] < 1


def test_token_rewards_are_logged_and_learned_from(tmp_path):
    """A reward for every w8, at the token itself: it becomes more frequent."""
    body = (
        "def eights(prompts, completions, columns, *, spans):\n"
        "    return [{'tokens': [float(t[a:b].strip() == 'w8') for a, b in s]} for t, s in zip(completions, spans)]\n"
    )
    (tmp_path / "mine.py").write_text(body)
    more = {"reward": f"{tmp_path}/mine.py:eights", "updates": 24, "rollout_rows": 32, "mini_rows": 32, "epochs": 1}
    made = runs.config(tmp_path, "reinforce", **more)
    loop.run(made, "reinforce", show="nothing")
    events = [event for event in runs.facts(Path(made.out)) if event["event"] == "update"]
    early, late = (sum(e["reward/tokens"] for e in part) / 6 for part in (events[:6], events[-6:]))
    assert all(event["score"] == pytest.approx(event["reward/tokens"]) for event in events)
    assert late > early + 0.5


def test_eval_and_best_of_n_take_the_same_words(tmp_path):
    model = str(saved(tmp_path / "model"))
    data = runs.jsonl(tmp_path / "prompts.jsonl", [{"prompt": "w5 w6", "gold": "w9"}, {"prompt": "w7", "gold": "w4"}])
    spec = "2*length:3|target + regex:w1"
    found = evaluate(model, data=data, reward=spec, samples=3, max_new_tokens=6, seed=3).numbers
    assert found["reward"].mean == pytest.approx(2 * found["reward/length"].mean + found["reward/regex"].mean)
    assert found["length"].mean == pytest.approx(
        sum(r["tokens"] for r in answers(model, prompts=data, n=3, max_new_tokens=6, seed=3)) / 6
    )  # the number of tokens, not the part of that name
    best = list(answers(model, prompts=data, strategy="best-of-n", n=8, reward=spec, max_new_tokens=6))
    plain = list(answers(model, prompts=data, n=8, reward=spec, max_new_tokens=6))
    assert sum(r["score"] for r in best) / 2 > sum(r["score"] for r in plain) / 16
    for record in (*best, *plain):
        regex = float("w1" in record["completion"])
        assert record["score"] == pytest.approx(-2 * abs(record["tokens"] - 3) / 3 + regex)


def test_the_whole_reward_of_token_rewards_is_what_eval_and_search_see(tmp_path):
    model, body = (
        str(saved(tmp_path / "model")),
        "def f(p, c, k):\n    return [{'steps': [(1, 2.0)] * bool(t)} for t in c]\n",
    )
    (tmp_path / "mine.py").write_text(body)
    data = runs.jsonl(tmp_path / "prompts.jsonl", [{"prompt": "w5 w6"}])
    spec = f"{tmp_path}/mine.py:f"
    found = evaluate(model, data=data, reward=spec, samples=4, max_new_tokens=3, reward_timeout_s=60.0)
    assert 0 < found.numbers["reward"].mean <= 2
    for strategy in ("sample", "best-of-n"):
        for record in answers(model, prompts=data, strategy=strategy, n=4, reward=spec, max_new_tokens=3):
            assert record["score"] == 2.0 * bool(record["completion"])


def test_exit_codes_tell_a_failed_reward_from_a_wrong_one(tmp_path, capsys):
    made = config(tmp_path)
    words = ["--model", str(made.model), "--data", str(made.data), "--max-new-tokens", "4"]
    assert main(["eval", *words, "--reward", f"{tmp_path}/mine.py:gone"]) == 2
    (tmp_path / "slow.py").write_text("import time\ndef f(p, c, k):\n    time.sleep(99)\n")
    assert main(["eval", *words, "--reward", f"{tmp_path}/slow.py:f", "--reward-timeout-s", "0.3"]) == 1
    assert "slow.py:f gave no answer within 0.3 s" in capsys.readouterr().err


# --- real answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.slow), "test"])
def test_every_reference_solution_of_gsm8k_is_right_and_every_other_number_wrong(shared, split):
    rows = [json.loads(line) for line in (shared / "data" / "gsm8k" / f"{split}.jsonl").open(encoding="utf-8")]
    assert len(rows) == {"train": 7473, "test": 1319}[split]
    check = Answer("answer").check
    for row in rows:
        prompt = Prompt(0, (), row["question"], {"answer": row["answer"]})
        gold = answer(row["answer"])
        assert gold == int(row["answer"].rpartition(MARK)[2].replace(",", ""))  # all of them parse
        assert check(row["answer"], prompt) == (1.0, {"parsed": 1.0})
        reasoning = row["answer"].partition(MARK)[0]
        assert check(f"{reasoning}So the answer is ${float(gold):,.2f}.", prompt)[0] == 1.0
        for wrong in (gold + 1, -gold if gold else gold + 2, gold * 10 + 3):
            assert check(f"{reasoning}#### {wrong}", prompt) == (0.0, {"parsed": 1.0})
