"""The story of one world: SFT on careless demonstrations, then DPO on whole episodes, PPO, RTO, and a control.

Every run is the trainer's, every number is from held-out prompts. A stage that is done is not done again: the same
command goes on where an earlier one stopped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tokenward.errors import InputError, nearest
from tokenward.stages import Stages
from tokenward.trained.agents.plan import Plan
from tokenward.trained.agents.worlds import World, worlds

POLICIES = ("sft", "dpo", "ppo", "rto", "cut")


def study(name: str, *, seed: int = 0, out: str, scale: float = 1.0, plan: Plan | None = None) -> str:
    """The story of a world in the directory `out`; its tables as text."""
    from tokenward.trained.agents.words import told
    from tokenward.trained.directory import conduct

    known = worlds()
    if name not in known:
        raise InputError(f"unknown world {name!r}.{nearest(name, known)}")
    world, plan = known[name], plan or Plan()
    work = partial(_work, world=world, plan=plan)
    return conduct(name, work, partial(told, world), plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, world: World, plan: Plan) -> dict[str, Any]:
    build(stages, world, plan)
    counts = stages.once("pairs", lambda: _pairs(stages, world, plan))
    _train(stages, world, plan)
    return _measure(stages, world, plan) | {"pairs": counts}


def build(stages: Stages, world: World, plan: Plan) -> None:
    """Prompts, a model that knows nothing yet, and the SFT policy."""
    import torch
    from transformers import LlamaForCausalLM

    from tokenward.data import world_model
    from tokenward.models.quiet import quiet

    train, held = world.prompt_rows(train=plan.train_prompts, heldout=plan.held_prompts, seed=stages.seed)
    stages.write("prompts.jsonl", train)
    stages.write("heldout.jsonl", held)
    tokenizer = world_model.word_tokenizer(world.vocabulary())
    with torch.random.fork_rng():
        torch.manual_seed(stages.seed)
        model = LlamaForCausalLM(world_model.model_config(tokenizer))
    with quiet():
        model.save_pretrained(stages.out / "base")
        tokenizer.save_pretrained(stages.out / "base")
    twice = stages.write("copy.jsonl", copied(world.vocabulary(), count=_rows(plan.copy), seed=stages.seed))
    stages.train("sft-copy", "sft", {**plan.copy, "model": str(stages.out / "base"), "data": str(twice)})
    shown = stages.write("demonstrations.jsonl", world.demonstrations(train, count=_rows(plan.sft), seed=stages.seed))
    stages.train("sft", "sft", {**plan.sft, "model": stages.model("sft-copy"), "data": str(shown)})


def copied(words: Sequence[str], *, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"} of three to six of the world's words, said twice."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 6))) for _ in range(count)]
    return [{"prompt": f"{text} ", "completion": text} for text in texts]


def _rows(settings: Mapping[str, object]) -> int:
    """Rows that a run reads, each once."""
    return int(str(settings["updates"])) * int(str(settings["rows_per_update"]))


def _pairs(stages: Stages, world: World, plan: Plan) -> dict[str, Any]:
    """Pairs of the SFT policy's episodes on training prompts, with ids as sampled; how many."""
    print("pairs: playing the SFT policy", flush=True)
    bench = _bench(stages, world, plan, "prompts.jsonl")
    rows = bench.pairs(stages.model("sft"), each=plan.pair_episodes, sharpness=plan.sharpness, seed=stages.seed + 1)
    stages.write("pairs.jsonl", rows)
    return {"pairs": len(rows), "episodes": plan.pair_episodes * plan.train_prompts}


def _train(stages: Stages, world: World, plan: Plan) -> None:
    """DPO on whole episodes; PPO, RTO with that DPO as guide, and PPO with credit cut at observations."""
    from tokenward.trained.agents import control

    start = {"model": stages.model("sft")}
    pairs = {**plan.dpo, **start, "data": str(stages.file("pairs.jsonl"))}
    stages.train("dpo", "dpo", pairs, keywords={"beta": plan.beta_dpo})
    online = {
        **plan.online, **start, "data": str(stages.file("prompts.jsonl")), "environment": world.name,
        "max_new_tokens": plan.max_new_tokens, "max_turns": plan.max_turns,
    }  # fmt: skip
    pull = {"beta_kl": plan.beta_kl}
    stages.train("ppo", "ppo", online, keywords=pull)
    guided = {**online, "guide": stages.model("dpo")}
    stages.train("rto", "rto", guided, keywords={**pull, "beta_guide": plan.beta_guide})
    stages.train("cut", f"{control.__file__}:cut_ppo", online, keywords=pull)


def _measure(stages: Stages, world: World, plan: Plan) -> dict[str, Any]:
    """Held-out episodes of every policy, and the training curves of those that acted while they learned."""
    from tokenward.report.records import gather
    from tokenward.trained.agents import measure

    bench = _bench(stages, world, plan, "heldout.jsonl")
    policies = {}
    for name in POLICIES:
        print(f"measuring {name}", flush=True)
        work = partial(bench.measure, stages.model(name), each=plan.episodes, seed=stages.seed + 2)
        policies[name] = stages.once(f"measure-{name}", work)
    runs, _ = gather([stages.out / name for name in ("ppo", "rto", "cut")])
    curves = {
        name: {key: run.series(f"episode/{key}") for key in ("return", "calls_well")}
        for name, run in zip(("ppo", "rto", "cut"), runs, strict=True)
    }
    counts = {"prompts": len(bench.prompts), "episodes": plan.episodes}
    transcripts = {name: found["transcripts"] for name, found in policies.items()}
    return {"policies": measure.rows(policies), "curves": curves, "counts": counts, "transcripts": transcripts}


def _bench(stages: Stages, world: World, plan: Plan, prompts: str) -> Any:
    from tokenward.trained.agents.measure import Bench

    limits = {"max_new_tokens": plan.max_new_tokens, "max_turns": plan.max_turns}
    return Bench(world.name, stages.file(prompts), str(stages.out / "base"), **limits)
