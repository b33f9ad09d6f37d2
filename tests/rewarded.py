"""Completions and functions that the tests of rewards share."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import EOS, word_tokenizer
from tokenward.data.tokenize import Prompt
from tokenward.rollout.rewards import Reward, reward
from tokenward.types import Rollout

PROMPTS = {
    3: Prompt(id=3, tokens=(2, 5, 6), text="w5 w6", columns={"answer": "w9"}, where="data.jsonl:4"),
    8: Prompt(id=8, tokens=(2, 7), text="w7", columns={"answer": "w4"}),
}


def rollout(prompt_id: int, *tokens: int, **more: object) -> Rollout:
    n = len(tokens)
    finish = "stop" if tokens[-1] == EOS else "length"
    return Rollout(
        **{
            "prompt_id": prompt_id,
            "prompt_tokens": PROMPTS[prompt_id].tokens,
            "response_tokens": tokens,
            "trainable": (True,) * n,
            "logp": (-1.0,) * n,
            "finish": finish,
            **more,
        }
    )


ROLLOUTS = [rollout(3, 9, 10, EOS), rollout(3, 11, EOS), rollout(8, 4, 4, 12)]  # w9 w10 · w11 · w4 w4 w12, cut


def function(tmp_path: Path, body: str, *, name: str = "rate", timeout_s: float | None = None) -> Reward:
    file = tmp_path / "mine.py"
    file.write_text(body)
    return reward(f"{file}:{name}", tokenizer=word_tokenizer(), timeout_s=timeout_s)


def scores(source: Reward, rollouts: list[Rollout] = ROLLOUTS) -> list[float | None]:
    return [r.score for r in source.score(rollouts, PROMPTS)]
