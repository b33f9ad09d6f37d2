"""Episodes: exact tokens, credit through observations, limits, errors, resume; and the two worlds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time

import pytest
import torch

from tests import runs, tiny
from tokenward.data import world_model
from tokenward.data.collate import rollouts_batch
from tokenward.data.encode import encoder
from tokenward.data.tokenize import Prompt
from tokenward.environments import ENVIRONMENTS, ask, calculator
from tokenward.environments.load import environment
from tokenward.environments.protocol import Observation
from tokenward.errors import InputError
from tokenward.recipes import build
from tokenward.rollout.environment import EpisodeSampler
from tokenward.rollout.sampler import GenerateSampler
from tokenward.rollout.transcript import turns
from tokenward.types import Rollout

# --- sampling -------------------------------------------------------------------------------------------------------


class Echo:
    """Says the model's words back, and is done after `last` turns; the seed is told in the first answer."""

    def __init__(self, last=3, reward=lambda turn: float(turn), seen=None):
        self.last, self.reward, self.seen = last, reward, seen

    def start(self, prompt, seed):
        return Echoing(self, seed)


class Echoing:
    def __init__(self, world, seed):
        self.world, self.seed, self.turn = world, seed, 0

    def reply(self, text):
        if self.world.seen is not None:
            self.world.seen.append((self.seed, text))
        self.turn += 1
        done = self.turn == self.world.last
        answer = Observation(f"w{3 + self.seed % 30} w4", 0.0, done, counts={"calls": 1.0})
        object.__setattr__(answer, "reward", self.world.reward(self.turn))  # types are checked in tests alone
        return answer


def sampler(world, *, max_new_tokens=40, max_turns=8, seed=0, rows=64, seconds=20.0, ends=(tiny.EOS, *range(3, 16))):
    """Many end tokens, so that a random model's turns are short."""
    made = GenerateSampler(
        tiny.tiny(), end_ids=ends, pad_id=tiny.PAD, max_new_tokens=max_new_tokens, rows=rows, seed=seed
    )
    return EpisodeSampler(
        made, world, name="echo", encoder=encoder(tiny.word_tokenizer()), max_turns=max_turns, seconds=seconds
    )


def asked(count=4):
    return [Prompt(i, (tiny.BOS, 5 + i, 9), f"w{5 + i} w9", {}, f"rows.jsonl:{i + 1}") for i in range(count)]


def test_recorded_log_probabilities_are_those_of_the_recorded_tokens():
    """What was sampled is what is trained on: the model's own log-probs at the very positions, observations between."""
    made = sampler(Echo())
    rollouts = [r for group in made.generate(asked(), group=3, version=0) for r in group]
    assert any(len(set(r.trainable)) == 2 for r in rollouts) and {r.finish for r in rollouts} >= {"stop"}
    batch = rollouts_batch([rollouts], pad_id=tiny.PAD)
    with torch.no_grad():
        logp = tiny.tiny()(batch, fields=frozenset({"logp"})).logp
    torch.testing.assert_close(logp, batch.sampler_logp, atol=2e-5, rtol=0)
    assert float(batch.sampler_logp[~batch.mask].abs().max()) == 0.0
    assert float(batch.sampler_logp[batch.mask].max()) < 0.0


def test_turns_end_at_end_tokens_and_observations_stand_between():
    made = sampler(Echo())
    for played in made.play(asked(), group=2, version=0):
        rollout = played.rollout
        spans = [(wrote, [t for _, t in run]) for wrote, run in itertools.groupby(
            zip(rollout.trainable, rollout.response_tokens, strict=True), key=lambda pair: pair[0])]  # fmt: skip
        said = [ids for wrote, ids in spans if not wrote]
        wrote = [ids for mine, ids in spans if mine]
        assert all(ids[-1] in made.sampler.end_ids and not set(ids[:-1]) & made.sampler.end_ids for ids in wrote[:-1])
        assert all(len(ids) == 2 and ids[1] == 4 for ids in said)
        assert len(wrote) == played.turns == played.counts["calls"] and len(said) == played.turns - 1
        ends = list(itertools.accumulate(len(ids) for _, ids in spans))[::2]
        if played.rollout.finish == "stop":
            assert [rollout.rewards[end - 1] for end in ends] == [1.0, 2.0, 0.0] and rollout.score == 3.0
            assert played.total == 6.0


def test_each_token_the_model_writes_takes_its_own_random_number():
    """Number k of a row for the model's k-th token, observations passed over; drawn by inverse CDF from its law."""
    made, twin = sampler(Echo()), sampler(Echo())
    rollouts = [r for group in made.generate(asked(), group=1, version=0) for r in group]
    uniform, model = twin.sampler.uniform(4), tiny.llama()
    assert any(r.trainable.count(False) for r in rollouts)
    for row, rollout in enumerate(rollouts):
        ids = [*rollout.prompt_tokens, *rollout.response_tokens]
        start, drawn = len(rollout.prompt_tokens), 0
        with torch.no_grad():
            law = model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1).cumsum(-1)
        for place, mine in enumerate(rollout.trainable):
            if mine:
                token = int((law[start + place - 1] <= uniform[drawn, row]).sum())
                assert token == rollout.response_tokens[place]
                drawn += 1


def test_metrics_of_episodes():
    made = sampler(Echo())
    played = made.play(asked(), group=2, version=0)
    found = made.metrics()
    assert found["episode/turns"] == sum(p.turns for p in played) / 8 == found["episode/calls"]
    assert found["episode/observation_tokens"] == sum(p.rollout.trainable.count(False) for p in played) / 8
    assert found["episode/return"] == pytest.approx(sum(p.total for p in played) / 8)


def test_episodes_of_a_group_are_independent_and_the_state_resumes_them():
    made = sampler(Echo())
    first = [list(g) for g in made.generate(asked(), group=3, version=0)]
    state = made.state()
    second = [list(g) for g in made.generate(asked(), group=3, version=1)]
    assert len({r.response_tokens for r in first[0]}) == 3
    assert first != second
    other = sampler(Echo(), seed=99)
    other.load_state(state)
    assert [list(g) for g in other.generate(asked(), group=3, version=1)] == second
    same = sampler(Echo())
    assert [list(g) for g in same.generate(asked(), group=3, version=0)] == first


def test_the_random_state_does_not_depend_on_what_happens_in_episodes():
    one, two = sampler(Echo(last=1)), sampler(Echo(last=4))
    for made in (one, two):
        list(made.generate(asked(), group=2, version=0))
    assert one.state() == two.state()


def test_environments_get_seeds_that_differ_and_come_again():
    found = []
    for _ in range(2):
        seen = []
        list(sampler(Echo(seen=seen)).generate(asked(), group=2, version=0))
        found.append(seen)
    assert found[0] == found[1]
    assert len({seed for seed, _ in found[0]}) == 8


@pytest.mark.parametrize(("budget", "most"), [(40, 2), (7, 8), (3, 8), (1, 8)])
def test_limits_of_turns_and_tokens(budget, most):
    made = sampler(Echo(last=99), max_new_tokens=budget, max_turns=most)
    for played in made.play(asked(), group=4, version=0):
        rollout = played.rollout
        assert rollout.finish == "length"
        assert played.turns <= most and len(rollout.response_tokens) <= budget
        assert rollout.trainable[-1]  # no episode ends with an observation that nobody answered
        assert rollout.score == float(played.turns)  # the last turn's reward is kept
        if most == 2 and played.turns == 2:
            assert rollout.trainable.count(False) == 2
    assert made.sampler.max_new_tokens == budget


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(InputError, match=r"prompt 0 has 3 tokens; .* beyond the model's context of 64"):
        list(sampler(Echo(), max_new_tokens=62).generate(asked(), group=1, version=0))


# --- what an environment does wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        (lambda turn: 1 / 0, r"environment echo: row rows.jsonl:1, turn 0 raised ZeroDivisionError: division by zero"),
        (lambda turn: None, r"environment echo: row rows.jsonl:1, turn 0 has reward = None, .* not 0"),
        (lambda turn: math.nan, r"environment echo: row rows.jsonl:1, turn 0 has reward = nan, wanted a finite"),
        (lambda turn: "1", r"turn 0 has reward = '1', wanted a finite number"),
        (lambda turn: time.sleep(3), r"environment echo: row rows.jsonl:1, turn 0 took more than 0.2 s"),
    ],
)
def test_a_bad_answer_is_one_line_with_the_row(reward, line):
    with pytest.raises(InputError, match=line) as error:
        list(sampler(Echo(reward=reward), seconds=0.2).generate(asked(), group=1, version=0))
    assert "\n" not in str(error.value)


def test_other_bad_answers():
    class Mute(Echo):
        def start(self, prompt, seed):
            return dataclasses.make_dataclass("M", [], namespace={"reply": lambda self, text: Observation("")})()

    class Wrong(Echo):
        def start(self, prompt, seed):
            return dataclasses.make_dataclass("M", [], namespace={"reply": lambda self, text: "yes"})()

    class Nothing(Echo):
        def start(self, prompt, seed):
            return None

    for world, line in (
        (Mute(), "row rows.jsonl:1, turn 0: its observation cannot be used .*needs a token"),
        (Wrong(), "turn 0 returned str, wanted an Observation"),
        (Nothing(), "start of row rows.jsonl:1 returned NoneType, which has no reply"),
    ):
        with pytest.raises(InputError, match=line):
            list(sampler(world).generate(asked(), group=1, version=0))
    with pytest.raises(InputError, match=r"start of row rows.jsonl:1: row rows.jsonl:1 lacks the columns item"):
        list(sampler(ask.AskThenAnswer()).generate(asked(), group=1, version=0))
    with pytest.raises(InputError, match="max_turns must be 1 or more"):
        sampler(Echo(), max_turns=0)


def test_environments_by_name_and_by_file(tmp_path):
    assert {type(environment(name)) for name in ENVIRONMENTS} == {ask.AskThenAnswer, calculator.Calculator}
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def start(self, prompt, seed):\n        return None\n\ndef no():\n    return 3\n"
                    "def bad():\n    raise KeyError('x')\n")  # fmt: skip
    assert type(environment(f"{file}:Mine")).__name__ == "Mine"
    for spec, line in (
        ("calculater", "unknown environment 'calculater'. Did you mean 'calculator'"),
        (str(file), "names no class; write"),
        (f"{file}:Mein", "has no 'Mein'. Did you mean 'Mine'"),
        (f"{file}:no", "gives a int without start"),
        (f"{file}:bad", "raised KeyError"),
        (f"{tmp_path / 'gone.py'}:Mine", "no file"),
    ):
        with pytest.raises(InputError, match=line):
            environment(spec)


# --- the worlds -----------------------------------------------------------------------------------------------------


def played_out(world, row, *texts):
    """(sum of rewards, done, what was said) of a script of turns."""
    episode = world().start(Prompt(0, (1,), row["prompt"], row), 0)
    found = [episode.reply(text) for text in texts]
    return round(sum(o.reward for o in found), 9), found[-1].done, [o.text for o in found]


def test_what_is_best_when_asking():
    rows, _ = ask.prompt_rows(train=100, heldout=0, seed=3)
    scripts = {"ask": [], "blind": []}
    for row in rows:
        decides = ask.ITEMS[row["item"]]
        told = played_out(ask.AskThenAnswer, row, f"ask {decides}", f"box {row[decides]}")
        assert told == (pytest.approx(ask.BEST), True, [f"it is {row[decides]} .", ""])
        scripts["blind"].append(
            [played_out(ask.AskThenAnswer, row, f"box {value}")[0] for value in ask.VALUES[decides]]
        )
        other = next(a for a in ask.VALUES if a != decides)
        assert played_out(ask.AskThenAnswer, row, f"ask {other}")[2] == [f"it is {row[other]} ."]
        assert row[decides] not in " ".join([row["prompt"], f"it is {row[other]} ."])  # not told otherwise
    assert {sum(one) / 4 for one in scripts["blind"]} == {ask.BLIND}
    assert played_out(ask.AskThenAnswer, rows[0], "ask", "box", "hello")[::2] == (-0.3, ["what ?"] * 3)


def test_what_is_best_with_a_calculator():
    row = {"prompt": "what is 3 4 7 * 6 ?", "a": 347, "b": 6}
    world = calculator.Calculator
    assert played_out(world, row, "call 3 4 7 * 6", "answer 2 0 8 2") == (0.95, True, ["2 0 8 2 .", ""])
    assert played_out(world, row, "answer 2 0 8 2") == (1.0, True, [""])
    assert played_out(world, row, "answer 2 0 8 3")[0] == 0.0
    assert played_out(world, row, "call 1 2 * 3")[2] == ["0 0 3 6 ."]
    for wrong in ("call", "call 3 * 4 * 5", "call a * 2", "call 9 9 9 9 * 9", "hm"):
        assert played_out(world, row, wrong)[2] == ["error ."]
    best = 0
    for b in range(2, 10):
        for last in range(10):
            best += (
                len({a * b for a in range(100, 1000) if a % 10 == last}) > 0
            )  # each product once: one of them is right
    assert calculator.blind() == pytest.approx(best / 7200)


@pytest.mark.parametrize("world", [ask, calculator])
def test_rows_of_the_worlds(world):
    train, held = world.prompt_rows(train=200, heldout=100, seed=1)
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in held}
    shown = world.demonstrations(train, count=400, seed=1)
    assert shown == world.demonstrations(train, count=400, seed=1) != world.demonstrations(train, count=400, seed=2)
    known = set(world.vocabulary())
    for row in [*train, *held, *({"prompt": " ".join(t["content"] for t in r["turns"])} for r in shown)]:
        assert set(row["prompt"].split()) <= known
    made = {ask: ask.AskThenAnswer, calculator: calculator.Calculator}[world]
    lengths = [len(r["turns"]) for r in shown]
    assert 0.2 < lengths.count(1) / 400 < 0.6 and set(lengths) == {1, 3}
    for row, source in zip(shown, itertools.cycle(train), strict=False):  # the environment would have said the same
        if world is calculator and len(row["turns"]) == 3:
            assert played_out(made, source, row["turns"][0]["content"])[2] == [row["turns"][1]["content"]]
    with pytest.raises(InputError, match="prompts asked of a world of"):
        world.prompt_rows(train=10_000, heldout=0, seed=0)


# --- through the trainer --------------------------------------------------------------------------------------------

WORLD = '''
from tokenward.environments.protocol import Observation

class Even:
    """Pays for even words, and tells the count; done after two turns."""
    def start(self, prompt, seed):
        self.turn = 0
        return Talk()

class Talk:
    turn = 0
    def reply(self, text):
        self.turn += 1
        words = [int(w[1:]) for w in text.split()]
        even = sum(n % 2 == 0 for n in words)
        return Observation(f"w{3 + even % 9}", even / max(1, len(words)), self.turn == 2, {"even": float(even)})
'''


def settings(folder, **more):
    (folder / "world.py").write_text(WORLD)
    return {"environment": f"{folder / 'world.py'}:Even", "reward": None, "max_new_tokens": 12, "top_k": None, **more}


@pytest.mark.slow
def test_a_run_in_an_environment_resumes_to_the_same_weights(tmp_path):
    from tokenward.runlog import read
    from tokenward.train import loop

    (tmp_path / "a").mkdir()
    whole = runs.config(tmp_path / "a", "ppo", updates=8, save_every=0, **settings(tmp_path))
    many = tmp_path / "a" / "base" / "generation_config.json"  # end tokens, so that a random model's turns are short
    many.write_text(json.dumps({"eos_token_id": [tiny.EOS, *range(3, 12)]}))
    loop.run(whole, "ppo")
    stopped = dataclasses.replace(whole, out=str(tmp_path / "b"), save_every=3)
    import signal as signals

    from tokenward.train import opened
    from tokenward.train.runtime import Interrupted

    with pytest.raises(Interrupted), opened.fresh(stopped, "ppo") as live:
        seen = 0
        original = live.learner.step

        def step(piece):
            nonlocal seen
            seen += 1
            if seen == 5:
                live.stop.signal = signals.SIGINT
            return original(piece)

        live.learner.step = step
        loop.train(live)
    loop.resume(tmp_path / "b")
    one, two = (runs.weights(folder / "model") for folder in (tmp_path / "a" / "run", tmp_path / "b"))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    events = read(tmp_path / "b" / "events.jsonl")
    assert all(1 <= e["episode/turns"] <= 2 for e in events if "episode/turns" in e)
    assert any(e.get("episode/observation_tokens", 0) > 0 for e in events)


def test_a_reward_beside_the_environment_is_added(tmp_path):
    from tokenward.rollout.rewards import reward

    file = tmp_path / "reward.py"
    file.write_text("def ten(prompts, completions, columns):\n    return [10.0] * len(prompts)\n")
    rollouts = [r for g in sampler(Echo()).generate(asked(), group=2, version=0) for r in g]
    by_id = {p.id: p for p in asked()}
    found = reward(f"{file}:ten", tokenizer=tiny.word_tokenizer()).score(rollouts, by_id)
    assert [r.score for r in found] == [10.0 + r.score for r in rollouts]
    assert [r.rewards for r in found] == [r.rewards for r in rollouts]


def test_settings_of_environments_that_have_no_use_are_refused(tmp_path):
    from tokenward.train.fit import check

    with pytest.raises(InputError, match="max_turns = 3 has no effect"):
        check(build("ppo"), runs.config(tmp_path, "ppo", max_turns=3))
    with pytest.raises(InputError, match="environment = 'calculator' has no effect"):
        check(build("dpo"), runs.config(tmp_path, "dpo", environment="calculator"))
    with pytest.raises(InputError, match=r"--reward .* or --environment"):
        check(build("ppo"), runs.config(tmp_path, "ppo", reward=None))


def test_a_transcript_keeps_ids_and_drops_an_unanswered_observation():
    tokenizer = tiny.word_tokenizer()
    whole = Rollout(0, (7, 8), (3, 4, 5, 6, 1), (True, True, False, True, True), (0.0,) * 5, "stop")
    found = turns(whole, tokenizer)
    assert [(t["role"], t["tokens"]) for t in found] == [("assistant", [3, 4]), ("user", [5]), ("assistant", [6, 1])]
    assert found[2]["content"] == "w6"
    cut = Rollout(0, (7,), (3, 5), (True, False), (-1.0, 0.0), "length")
    assert [t["tokens"] for t in turns(cut, tokenizer)] == [[3]]


def test_the_worlds_words_are_one_token_each():
    for world in (ask, calculator):
        tokenizer = world_model.word_tokenizer(world.vocabulary())
        known = encoder(tokenizer)
        for word in world.vocabulary():
            assert len(known.text(word).ids) == 1 and known.text(word).ids[0] != tokenizer.unk_token_id
