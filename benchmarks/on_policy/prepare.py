"""What the jobs of the on-policy comparisons share: a small SFT model of the built-in world, a guide, a reward model.

    python benchmarks/on_policy/prepare.py runs/on_policy/world          texts of up to 20 tokens
    python benchmarks/on_policy/prepare.py runs/on_policy/long --words 47

The world is the demo's; the model is smaller (two layers of 64) and its texts are as long as asked, so that a run of
the comparisons takes seconds. A stage that is done is not done again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import free_length
import torch

from tokenward.data import world, world_model, world_rows
from tokenward.models.quiet import quiet
from tokenward.stages import Stages, one_thread

TRAIN, HELD, FEW, LONG = 400, 96, 30, 30  # from LONG words on, the reward is free_length.py's
PAIR_PROMPTS, PAIR_SAMPLES = 400, 16
COMMON = {"schedule": "cosine", "warmup_updates": 10, "rows_per_update": 32}
COPY = {**COMMON, "updates": 1200, "learning_rate": 4e-3}
REVIEWS = {**COMMON, "updates": 500, "learning_rate": 3e-3}
DPO = {**COMMON, "updates": 100, "learning_rate": 3e-4}
REWARD_MODEL = {**COMMON, "updates": 1000, "rows_per_update": 64, "learning_rate": 3e-3, "critic_learning_rate": 1e-2}


def prepare(out: Path, *, words: int, seed: int = 0) -> None:
    """Prompts, sft/, dpo/ and reward-model/ in `out`."""
    stages = Stages(out, seed, 1.0)
    stages.file("").mkdir(parents=True, exist_ok=True)
    with one_thread():
        _begin(stages)
        copies = world_rows.copy_rows(count=COPY["updates"] * 32, seed=seed)
        base = {"model": str(out / "base"), "data": str(stages.write("copy.jsonl", copies))}
        stages.train("sft-copy", "sft", {**COPY, **base})
        data = str(
            stages.write("reviews.jsonl", reviews(stages.rows("prompts.jsonl"), REVIEWS["updates"] * 32, words, seed))
        )
        stages.train("sft", "sft", {**REVIEWS, "model": stages.model("sft-copy"), "data": data})
        stages.once("pairs", lambda: _pairs(stages, words))
        given = {"model": stages.model("sft"), "data": str(stages.file("pairs.jsonl"))}
        stages.train("dpo", "dpo", {**DPO, **given}, keywords={"beta": 0.3})
        stages.train("reward-model", "reward_model", {**REWARD_MODEL, **given})


def _begin(stages: Stages) -> None:
    """Prompts and a model that knows nothing yet."""
    from transformers import LlamaConfig, LlamaForCausalLM

    train, held = world_rows.prompt_rows(train=TRAIN, heldout=HELD, seed=stages.seed)
    stages.write("prompts.jsonl", train)
    stages.write("heldout.jsonl", held)
    stages.write("few.jsonl", train[:FEW])
    both = [{**row, "part": "train"} for row in train[:FEW]] + [{**row, "part": "held out"} for row in held]
    stages.write("few_and_heldout.jsonl", both)
    rng = random.Random(stages.seed)
    mixed = [_row(row, "long" if place % 10 == 0 else "plain", rng) for place, row in enumerate(train)]
    stages.write("mixed.jsonl", mixed)
    stages.write("mixed_heldout.jsonl", [_row(row, kind, rng) for row in held for kind in ("plain", "long")])
    tokenizer = world_model.tokenizer()
    shape = {**world_model.model_config(tokenizer).to_dict(), "hidden_size": 64, "intermediate_size": 192}
    shape.pop("head_dim", None)
    with torch.random.fork_rng():
        torch.manual_seed(stages.seed)
        model = LlamaForCausalLM(LlamaConfig.from_dict(shape))
    with quiet():
        model.save_pretrained(stages.out / "base")
        tokenizer.save_pretrained(stages.out / "base")


def _row(row: dict[str, str], kind: str, rng: random.Random) -> dict[str, str]:
    """A prompt as it is, or with three sentences about nothing behind its facts: longer than any the model has seen."""
    more = " ".join(rng.sample([*world.VALENCE, *world.NEUTRAL], 3))
    prompt = row["prompt"] if kind == "plain" else row["prompt"].replace("review :", f"{more} review :")
    return {**row, "prompt": prompt, "kind": kind}


def reviews(prompts: Sequence[dict[str, str]], count: int, words: int, seed: int) -> list[dict[str, str]]:
    """Texts of a careless writer: sentences in any order as long as `words` allows, 20 % of the facts drawn anew."""
    rng = random.Random(seed)
    rows = []
    for place in range(count):
        facts = prompts[place % len(prompts)]
        sentences = rng.sample(world.STATEMENTS, 2 if words < LONG else 4)
        sentences += rng.sample([*world.VALENCE, *world.NEUTRAL], 8)
        if rng.random() < world_rows.TWICE:
            sentences[2] = sentences[0]
        limit, text = rng.randint(words // 2, words), ""
        for sentence in sentences:
            said = {n: rng.choice(v) if rng.random() < world_rows.WRONG else facts[n] for n, v in world.FACTS.items()}
            longer = f"{text} {sentence.format(**said)}".strip()
            if len(longer.split()) > limit:
                break
            text = longer
        rows.append({"prompt": facts["prompt"], "completion": text or "it was " + facts["event"] + " ."})
    return rows


def _pairs(stages: Stages, words: int) -> dict[str, int]:
    """Pairs of SFT texts, labeled by Bradley–Terry draws on the true reward."""
    from tokenward.data import dataset
    from tokenward.diagnose.evaluate import sample
    from tokenward.models import load
    from tokenward.rollout.rewards import FunctionReward, completion_text
    from tokenward.rollout.sampler import GenerateSampler

    policy, tokenizer = load.policy(stages.model("sft")), load.tokenizer(stages.model("sft"))
    data = dataset.load(str(stages.file("prompts.jsonl")), tokenizer=tokenizer, kind="prompts")
    prompts = data.examples[:PAIR_PROMPTS]
    ends = load.end_ids(policy, tokenizer)
    sampler = GenerateSampler(policy, end_ids=ends, pad_id=data.encoder.pad, max_new_tokens=words + 1, rows=400, seed=1)
    truth = world.reward if words < LONG else free_length.reward
    texts = sample(
        sampler, prompts, samples=PAIR_SAMPLES, reward=FunctionReward(truth, name="world", tokenizer=tokenizer)
    )
    cut = [texts[i : i + PAIR_SAMPLES] for i in range(0, len(texts), PAIR_SAMPLES)]
    rows = world_rows.pair_rows(
        [prompt.text for prompt in prompts],
        [[completion_text(tokenizer, t.prompt_tokens, t.response_tokens) for t in row] for row in cut],
        [[t.score for t in row] for row in cut],
        labels="bradley_terry",
        seed=stages.seed,
    )
    stages.write("pairs.jsonl", rows)
    return {"pairs": len(rows)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=int, default=19)
    given = parser.parse_args()
    prepare(given.out, words=given.words)
