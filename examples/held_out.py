"""Reward and KL of several models on held-out prompts, and paired differences: `python examples/held_out.py …`.

    python examples/held_out.py BASE PROMPTS.jsonl REWARD NAME=MODEL_DIR …

REWARD is anything that `--reward` takes. Every model answers each prompt four times; the KL is to BASE. Intervals are
95 %, counting the answers of a prompt as one cluster. A difference compares two models prompt by prompt: each model
with the one before it.
"""

from __future__ import annotations

import sys

from tokenward.data import dataset
from tokenward.diagnose.evaluate import completions, sample
from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.models import load
from tokenward.rollout.rewards import reward
from tokenward.rollout.sampler import GenerateSampler
from tokenward.types import Rollout

EACH, NEW_TOKENS, SEED = 4, 48, 7


def shown(value: Estimate) -> str:
    """Mean ± half the width of its 95 % interval."""
    return f"{value.mean:.3f} ± {1.96 * value.se:.3f}"


def by_prompt(rollouts: list[Rollout]) -> dict[int, float]:
    """The mean reward of each prompt."""
    found: dict[int, list[float]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.prompt_id, []).append(rollout.total or 0.0)
    return {prompt: sum(rewards) / len(rewards) for prompt, rewards in found.items()}


def main(base: str, prompts: str, spec: str, *models: str) -> None:
    """Print one line for each model, and one for each neighboring pair of them."""
    tokenizer = load.tokenizer(base)
    reference, judge = load.policy(base), reward(spec, tokenizer=tokenizer)
    data = dataset.load(prompts, tokenizer=tokenizer, kind="prompts")
    print(f"{'':<8}{'reward':<18}{'KL':<18}{'length':<18}cut")
    before: tuple[str, dict[int, float]] | None = None
    differences = []
    for word in models:
        name, _, path = word.partition("=")
        policy = load.policy(path)
        sampler = GenerateSampler(
            policy,
            end_ids=load.end_ids(policy, tokenizer),
            pad_id=data.encoder.pad,
            max_new_tokens=NEW_TOKENS,
            seed=SEED,
        )
        rollouts = sample(sampler, data.examples, samples=EACH, reward=judge)
        found = completions(rollouts, policy=policy, reference=reference, pad_id=data.encoder.pad).numbers
        print(f"{name:<8}" + "".join(f"{shown(found[number]):<18}" for number in ("reward", "kl", "length", "cut")))
        means = by_prompt(rollouts)
        if before is not None:
            gap = estimate([means[prompt] - before[1][prompt] for prompt in means])
            differences.append(f"{name} − {before[0]}: reward {shown(gap)}")
        before = name, means
    print("\n".join(differences))
    print(f"{len(data.examples)} prompts × {EACH} answers; ± is half a 95 % interval")


if __name__ == "__main__":
    main(*sys.argv[1:])
