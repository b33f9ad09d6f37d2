"""An environment of your own: the model guesses a number and is told whether it is higher or lower.

    python examples/higher_lower.py OUT [UPDATES]

makes prompts, a model that knows nothing and episodes of random guesses in OUT, imitates those (SFT), then learns from
its own episodes (PPO). The class alone is what you write: `--environment examples/higher_lower.py:HigherLower`.
"""

import json
import random
import sys
from pathlib import Path

from tokenward.data.tokenize import Prompt
from tokenward.environments.protocol import Observation


class HigherLower:
    """The number is drawn by the episode's seed: group members differ, and a resumed run sees the same."""

    def start(self, prompt, seed):
        return Guessing(random.Random(seed).randint(1, int(prompt.columns["most"])))


class Guessing:
    """One game."""

    def __init__(self, number):
        self.number = number

    def reply(self, text):
        if text == str(self.number):
            return Observation(reward=1.0, done=True, counts={"right": 1})
        if not text.isdecimal():
            return Observation("a number please", reward=-0.2)
        return Observation("higher" if int(text) < self.number else "lower", reward=-0.1)


def guesses(row, rng):
    """A trajectory of random guesses, as `tokenward train sft --data` reads it."""
    episode, turns = HigherLower().start(Prompt(0, (), row["prompt"], row), rng.randrange(2**31)), []
    while True:
        turns.append({"role": "assistant", "content": str(rng.randint(1, row["most"]))})
        answer = episode.reply(turns[-1]["content"])
        if answer.done or len(turns) > 6:
            return {"prompt": row["prompt"], "turns": turns}
        turns.append({"role": "environment", "content": answer.text})


def main(out, updates="120"):
    import torch
    from transformers import LlamaForCausalLM

    from tokenward.data.world_model import model_config, word_tokenizer
    from tokenward.runlog import read
    from tokenward.train import loop
    from tokenward.train.config import RunConfig

    rng, words = random.Random(0), "guess 1 to higher lower a number please 2 3 4 5 6 7 8 9".split()
    rows = [{"prompt": f"guess 1 to {most}", "most": most} for most in range(2, 10)]
    shown = [guesses(rng.choice(rows), rng) for _ in range(2000)]
    torch.manual_seed(0)
    out.mkdir()
    for name, lines in (("prompts", rows), ("shown", shown)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    LlamaForCausalLM(model_config(tokenizer := word_tokenizer(words))).save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")
    both = {"learning_rate": 1e-3, "updates": int(updates), "threads": 1, "device": "cpu"}
    loop.run(RunConfig(model=str(out / "base"), data=str(out / "shown.jsonl"), out=str(out / "sft"), **both), "sft")
    online = {"environment": f"{__file__}:HigherLower", "max_turns": 6, "max_new_tokens": 24, "critic": "own"}
    online |= {"rollout_rows": 64, "model": str(out / "sft" / "model"), "data": str(out / "prompts.jsonl")}
    loop.run(RunConfig(**online, out=str(out / "ppo"), **both | {"learning_rate": 3e-4}), "ppo")
    events = read(out / "ppo" / "events.jsonl")
    for key in ("episode/return", "episode/turns", "episode/right"):
        print(f"{key:<16}{events[0][key]:6.2f} at first, {events[-1][key]:.2f} at last")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
