"""Trajectories in files: which tokens are trained on, whose ids are kept, chat frames, what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from tests import runs, tiny
from tokenward.data import dataset, view
from tokenward.data.collate import pairs_batch, rows_batch
from tokenward.data.encode import encoder
from tokenward.data.rows import Message
from tokenward.data.tally import BadRow
from tokenward.data.tokenize import Demonstration, Labeled, Limits, Pair, Scored
from tokenward.data.turns import observation
from tokenward.environments.protocol import Observation
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.rollout.environment import EpisodeSampler
from tokenward.rollout.sampler import GenerateSampler
from tokenward.rollout.transcript import turns

MODEL, WORLD = "assistant", "environment"


def said(role, content, tokens=None):
    return {"role": role, "content": content, **({} if tokens is None else {"tokens": tokens})}


GOOD = [said(MODEL, "w5 w6"), said(WORLD, "w7 w8"), said(MODEL, "w9")]
BAD = [said(MODEL, "w9")]


def loaded(folder, rows, *, kind, tokenizer=None, **more):
    path = runs.jsonl(folder / "rows.jsonl", rows)
    return dataset.load(path, tokenizer=tokenizer or tiny.word_tokenizer(), kind=kind, max_dropped=1.0, **more)


def test_pairs_of_trajectories_train_on_the_models_turns_alone(tmp_path):
    data = loaded(tmp_path, [{"prompt": "w3 w4", "chosen_turns": GOOD, "rejected_turns": BAD}], kind="pairs")
    (pair,) = data.examples
    assert isinstance(pair, Pair) and data.schema.name == "trajectory preference"
    batch = pairs_batch([pair], pad_id=tiny.PAD)
    assert batch.tokens.tolist() == [[3, 4, 5, 6, 1, 7, 8, 9, 1], [3, 4, 9, 1, 0, 0, 0, 0, 0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 0, 0, 0]]
    assert batch.segment[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert batch.finish.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("more", "kind", "name"),
    [({}, "demos", "trajectory"), ({"label": False}, "labels", "labeled trajectory"),
     ({"score": 0.5}, "scores", "scored trajectory")],
)  # fmt: skip
def test_single_trajectories(tmp_path, more, kind, name):
    data = loaded(tmp_path, [{"prompt": "w3 w4", "turns": GOOD, **more, "weight": 2.0}], kind=kind)
    (example,) = data.examples
    assert data.schema.name == name
    assert isinstance(example, {"demos": Demonstration, "labels": Labeled, "scores": Scored}[kind])
    batch = rows_batch([example], pad_id=tiny.PAD)
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1, 0, 0, 1, 1]]
    assert batch.weight.tolist() == [2.0]
    assert (batch.label is None or not batch.label[0]) and (batch.score is None or float(batch.score[0]) == 0.5)


def test_known_ids_are_kept_as_they_are(tmp_path):
    """Also ids that the text would not give, and a last turn without an end token: it was cut."""
    odd = [said(MODEL, "w5 w6", [6, 6, 1]), said(WORLD, "w7", [8, 8]), said(MODEL, "w9", [11, 12])]
    data = loaded(tmp_path, [{"prompt": "w3 w4", "turns": odd}], kind="demos")
    (example,) = data.examples
    assert example.response.tokens == (6, 6, 1, 8, 8, 11, 12) and example.response.finish == "length"
    assert example.response.trainable == (True,) * 3 + (False,) * 2 + (True,) * 2


def test_a_trajectory_is_cut_like_any_answer(tmp_path):
    row = {"prompt": "w3 w4", "turns": GOOD}
    (example,) = loaded(tmp_path, [row], kind="demos", limits=Limits(max_tokens=6)).examples
    assert example.response.tokens == (5, 6, 1, 7) and example.response.trainable == (True, True, True, False)
    assert example.response.finish == "length"


@pytest.mark.parametrize(
    ("turns_", "line"),
    [
        ([], "turns must be a list of turns"),
        ("w3", "turns must be a list of turns"),
        ([said(WORLD, "w3")], "must begin and end with the assistant"),
        ([said(MODEL, "w3"), said(WORLD, "w4")], "must begin and end with the assistant"),
        ([said(MODEL, "w3"), said(MODEL, "w4")], "two turns of the assistant"),
        ([said(MODEL, "w3"), said(WORLD, "w4"), said(WORLD, "w4"), said(MODEL, "w4")], "one observation between"),
        ([said(MODEL, "w3"), said(WORLD, ""), said(MODEL, "w4")], "an observation needs a token"),
        ([said(MODEL, "w3", [])], "tokens must be a list of token ids"),
        ([said(MODEL, "w3", [1.5])], "tokens must be a list of token ids"),
        ([said(MODEL, "w3", [4000])], "turn 0 has id 4000, the tokenizer has 40 tokens"),
        ([{"role": MODEL}], "turns.0..content must be text"),
    ],
)
def test_bad_trajectories_are_dropped_with_a_reason(tmp_path, turns_, line):
    rows = [{"prompt": "w3 w4", "turns": turns_}, {"prompt": "w3 w4", "turns": GOOD}]
    with pytest.raises(InputError, match=line):
        path = runs.jsonl(tmp_path / "rows.jsonl", rows)
        dataset.load(path, tokenizer=tiny.word_tokenizer(), kind="demos", max_dropped=0.0)


def test_the_same_trajectory_twice_is_no_pair(tmp_path):
    rows = [{"prompt": "w3", "chosen_turns": GOOD, "rejected_turns": other} for other in (GOOD, BAD)]
    assert loaded(tmp_path, rows, kind="pairs").tally.dropped == {"identical chosen and rejected": 1}


# --- chat templates -------------------------------------------------------------------------------------------------


def test_an_observation_after_messages_stands_in_the_templates_frame(chatty, tmp_path):
    known = encoder(chatty)
    prompt = (Message("user", "2+2?"),)
    ids = observation(known, Message("tool", "it is\n4"), to=prompt)
    assert chatty.decode(ids) == "\n<|im_start|>tool\nit is\n4<|im_end|>\n<|im_start|>assistant\n"
    row = {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "turns": [said(MODEL, "add 2 2"), said("tool", "it is\n4"), said(MODEL, "4")],
    }
    (example,) = loaded(tmp_path, [row], kind="demos", tokenizer=chatty).examples
    whole = [*row["prompt"], *({"role": t["role"], "content": t["content"]} for t in row["turns"])]
    text = chatty.apply_chat_template(whole, tokenize=False)
    assert chatty.decode(example.prompt.tokens + example.response.tokens) + "\n" == text  # the template's own frame
    trained = [t for t, on in zip(example.response.tokens, example.response.trainable, strict=True) if on]
    assert chatty.decode(trained) == "add 2 2<|im_end|>4<|im_end|>"


def test_an_observation_that_names_a_control_token_is_text(chatty):
    ids = observation(encoder(chatty), Message("tool", "<|im_end|>"), to=(Message("user", "2+2?"),))
    ends = [i for i in ids if i == chatty.eos_token_id]
    assert len(ends) == 1  # the frame's own
    assert "<|im_end|>" in chatty.decode([i for i in ids if i != chatty.eos_token_id])


def test_a_template_that_rewrites_the_past_is_refused(chatty):
    from tests.data.test_tokenize import with_template

    counted = "{% for m in messages %}<|im_start|>{{ messages|length }}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(BadRow, match="rewrites what came before an observation"):
        observation(encoder(with_template(chatty, counted)), Message("tool", "4"), to=(Message("user", "hi"),))


# --- out of the sampler, into a file, back: the same rows -------------------------------------------------------------


class Two:
    def start(self, prompt, seed):
        return self

    def reply(self, text):
        return Observation("w4 w5", 0.0)


def test_sampled_episodes_come_back_from_a_file_as_they_were(tmp_path):
    tokenizer = tiny.word_tokenizer()
    made = GenerateSampler(
        tiny.tiny(), end_ids=[tiny.EOS], pad_id=tiny.PAD, max_new_tokens=30, law=None, rows=64, seed=3
    )
    data = loaded(tmp_path, [{"prompt": f"w{5 + i} w9"} for i in range(8)], kind="prompts")
    episodes = EpisodeSampler(made, Two(), name="two", encoder=encoder(tokenizer), max_turns=3)
    rollouts = [r for group in episodes.generate(data.examples, group=4, version=0) for r in group]
    asked = [r for r in rollouts if False in r.trainable]
    rows = [{"prompt": data.examples[r.prompt_id].text, "turns": turns(r, tokenizer)} for r in asked]
    assert rows
    back = loaded(tmp_path, rows, kind="demos").examples
    for example, rollout in zip(back, asked, strict=True):
        assert example.prompt.tokens == rollout.prompt_tokens
        assert example.response.tokens == rollout.response_tokens
        assert example.response.trainable == rollout.trainable


def test_show_tells_the_masks_of_trajectories(tmp_path):
    data = loaded(tmp_path, [{"prompt": "w3 w4", "chosen_turns": GOOD, "rejected_turns": BAD}], kind="pairs")
    chosen, rejected = view.show(data, 0)
    assert chosen.as_json()["mask"] == [0, 0, 1, 1, 1, 0, 0, 1, 1]
    lines = chosen.lines()
    assert [line.strip(" ─") for line in lines if "─" in line] == ["response", "observation", "response"]
    assert "2 turns, 2 tokens of observations" in chosen.note and rejected.note == "1 turns, 0 tokens of observations"


def test_training_on_trajectories_never_learns_observations(tmp_path):
    """`tokenward train dpo` and `sft` on such files run, and no gradient comes from what the environment said."""
    rows = [{"prompt": f"w{3 + i % 9} w4", "chosen_turns": GOOD, "rejected_turns": BAD} for i in range(12)]
    from tokenward.train import loop

    settings = {"data": runs.jsonl(tmp_path / "pairs-of-turns.jsonl", rows), "updates": 3}
    loop.run(runs.config(tmp_path, "dpo", **settings), "dpo")
    (event,) = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()][-1:]
    assert event["update"] == 3 and event["logps/chosen"] < 0
    model: Scorer = tiny.tiny()
    data = loaded(tmp_path, [{"prompt": "w3 w4", "turns": GOOD}], kind="demos")
    batch = rows_batch(data.examples, pad_id=tiny.PAD)
    logp = model(batch, fields=frozenset({"logp"})).logp
    assert torch.equal(logp != 0, batch.mask)
