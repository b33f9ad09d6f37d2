"""Best of n by the true reward from samples of the start model, as records beside those of sweeps.

    python benchmarks/on_policy/prepare.py runs/on_policy/world
    python benchmarks/frontier/best_of_n.py runs/on_policy/world runs/frontier/best_of_n.jsonl

For each held-out prompt the law of the best of n is computed exactly, ties included, on the law of SAMPLES samples,
each of weight 1/SAMPLES: reward and KL of the best of n draws of *that* law. It stands for the model's own while n is
far below SAMPLES.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from tokenward.data import dataset, world
from tokenward.data.tokenize import Prompt
from tokenward.diagnose.evaluate import sample
from tokenward.lab.optima.best_of_n import best_of_n_law
from tokenward.models import load
from tokenward.rollout.rewards import FunctionReward
from tokenward.rollout.sampler import GenerateSampler

SAMPLES, DRAWS, SEED = 256, (2, 4, 8, 16, 32), 12345


def rewards(folder: Path) -> tuple[list[int], torch.Tensor]:
    """The prompts' numbers, and the true reward of SAMPLES texts of the start model for each."""
    path = str(folder / "sft" / "model")
    policy, tokenizer = load.policy(path), load.tokenizer(path)
    data = dataset.load(str(folder / "data" / "heldout.jsonl"), tokenizer=tokenizer, kind="prompts")
    prompts = [one for one in data.examples if isinstance(one, Prompt)]
    ends = load.end_ids(policy, tokenizer)
    sampler = GenerateSampler(policy, end_ids=ends, pad_id=data.encoder.pad, max_new_tokens=20, rows=512, seed=SEED)
    truth = FunctionReward(world.reward, name="world", tokenizer=tokenizer)
    texts = sample(sampler, prompts, samples=SAMPLES, reward=truth)
    totals = torch.tensor([text.total for text in texts], dtype=torch.float64)
    return [prompt.id for prompt in prompts], totals.view(len(prompts), SAMPLES)


def record(n: int, prompts: list[int], table: torch.Tensor) -> dict[str, object]:
    """One object as `tokenward sweep` writes them."""
    law = best_of_n_law(torch.full_like(table, 1 / SAMPLES), table, n=n)
    kl = (torch.xlogy(law, law) - torch.xlogy(law, torch.full_like(law, 1 / SAMPLES))).sum(-1)
    numbers = {"reward": (law * table).sum(-1), "kl": kl}
    held = {name: [round(x, 5) for x in column.tolist()] for name, column in numbers.items()}
    return {
        "job": f"best of n={n}", "method": "best of n", "point": {"n": n}, "seed": 0, "recipe": "", "settings": {},
        "status": "done", "error": None, "heldout": {"prompt": prompts, **held}, "training": {},
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prompts, table = rewards(given.folder)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    records = [record(n, prompts, table) for n in DRAWS]
    given.out.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    ceiling = given.out.with_name("rewards.json")
    ceiling.write_text(json.dumps(table.tolist()), encoding="utf-8")
