"""PPO against rewards with a flaw, measured by the true reward on held-out prompts as it trains.

    python benchmarks/on_policy/prepare.py runs/on_policy/world
    python benchmarks/health/overoptimize.py runs/on_policy/world runs/health --proxy pairs:1000 --seeds 0 1 2

`--proxy pairs:N` is a reward model that saw N pairs (each seed its own), `words:B` the true reward and B for each word.
RUN_DIR/health.json holds what `tokenward diagnose` finds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenward.diagnose.health.run import FILE, health, write
from tokenward.stages import Stages, one_thread

COMMON = {"schedule": "cosine", "warmup_updates": 10}
REWARD_MODEL = {**COMMON, "updates": 200, "rows_per_update": 32, "learning_rate": 3e-3, "critic_learning_rate": 1e-2}
PPO = {
    "rollout_rows": 64, "mini_rows": 32, "max_new_tokens": 20, "updates": 120, "critic": "own", "warmup_updates": 5,
    "critic_learning_rate": 3e-3, "eval_every": 10, "eval_prompts": 96, "eval_samples": 4,
}  # fmt: skip
TRUTH = "src/tokenward/data/world.py:reward"
WORDS = """
def reward(prompts, completions, columns):
    return [{bonus} * len(text.split()) for text in completions]
"""


def proxy(stages: Stages, world: Path, asked: str) -> str:
    """The reward of training, made where it is not there yet."""
    kind, _, number = asked.partition(":")
    if kind == "words":
        file = stages.file("words.py")
        file.write_text(WORDS.format(bonus=float(number)), encoding="utf-8")
        return f"{TRUTH} + {file}:reward"
    first, count = int(number) * stages.seed, int(number)
    lines = (world / "data" / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    few = stages.file("pairs.jsonl")
    few.write_text("".join(lines[first : first + count]), encoding="utf-8")
    given = {"model": str(world / "sft" / "model"), "data": str(few)}
    stages.train("reward-model", "reward_model", {**REWARD_MODEL, **given})
    return stages.model("reward-model")


def trial(world: Path, out: Path, *, asked: str, seed: int, beta_kl: float, learning_rate: float) -> None:
    """One PPO run on the proxy; what diagnose says of it."""
    stages = Stages(out / asked.replace(":", "-") / f"seed-{seed}", seed, 1.0)
    stages.file("").mkdir(parents=True, exist_ok=True)
    data = {"data": str(world / "data" / "prompts.jsonl"), "eval_data": str(world / "data" / "heldout.jsonl")}
    rewards = {"reward": proxy(stages, world, asked), "eval_reward": TRUTH}
    name = f"ppo-{learning_rate:g}"
    settings = {**PPO, **data, **rewards, "model": str(world / "sft" / "model"), "learning_rate": learning_rate}
    stages.train(name, "ppo", settings, keywords={"beta_kl": beta_kl})
    for found in health([stages.out / name]):
        write(found, stages.out / name / FILE)
        print("\n".join(found.lines()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--proxy", default="pairs:1000")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--beta-kl", type=float, default=0.02)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    given = parser.parse_args()
    with one_thread():
        for seed in given.seeds:
            trial(
                given.world, given.out, asked=given.proxy, seed=seed, beta_kl=given.beta_kl,
                learning_rate=given.learning_rate,
            )  # fmt: skip
