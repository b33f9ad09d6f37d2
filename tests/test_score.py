"""rollout/score.py: rewards from a function or a model; what is missing is never 0."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import EOS, PAD, batch, saved, tiny, word_tokenizer
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.save import save_reward_model
from tokenward.rollout.score import FunctionReward, ModelReward, completion_text, reward
from tokenward.types import Rollout

PROMPTS = {
    3: Prompt(id=3, tokens=(2, 5, 6), text="w5 w6", columns={"answer": "w9"}, where="data.jsonl:4"),
    8: Prompt(id=8, tokens=(2, 7), text="w7", columns={"answer": "w4"}),
}


def rollout(prompt_id: int, *tokens: int) -> Rollout:
    n = len(tokens)
    finish = "stop" if tokens[-1] == EOS else "length"
    return Rollout(prompt_id, PROMPTS[prompt_id].tokens, tokens, (True,) * n, (-1.0,) * n, finish)


ROLLOUTS = [rollout(3, 9, 10, EOS), rollout(3, 11, EOS), rollout(8, 4, 4, 12)]


def function(tmp_path, body: str, *, name: str = "rate"):
    file = tmp_path / "mine.py"
    file.write_text(body)
    return reward(f"{file}:{name}", tokenizer=word_tokenizer())


def test_a_function_sees_prompts_texts_and_columns(tmp_path):
    scorer = function(
        tmp_path,
        "import json\n"
        "def rate(prompts, completions, columns):\n"
        "    assert prompts == ['w5 w6', 'w5 w6', 'w7'], prompts\n"
        "    assert [c.strip() for c in completions] == ['w9 w10', 'w11', 'w4 w4 w12'], completions\n"
        "    return [1.5 if c['answer'] in t else 0 for c, t in zip(columns, completions)]\n",
    )
    assert isinstance(scorer, FunctionReward)
    got = scorer.score(ROLLOUTS, PROMPTS)
    assert [r.score for r in got] == [1.5, 0.0, 1.5]
    assert [r.response_tokens for r in got] == [r.response_tokens for r in ROLLOUTS]
    assert all(r.parts is None for r in got)


def test_named_parts_stand_beside_the_score(tmp_path):
    scorer = function(
        tmp_path, "def rate(p, c, k):\n    return [{'score': len(t), 'length': -len(t), 'fixed': True} for t in c]\n"
    )
    got = scorer.score(ROLLOUTS[:1], PROMPTS)[0]
    assert got.parts == {"length": -got.score, "fixed": 1.0}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0, None, 2.0]", r"row 1 \(prompt data.jsonl:4\) has no score \(None\): a missing score is not 0"),
        ("[1.0, 2.0, float('nan')]", r"row 2 \(prompt 8\) has score = nan, wanted a finite number"),
        ("[1.0, 2.0, float('inf')]", "row 2 .* wanted a finite number"),
        ("[1.0, '2', 3.0]", "row 1 .* has score = '2', wanted a finite number"),
        ("[1.0, [2], 3.0]", "row 1 .* has score of type list, wanted a number"),
        ("[1.0]", "returned 1 scores for 3 completions"),
        ("7.0", "must return a list of numbers, got float"),
        ("'abc'", "must return a list of numbers, got str"),
        ("[{'parts': 1.0}] * 3", r"row 0 .* has parts \['parts'\] but no 'score'"),
        ("[{'score': 1.0, 'tone': None}] * 3", "row 0 .* has no tone"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_bad_answers_name_the_row(tmp_path, returned, message):
    scorer = function(tmp_path, f"def rate(prompts, completions, columns):\n    return {returned}\n")
    with pytest.raises(InputError, match=message) as error:
        scorer.score(ROLLOUTS, PROMPTS)
    assert "\n" not in str(error.value)


def test_files_and_functions_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no file .*gone\.py"):
        reward(f"{tmp_path}/gone.py:rate", tokenizer=word_tokenizer())
    with pytest.raises(InputError, match=r"names no function; write .*mine.py:function"):
        reward(f"{tmp_path}/mine.py", tokenizer=word_tokenizer())
    with pytest.raises(InputError, match="no function 'rat' in it; it has rate"):
        function(tmp_path, "def rate(p, c, k):\n    return []\n", name="rat")
    with pytest.raises(InputError, match="importing it raised ModuleNotFoundError: No module named 'nothing_like_it'"):
        function(tmp_path, "import nothing_like_it\n")
    with pytest.raises(InputError, match="importing it raised SyntaxError"):
        function(tmp_path, "def rate(:\n")


def test_arrays_of_numbers_are_accepted(tmp_path):
    scorer = function(tmp_path, "import torch\ndef rate(p, c, k):\n    return torch.arange(len(c)) / 2\n")
    assert [r.score for r in scorer.score(ROLLOUTS, PROMPTS)] == [0.0, 0.5, 1.0]


def test_a_reward_model_reads_the_last_token_of_prompt_and_response(tmp_path):
    trained = tiny(value_head=True)
    save_reward_model(trained, word_tokenizer(), tmp_path / "reward")
    scorer = reward(str(tmp_path / "reward"), tokenizer=word_tokenizer(), micro_tokens=7)
    assert isinstance(scorer, ModelReward)
    got = [r.score for r in scorer.score(ROLLOUTS, PROMPTS)]
    for value, r in zip(got, ROLLOUTS, strict=True):
        row = batch(lengths=(len(r.prompt_tokens) + len(r.response_tokens),), prompts=(1,))
        row.tokens[0] = torch.tensor([*r.prompt_tokens, *r.response_tokens])
        want = float(trained(row, fields=frozenset({"model_score"})).model_score.detach())
        assert value == pytest.approx(want, abs=1e-5)
    assert len(set(got)) == 3
    assert scorer.score([], PROMPTS) == []


def test_a_reward_model_that_gives_nan_is_named():
    broken = tiny(value_head=True)
    with torch.no_grad():
        broken.value_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"reward model mine gives nan to row 0 \(prompt 3\)"):
        ModelReward(broken, name="mine").score(ROLLOUTS, PROMPTS)


def test_a_reward_model_with_another_tokenizer_is_refused(tmp_path):
    save_reward_model(tiny(value_head=True), word_tokenizer(size=39), tmp_path / "reward")
    with pytest.raises(InputError, match=r"has another tokenizer than the policy \(1 entries differ\)"):
        reward(str(tmp_path / "reward"), tokenizer=word_tokenizer())
    with pytest.raises(InputError, match="is not a reward model"):
        reward(str(saved(tmp_path / "policy")), tokenizer=word_tokenizer())


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
