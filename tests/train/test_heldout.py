"""Held-out prompts: every number of a measurement by loops, which prompts they are, and what is refused before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import runs, tiny
from tests.train.test_reward_runs import config
from tokenward.data.tokenize import Limits, Prompt
from tokenward.errors import InputError
from tokenward.models.roles import Roles
from tokenward.rollout.rewards import FunctionReward, give
from tokenward.rollout.rewards.process import OwnProcess
from tokenward.train import loop
from tokenward.train.assemble import assemble
from tokenward.train.config import make
from tokenward.train.heldout import HeldOut, held_out
from tokenward.train.runtime import start
from tokenward.train.settings import Settings
from tokenward.types import Rollout

PROMPTS = (Prompt(4, (2, 5, 6, 9), "w5 w6 w9"), Prompt(9, (2, 7), "w7"))
TEXTS = {  # three answers to each prompt, of different lengths; an environment wrote one token of one of them
    4: ((11, 12, 13, 1), (14, 1), (15, 16, 17, 18, 19)),
    9: ((20, 30), (21, 22, 23, 24, 25, 26), (27, 28, 29)),
}
TEMPERATURE, BETA = 0.8, 0.3


class Fixed:
    """A sampler that always writes TEXTS."""

    def generate(self, prompts: Sequence[Prompt], *, group: int, version: int) -> Iterator[list[Rollout]]:
        assert group == 3
        return iter([[self.text(prompt, tokens) for tokens in TEXTS[prompt.id]] for prompt in prompts])

    def text(self, prompt: Prompt, tokens: tuple[int, ...]) -> Rollout:
        own = tuple(token != 17 for token in tokens)
        finish = "stop" if tokens[-1] == tiny.EOS else "length"
        return Rollout(prompt.id, prompt.tokens, tokens, own, (-1.0,) * len(tokens), finish)

    def push(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, str | int]:
        return {}

    def load_state(self, state: Mapping[str, str | int]) -> None: ...


class Power:
    """The sum of the tokens' ids to a power, over a hundred."""

    def __init__(self, power: float) -> None:
        self.power = power

    def of(self, tokens: Sequence[int]) -> float:
        return sum(token**self.power for token in tokens) / 100

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        assert {one.prompt_id for one in rollouts} <= set(prompts)
        return [give(one, score=self.of(one.response_tokens)) for one in rollouts]


def laws(scorer: object, prompt: Prompt, tokens: Sequence[int]) -> np.ndarray:
    """The log-probabilities of every token at each token of an answer, a row each."""
    with torch.no_grad():
        logits = scorer.causal_lm(torch.tensor([[*prompt.tokens, *tokens]])).logits[0]  # type: ignore[attr-defined]
    z = logits.numpy()[len(prompt.tokens) - 1 : -1] / TEMPERATURE
    return z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))


def by_hand(policy: object, reference: object, gold: Power, proxy: Power) -> dict[str, float]:
    """What a measurement must be: each number's mean over the prompts' means, and its standard error."""
    tables: dict[str, list[list[float]]] = {n: [] for n in ("reward", "proxy", "kl", "objective", "length", "cut")}
    for prompt in PROMPTS:
        answers = TEXTS[prompt.id]
        kl = []
        for tokens in answers:
            p, q = (laws(who, prompt, tokens) for who in (policy, reference))
            kl.append(sum(float((np.exp(a) * (a - b)).sum()) for a, b, t in zip(p, q, tokens, strict=True) if t != 17))
        tables["kl"].append(kl)
        tables["reward"].append([gold.of(tokens) for tokens in answers])
        tables["proxy"].append([proxy.of(tokens) for tokens in answers])
        tables["objective"].append([gold.of(tokens) - BETA * x for tokens, x in zip(answers, kl, strict=True)])
        tables["length"].append([float(len([t for t in tokens if t != 17])) for tokens in answers])
        tables["cut"].append([0.0 if tokens[-1] == tiny.EOS else 1.0 for tokens in answers])
    found = {}
    for name, (one, two) in tables.items():
        a, b = sum(one) / 3, sum(two) / 3
        found[f"eval/{name}"] = (a + b) / 2
        found[f"eval/{name}_se"] = math.sqrt((a - b) ** 2 / 2) / math.sqrt(2)  # n − 1 = 1, over √n
    return found


@pytest.mark.parametrize("judged", ["by another reward", "by the reward of training"])
def test_a_measurement_is_that_of_loops_over_prompts_and_texts(judged: str) -> None:
    policy, reference = (tiny.tiny(seed=seed, dtype=torch.float64) for seed in (0, 1))
    gold, proxy = Power(1), Power(1.5)
    held = HeldOut(PROMPTS, Fixed(), {}, gold, proxy, samples=3, beta=BETA, pad_id=tiny.PAD, data_hash="")
    expected = by_hand(policy, reference, gold, proxy)
    if judged == "by the reward of training":
        held = replace(held, proxy=None)
        expected = {name: value for name, value in expected.items() if "proxy" not in name}
    roles = Roles(policy=policy, reference=reference, temperature=TEMPERATURE, micro_tokens=20)
    assert held.measure(roles) == pytest.approx(expected, rel=1e-9)
    assert expected["eval/kl"] > 0.1 and expected["eval/cut"] == pytest.approx(2 / 3) and expected["eval/length_se"] > 0


def prompts(folder: Path, rows: list[dict[str, object]], **more: object) -> HeldOut:
    """The held-out prompts of these rows."""
    data = runs.jsonl(folder / "held.jsonl", rows)
    given = make({"model": "m", "data": "d", "out": "o", "eval_data": data, **more})
    words = {"tokenizer": tiny.word_tokenizer(), "limits": Limits(), "pad_id": tiny.PAD, "device": "cpu"}
    return held_out(given, sampler=Fixed(), reward=None, **words)  # type: ignore[arg-type]


def test_held_out_prompts_are_the_first_of_the_file(tmp_path: Path) -> None:
    held = prompts(tmp_path, [{"prompt": f"w{n}"} for n in (9, 5, 7, 6)], eval_prompts=3)
    assert [prompt.text for prompt in held.prompts] == ["w9", "w5", "w7"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reward", "^reward answer:gold: .*held.jsonl:2 has no"),
        ("eval_reward", "^eval_reward = answer:gold: .*jsonl:2"),
    ],
)
def test_a_held_out_prompt_without_its_answer_is_said_before_anything_is_sampled(
    name: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        prompts(tmp_path, [{"prompt": "w9", "gold": "3"}, {"prompt": "w5"}], **{name: "answer:gold"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"reward": "stop:1", "eval_reward": "mine.py:evens"}, None),
        ({"reward": "mine.py:evens", "eval_reward": "stop:1"}, None),
        ({"reward": "stop:1", "eval_reward": "length:4"}, "reward_timeout_s limits functions, and reward 'stop:1' has"),
        ({"reward": "stop:1", "eval_reward": "gone.py:f"}, "^eval_reward = .*: no file .*gone.py"),
        ({"reward": "stop:1", "eval_reward": "anwser:gold"}, "^eval_reward = .*: reward .* unknown prefix 'anwser:'"),
    ],
)
def test_the_time_out_is_for_whichever_reward_has_a_function(
    more: dict[str, str], says: str | None, tmp_path: Path
) -> None:
    words = {name: spec if ".py" not in spec else f"{tmp_path}/{spec}" for name, spec in more.items()}
    made = config(tmp_path, reward_timeout_s=30.0, eval_data=str(tmp_path / "rollouts.jsonl"), updates=1, **words)
    settings = Settings("rloo", {}, made)
    if says is None:
        heldout = assemble(settings, start(made)).heldout
        assert heldout is not None
        (apart,) = (one.function for one in (heldout.reward, heldout.proxy) if isinstance(one, FunctionReward))
        assert isinstance(apart, OwnProcess) and apart.seconds == 30
        return
    with pytest.raises(InputError, match=says):
        assemble(settings, start(made))


def test_held_out_prompts_need_a_reward_where_the_recipe_reads_none(tmp_path: Path) -> None:
    made = runs.config(tmp_path, "distill", guide="absent", eval_data="held.jsonl")
    with pytest.raises(InputError, match=r"^eval_data needs a reward: give --eval-reward$"):
        loop.run(made, "distill", show="nothing")
