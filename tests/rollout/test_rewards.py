"""rollout/rewards: functions and models as rewards, what they may return, and time-outs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.rewarded import PROMPTS, ROLLOUTS, function, rollout, scores
from tests.tiny import EOS, PAD, batch, llama, saved, tiny, word_tokenizer
from tokenward.data.collate import rollouts_batch
from tokenward.errors import InputError, RunError
from tokenward.models import load
from tokenward.models.save import save_reward_model
from tokenward.objective.signal.rewards import Outcome
from tokenward.rollout.rewards import (
    FunctionReward,
    ImplicitReward,
    ModelReward,
    completion_text,
    give,
    logged,
    reward,
    token_ends,
    worker,
)
from tokenward.types import Signal, TokenStats

# --- functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [None, 30.0], ids=["here", "own process"])
def test_a_function_sees_prompts_texts_and_columns(tmp_path, timeout_s):
    scorer = function(
        tmp_path,
        "import json\n"
        "def rate(prompts, completions, columns):\n"
        "    assert prompts == ['w5 w6', 'w5 w6', 'w7'], prompts\n"
        "    assert [c.strip() for c in completions] == ['w9 w10', 'w11', 'w4 w4 w12'], completions\n"
        "    return [1.5 if c['answer'] in t else 0 for c, t in zip(columns, completions)]\n",
        timeout_s=timeout_s,
    )
    assert isinstance(scorer, FunctionReward)
    got = scorer.score(ROLLOUTS, PROMPTS)
    assert [r.score for r in got] == [1.5, 0.0, 1.5]
    assert [r.response_tokens for r in got] == [r.response_tokens for r in ROLLOUTS]
    assert all(r.parts is None and r.rewards is None for r in got)
    assert scorer.score([], PROMPTS) == []


def test_named_parts_stand_beside_the_score(tmp_path):
    scorer = function(
        tmp_path, "def rate(p, c, k):\n    return [{'score': len(t), 'length': -len(t), 'fixed': True} for t in c]\n"
    )
    got = scorer.score(ROLLOUTS[:1], PROMPTS)[0]
    assert got.parts == {"length": -got.score, "fixed": 1.0}


def test_what_a_rollout_was_given_before_stays(tmp_path):
    """An environment has filled in score, parts and rewards: a reward adds to them."""
    before = rollout(3, 9, 10, EOS, score=2.0, parts={"goal": 1.0}, rewards=(0.5, 0.0, 0.0))
    scorer = function(tmp_path, "def rate(p, c, k):\n    return [{'score': 1.0, 'tokens': [1, 2, 3], 'own': 4}]\n")
    (got,) = scorer.score([before], PROMPTS)
    assert (got.score, got.parts, got.rewards) == (3.0, {"goal": 1.0, "own": 4.0}, (1.5, 2.0, 3.0))
    assert got.total == 9.5
    assert give(before, score=-2.0).score == 0.0


BAD = [
    ("[1.0, None, 2.0]", r"row 1 \(prompt data.jsonl:4\) has no score \(None\): a missing score is not 0; drop"),
    ("[1.0, 2.0, float('nan')]", r"row 2 \(prompt 8\) has score = nan, wanted a finite number"),
    ("[1.0, 2.0, float('inf')]", "row 2 .* wanted a finite number"),
    ("[1.0, '2', 3.0]", "row 1 .* has score = '2', wanted a finite number"),
    ("[1.0, [2], 3.0]", "row 1 .* has score of type list, wanted a number"),
    ("[1.0]", "returned 1 scores for 3 completions"),
    ("7.0", "must return a list of numbers, got float"),
    ("'abc'", "must return a list of numbers, got str"),
    ("(x for x in (1, 2, 3))", "must return a list of numbers, got generator"),
    ("[{'parts': 1.0}] * 3", r"row 0 .* has parts \['parts'\] but no 'score', 'tokens' or 'steps'"),
    ("[{'score': 1.0, 'tone': None}] * 3", "row 0 .* has no tone"),
    ("1 / 0", r"raised ZeroDivisionError: division by zero, mine.py line 2; at row 0 \(prompt data.jsonl:4\)"),
    (
        "[1 / (p != 'w7') for p in prompts]",
        r"raised ZeroDivisionError: .*, mine.py line 2; at row 2 \(prompt 8\)",
    ),
    (
        "[1 / (len(prompts) < 3)] * len(prompts)",
        "raised ZeroDivisionError: .*; asked about 3 completions of data.jsonl:4, 8",
    ),
    ("[{'tokens': [1, 2], 'steps': []}] * 3", "row 0 .* has both 'tokens' and 'steps': give one of them"),
    ("[{'tokens': [1, 2, 3]}] * 3", r"row 1 .* has 3 token rewards for 2 response tokens"),
    ("[{'tokens': [1, None, 3]}] * 3", r"row 0 .* has no token reward 1 \(None\)"),
    ("[{'tokens': [1, 2, float('nan')]}] * 3", "row 0 .* has token reward 2 = nan, wanted a finite number"),
    ("[{'tokens': 3.0}] * 3", "row 0 .* has tokens of type float, wanted a list of 3 numbers"),
    ("[{'steps': None}] * 3", r"row 0 .* has no steps \(None\): leave the key out, or give a list of"),
    ("[{'steps': [4]}] * 3", r"row 0 .* has step 0 = 4, wanted \(character end, reward\)"),
    ("[{'steps': [(2, 1), (2, 1)]}] * 3", "row 0 .* has step 1 ending at 2, wanted a whole number above 2 and at most"),
    ("[{'steps': [(0, 1)]}] * 3", "row 0 .* has step 0 ending at 0, wanted a whole number above 0"),
    (
        "[{'steps': [(99, 1)]}] * 3",
        "row 0 .* has step 0 ending at 99, wanted .* at most 7, the completion's characters",
    ),
    ("[{'steps': [(1.0, 1)]}] * 3", "row 0 .* has step 0 ending at 1.0, wanted a whole number"),
    ("[{'steps': [(1, None)]}] * 3", r"row 0 .* has no step reward 0 \(None\)"),
]


@pytest.mark.parametrize(("returned", "message"), BAD)
def test_bad_answers_name_the_row(tmp_path, returned, message):
    scorer = function(tmp_path, f"def rate(prompts, completions, columns):\n    return {returned}\n")
    with pytest.raises(InputError, match=message) as error:
        scorer.score(ROLLOUTS, PROMPTS)
    assert "\n" not in str(error.value)


def test_bad_answers_of_a_process_of_its_own_are_told_in_the_same_words(tmp_path):
    """Every one of them, by one process: the function returns what a file says."""
    body = (
        "from pathlib import Path\n"
        "def rate(prompts, completions, columns):\n"
        "    return eval((Path(__file__).parent / 'now').read_text(), {'prompts': prompts})\n"
    )
    here, apart = function(tmp_path, body), function(tmp_path, body, timeout_s=60.0)
    for returned, message in BAD:
        (tmp_path / "now").write_text(returned)
        told = []
        for scorer in (here, apart):
            with pytest.raises(InputError, match=message.replace("line 2", "line 3")) as error:
                scorer.score(ROLLOUTS, PROMPTS)
            told.append(str(error.value))
        assert told[0] == told[1]
    (tmp_path / "now").write_text("[object()] * 3")
    with pytest.raises(InputError, match=r"row 0 .* has score of type object, wanted a number"):
        here.score(ROLLOUTS, PROMPTS)
    with pytest.raises(InputError, match="raised TypeError: it returned a object where a number is wanted"):
        apart.score(ROLLOUTS, PROMPTS)


def test_files_and_functions_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no file .*gone\.py"):
        reward(f"{tmp_path}/gone.py:rate", tokenizer=word_tokenizer())
    with pytest.raises(InputError, match=r"names no function; write .*mine.py:function"):
        reward(f"{tmp_path}/mine.py", tokenizer=word_tokenizer())
    for timeout_s in (None, 9.0):
        with pytest.raises(InputError, match="no function 'rat' in it; it has rate"):
            function(tmp_path, "def rate(p, c, k):\n    return []\n", name="rat", timeout_s=timeout_s)
        with pytest.raises(InputError, match="importing it raised ModuleNotFoundError: No module named 'nothing_lik"):
            function(tmp_path, "import nothing_like_it\n", timeout_s=timeout_s)
    with pytest.raises(InputError, match="importing it raised SyntaxError"):
        function(tmp_path, "def rate(:\n")


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    body = "import pickle\nclass K:\n    pass\ndef rate(p, c, k):\n    return [len(pickle.dumps(K())) for _ in c]\n"
    (tmp_path / "other").mkdir()
    first = function(tmp_path, body)
    assert scores(function(tmp_path / "other", body)) == scores(first)


def test_the_process_reads_the_package_it_belongs_to(tmp_path, monkeypatch):
    """A copy of the package beside an installed one, on the path of the program alone."""
    source, copy = Path(worker.__file__).parents[2], tmp_path / "src" / "tokenward"
    for name in ("__init__.py", "own_file.py", "rollout/rewards/worker.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, copy / name)
    monkeypatch.setattr(worker, "__file__", str(copy / "rollout" / "rewards" / "worker.py"))
    body = "import tokenward\ndef rate(p, c, k):\n    return [float(tokenward.__file__.startswith(%r))] * len(c)\n"
    assert scores(function(tmp_path, body % str(copy), timeout_s=30.0)) == [1.0] * 3


def test_functions_that_cannot_be_called_so_are_refused_at_once(tmp_path):
    """TRL's rewards take (prompts, completions, **columns)."""
    message = r"rate\(prompts, completions, \*\*columns\) cannot be called with \(prompts, completions, columns\): "
    for timeout_s in (None, 9.0):
        with pytest.raises(InputError, match=message):
            function(tmp_path, "def rate(prompts, completions, **columns):\n    return []\n", timeout_s=timeout_s)
    with pytest.raises(InputError, match="it may also take spans and finish by name"):
        function(tmp_path, "def rate(p, c, k, *, tokens):\n    return []\n")


def test_a_function_is_given_what_it_asks_for(tmp_path):
    body = (
        "def rate(prompts, completions, columns, *, spans, finish):\n"
        "    assert finish == ['stop', 'stop', 'length'], finish\n"
        "    return [{'tokens': [len(t[a:b].strip()) for a, b in s]} for t, s in zip(completions, spans)]\n"
    )
    for timeout_s in (None, 30.0):
        got = function(tmp_path, body, timeout_s=timeout_s).score(ROLLOUTS, PROMPTS)
        assert [r.rewards for r in got] == [(2.0, 3.0, 0.0), (3.0, 0.0), (2.0, 2.0, 3.0)]
        assert [r.score for r in got] == [0.0, 0.0, 0.0]
        assert [r.total for r in got] == [5.0, 3.0, 7.0]


def test_arrays_of_numbers_are_accepted(tmp_path):
    body = "import torch\ndef rate(p, c, k):\n    return torch.arange(len(c)) / 2\n"
    assert scores(function(tmp_path, body)) == [0.0, 0.5, 1.0]
    body = "from fractions import Fraction\ndef rate(p, c, k):\n    return tuple(Fraction(1, 4) for _ in c)\n"
    assert scores(function(tmp_path, body)) == [0.25] * 3
    assert scores(function(tmp_path, body, timeout_s=30.0)) == [0.25] * 3


# --- token rewards and steps -------------------------------------------------------------------------------------


def test_a_step_is_paid_at_the_token_that_ends_it(tmp_path):
    """Row 0 is " w9 w10": characters 0–3 (w9) and 3–7 (w10), then the end token, which writes nothing."""
    scorer = function(
        tmp_path,
        "def rate(p, c, k):\n"
        "    assert c[0] == ' w9 w10', c\n"
        "    return [{'steps': [(2, 0.25), (3, 0.5), (4, 1.0)], 'score': 9.0}, {'steps': []}, 4]\n",
    )
    got = scorer.score(ROLLOUTS, PROMPTS)
    assert [r.rewards for r in got] == [(0.75, 1.0, 0.0), (0.0, 0.0), None]
    assert [r.score for r in got] == [9.0, 0.0, 4.0]
    assert [r.total for r in got] == [10.75, 0.0, 4.0]


def test_token_rewards_reach_the_batch_and_the_outcome(tmp_path):
    """By hand: prompt of 3 (2) tokens, rewards at their tokens, the score on the last one besides."""
    scorer = function(
        tmp_path,
        "def rate(p, c, k):\n    return [{'tokens': [1, 2, 4], 'score': 8}, {'score': 16}, {'tokens': [32] * 3}]\n",
    )
    got = scorer.score(ROLLOUTS, PROMPTS)
    made = rollouts_batch([got[:2], got[2:]], pad_id=PAD)
    want = torch.tensor([[0, 0, 0, 1, 2, 4], [0, 0, 0, 0, 0, 0], [0, 0, 32, 32, 32, 0]]).float()
    assert torch.equal(made.reward, want)
    assert made.score.tolist() == [8, 16, 0]
    outcome = Outcome()(made, TokenStats(), Signal()).reward
    want = torch.tensor([[0, 0, 0, 1, 2, 12], [0, 0, 0, 0, 16, 0], [0, 0, 32, 32, 32, 0]]).float()
    assert torch.equal(outcome, want)
    assert logged(got)["reward/tokens"] == pytest.approx((7 + 0 + 96) / 3)


def test_logs_are_mean_and_standard_deviation_of_each_part():
    found = logged(
        [rollout(3, 9, EOS, parts={"a": 1.0, "b": 5.0}), rollout(3, 9, EOS, parts={"a": 3.0}), rollout(8, 4, EOS)]
    )
    assert found == {"reward/a": 2.0, "reward/a_std": 1.0, "reward/b": 5.0, "reward/b_std": 0.0}


def test_pairs_of_a_group_go_by_the_whole_reward():
    rich = rollout(3, 9, EOS, score=0.0, rewards=(3.0, 0.0))
    assert rollouts_batch([[rollout(3, 9, EOS, score=1.0), rich]], pad_id=PAD, compared=[(0, 0)]).pairs.tolist() == [
        [1, 0]
    ]


# --- texts -------------------------------------------------------------------------------------------------------


def test_special_tokens_are_not_part_of_the_text():
    tok = word_tokenizer()
    assert completion_text(tok, (2, 5), (9, EOS)).strip() == "w9"
    assert completion_text(tok, (2, 5), (EOS,)) == ""
    assert completion_text(tok, (2,), (PAD, 9)).strip() == "w9"


def test_texts_of_stories260k_keep_spaces_and_split_characters(shared):
    tok = load.tokenizer(str(shared / "models" / "stories260K"))
    text = "Once upon a time, there was a café. It said \u201chello\u201d and\nleft."
    ids = tok(text).input_ids
    pieces = set()
    for cut in range(1, len(ids)):
        before = tok.decode(ids[:cut], skip_special_tokens=True)
        rest = completion_text(tok, ids[:cut], ids[cut:])
        pieces.add(rest[:1])
        assert text.endswith(rest)
        if "\ufffd" not in before:
            assert before + rest == text
    assert " " in pieces and "\u201c" in pieces  # leading spaces kept; a character cut in two is the response's


@pytest.mark.parametrize("name", ["stories260K", "babyllama-char"])
def test_token_ends_are_those_of_decoding_every_beginning(shared, name):
    tok = load.tokenizer(str(shared / "models" / name))
    text = "Once upon a time, there was a café. It said \u201chello\u201d 🙂 and\n\n left  twice. "
    ids = [*tok(text).input_ids, tok.eos_token_id]
    for cut in (1, 2, 7, 25, len(ids) - 1):
        rest, want = completion_text(tok, ids[:cut], ids[cut:]), []
        for stop in range(cut + 1, len(ids) + 1):
            part = completion_text(tok, ids[:cut], ids[cut:stop])
            while part and not rest.startswith(part):  # a character that is not whole yet
                part = part[:-1]
            want.append(len(part))
        assert token_ends(tok, ids[:cut], ids[cut:]) == want
        assert want[-1] == len(rest)


def test_token_ends_of_random_ids_are_whole_and_in_order(shared):
    tok, source = load.tokenizer(str(shared / "models" / "stories260K")), random.Random(0)
    for _ in range(50):
        ids = [source.randrange(512) for _ in range(12)]
        ends = token_ends(tok, ids[:4], ids[4:])
        assert len(ends) == 8 and ends == sorted(ends)
        assert ends[-1] == len(completion_text(tok, ids[:4], ids[4:])) or "\ufffd" in completion_text(
            tok, ids[:4], ids[4:]
        )


# --- reward models and implicit rewards --------------------------------------------------------------------------


def last_token_score(model, r):
    row = batch(lengths=(len(r.prompt_tokens) + len(r.response_tokens),), prompts=(1,))
    row.tokens[0] = torch.tensor([*r.prompt_tokens, *r.response_tokens])
    return float(model(row, fields=frozenset({"model_score"})).model_score.detach())


def test_a_reward_model_reads_the_last_token_of_prompt_and_response(tmp_path):
    trained = tiny(value_head=True)
    save_reward_model(trained, word_tokenizer(), tmp_path / "reward")
    scorer = reward(str(tmp_path / "reward"), tokenizer=word_tokenizer(), micro_tokens=7)
    assert isinstance(scorer, ModelReward)
    got = [r.score for r in scorer.score(ROLLOUTS, PROMPTS)]
    for value, r in zip(got, ROLLOUTS, strict=True):
        assert value == pytest.approx(last_token_score(trained, r), abs=1e-5)
    assert len(set(got)) == 3
    assert scorer.score([], PROMPTS) == []


def test_where_the_padding_is_the_end_token_the_end_token_is_still_read(tmp_path):
    trained = tiny(value_head=True)
    tok = word_tokenizer(pad="<eos>")
    save_reward_model(trained, tok, tmp_path / "reward")
    got = scores(reward(str(tmp_path / "reward"), tokenizer=tok))
    assert got == pytest.approx([last_token_score(trained, r) for r in ROLLOUTS], abs=1e-5)


def test_a_reward_model_that_gives_nan_is_named():
    broken = tiny(value_head=True)
    with torch.no_grad():
        broken.value_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"reward model mine gives nan to row 0 \(prompt data.jsonl:4\)"):
        ModelReward(broken, name="mine").score(ROLLOUTS, PROMPTS)
    with pytest.raises(InputError, match=r"reward model mine gives nan to row 0 \(prompt 8\)"):
        ModelReward(broken, name="mine").score(ROLLOUTS[2:], {})


def test_a_reward_model_with_another_tokenizer_is_refused(tmp_path):
    save_reward_model(tiny(value_head=True), word_tokenizer(size=39), tmp_path / "reward")
    with pytest.raises(InputError, match=r"has another tokenizer than the policy \(1 entries differ\)"):
        reward(str(tmp_path / "reward"), tokenizer=word_tokenizer())
    with pytest.raises(InputError, match="is not a reward model"):
        reward(str(saved(tmp_path / "policy")), tokenizer=word_tokenizer())


def test_the_implicit_reward_is_beta_times_the_log_ratios_token_by_token(tmp_path):
    """Against transformers' own logits; a token that the model did not write has none."""
    spec = f"implicit:{saved(tmp_path / 'one', seed=1)}|{saved(tmp_path / 'two', seed=2)}|0.5"
    texts = [*ROLLOUTS[:2], rollout(8, 4, 4, 12, trainable=(True, False, True))]
    want = []
    for r in texts:
        ids = torch.tensor([[*r.prompt_tokens, *r.response_tokens]])
        with torch.no_grad():
            laws = [llama(seed=seed)(input_ids=ids).logits[0, :-1].log_softmax(-1) for seed in (1, 2)]
        ratio = (laws[0] - laws[1]).gather(-1, ids[0, 1:, None]).squeeze(-1)[len(r.prompt_tokens) - 1 :]
        want.append([0.5 * float(x) * kept for x, kept in zip(ratio, r.trainable, strict=True)])
    dense = reward(f"{spec}|tokens", tokenizer=word_tokenizer(), micro_tokens=7).score(texts, PROMPTS)
    for r, row in zip(dense, want, strict=True):
        assert (r.score, list(r.rewards)) == (0.0, pytest.approx(row, abs=1e-5))
    whole = reward(spec, tokenizer=word_tokenizer())
    assert isinstance(whole, ImplicitReward)
    assert scores(whole, texts) == pytest.approx([sum(row) for row in want], abs=1e-5)
    assert [r.rewards for r in whole.score(texts, PROMPTS)] == [None] * 3
    assert scores(whole, []) == []
    assert not any(p.requires_grad for p in (*whole.policy.parameters(), *whole.reference.parameters()))


def test_an_implicit_reward_that_is_not_a_number_is_named():
    broken = tiny()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=r"reward mine is NaN or infinite at row 0 \(prompt data.jsonl:4\)"):
        ImplicitReward(broken, tiny(), beta=1.0, name="mine").score(ROLLOUTS, PROMPTS)


def test_the_models_of_an_implicit_reward_read_the_policys_tokens(tmp_path):
    one = saved(tmp_path / "one", words=39)
    with pytest.raises(InputError, match=r"implicit reward: .*one has another tokenizer than the policy"):
        reward(f"implicit:{one}|{one}|1", tokenizer=word_tokenizer())


# --- time-outs ---------------------------------------------------------------------------------------------------

ENDLESS = """
import os, time
from pathlib import Path
def rate(prompts, completions, columns):
    Path(__file__).with_name("pid").write_text(str(os.getpid()))
    end = time.monotonic() + 60  # nothing loops for ever where a test fails
    while prompts[0] == "w5 w6" and time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
    return [float(len(completions))] * len(completions)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_time_out_ends_an_endless_loop_and_leaves_nothing_behind(tmp_path):
    scorer = function(tmp_path, ENDLESS, timeout_s=0.3)
    start = time.monotonic()
    with pytest.raises(RunError) as error:
        scorer.score(ROLLOUTS, PROMPTS)
    assert time.monotonic() - start < 3
    assert str(error.value) == (
        f"reward {tmp_path}/mine.py:rate gave no answer within 0.3 s (3 completions); its process was ended: mend it, "
        "or give a larger reward_timeout_s; asked about 3 completions of data.jsonl:4, 8"
    )
    first = int((tmp_path / "pid").read_text())
    assert not alive(first) and first != os.getpid()
    assert scores(scorer, ROLLOUTS[2:]) == [1.0]  # a new process
    second = int((tmp_path / "pid").read_text())
    assert second != first and alive(second)
    scorer.function.close()
    assert not alive(second)


def test_a_process_that_ends_by_itself_is_told(tmp_path):
    body = "import os\ndef rate(p, c, k):\n    os._exit(7)\n"
    with pytest.raises(RunError, match=r"mine.py:rate: its process ended with exit status 7 \(3 completions\)"):
        function(tmp_path, body, timeout_s=30.0).score(ROLLOUTS, PROMPTS)
    body = "import sys\ndef rate(p, c, k):\n    sys.exit('done')\n"
    with pytest.raises(InputError, match="raised SystemExit: done"):
        function(tmp_path, body, timeout_s=30.0).score(ROLLOUTS, PROMPTS)


def test_large_batches_pass_through_the_pipe(tmp_path):
    """Request and answer are larger than a pipe holds; what the function prints does not get in between."""
    body = "def rate(p, c, k):\n    print('noise')\n    return [{'score': len(t), 'x' * 40: 1} for t in c]\n"
    texts = [rollout(3, *([9] * 40), EOS) for _ in range(3000)]
    assert scores(function(tmp_path, body, timeout_s=60.0), texts) == [120.0] * 3000


def test_columns_that_json_cannot_hold_are_refused(tmp_path):
    scorer = function(tmp_path, "def rate(p, c, k):\n    return [1.0] * len(c)\n", timeout_s=30.0)
    odd = {3: PROMPTS[3].__class__(3, (2, 5, 6), "w5 w6", {"when": b"x"})}
    with pytest.raises(InputError, match=r"a column cannot be written as JSON: .*bytes"):
        scorer.score(ROLLOUTS[:1], odd)


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    """Killed outright while the function loops: nobody is left to end the child but itself."""
    (tmp_path / "mine.py").write_text(ENDLESS)
    script = (
        "import json, os, subprocess, sys, time\n"
        "reads, write = os.pipe()\n"
        "read, writes = os.pipe()\n"
        f"words = [{worker.__file__!r}, {str(tmp_path / 'mine.py')!r}, 'rate', str(reads), str(writes)]\n"
        "subprocess.Popen([sys.executable, '-P', *words, str(os.getpid())], pass_fds=(reads, writes))\n"
        "for line in (sys.path, {'given': [['w5 w6'], ['w9'], [{}]], 'named': {}}):\n"
        "    os.write(write, json.dumps(line).encode() + b'\\n')\n"
        "time.sleep(99)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    limit = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < limit:
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 20
    while alive(child) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not alive(child)
