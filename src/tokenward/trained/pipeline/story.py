"""Joint DPO of a rewriter and an answerer with one preference on the answer, against training either model alone.

Every run is the trainer's, every number is from held-out prompts of the built-in world, whose reward is known exactly.
A stage that is done is not done again: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from tokenward.stages import Stages, build_world
from tokenward.trained.pipeline.plan import Plan

# pipeline: the runs whose rewriter and answerer it is made of
PIPELINES = {
    "sft": ("sft", "sft"),
    "joint": ("joint", "joint"),
    "rewriter": ("rewriter", "sft"),
    "answerer": ("sft", "answerer"),
    "separate": ("rewriter", "answerer"),
}
LEARNS = {"joint": "both", "rewriter": "model", "answerer": "partner"}


def study(*, seed: int = 0, out: str = "runs/two-models", scale: float = 1.0, plan: Plan | None = None) -> str:
    """The study in the directory `out`; its tables as text."""
    from tokenward.trained.directory import conduct
    from tokenward.trained.pipeline.words import told

    plan = plan or Plan()
    return conduct("two-models", partial(_work, plan=plan), told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    build_world(stages, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
    _supervise(stages, plan)
    pairs = stages.once("pairs", lambda: _pairs(stages, plan))
    for name, learns in LEARNS.items():
        settings = {
            **plan.dpo, "model": stages.model("sft"), "partner": stages.model("sft"), "learns": learns,
            "data": str(stages.file("pairs.jsonl")),
        }  # fmt: skip
        stages.train(name, "dpo", settings, keywords={"beta": plan.beta})
    return _measure(stages, plan) | {"pairs": pairs}


def _supervise(stages: Stages, plan: Plan) -> None:
    """One model that copies, then one that can do both parts, into out/sft: where rewriter and answerer start from."""
    from tokenward.data import world_model, world_rows
    from tokenward.trained.pipeline.notes import sft_rows

    copying, writing = world_model.SFT_STAGES
    settings = asdict(copying)
    del settings["corpus"]
    rows = world_rows.copy_rows(count=copying.rows, seed=stages.seed)
    settings |= {"model": str(stages.out / "base"), "data": str(stages.write("copy.jsonl", rows))}
    stages.train("sft-copy", "sft", settings)
    settings = asdict(writing) | {"updates": plan.sft_updates}
    del settings["corpus"]
    count = plan.sft_updates * writing.rows_per_update
    parts = sft_rows(stages.rows("prompts.jsonl"), count=count, seed=stages.seed)
    settings |= {"model": stages.model("sft-copy"), "data": str(stages.write("parts.jsonl", parts))}
    stages.train("sft", "sft", settings)


def _pairs(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Pairs of runs of the SFT pipeline on training prompts, and on held-out ones for credit; how many."""
    from tokenward.trained.pipeline.bench import Bench, pair_rows

    print("pairs: running the SFT pipeline", flush=True)
    sft, counts = stages.model("sft"), {}
    files = {
        "pairs": ("prompts.jsonl", plan.pair_prompts, plan.pair_runs),
        "held-pairs": ("heldout.jsonl", plan.credit_prompts, 2),
    }
    for number, (name, (prompts, first, each)) in enumerate(files.items()):
        bench = Bench(stages.file(prompts), sft, max_new_tokens=plan.max_new_tokens)
        runs = bench.run(sft, sft, prompts=first, each=each, seed=stages.seed + 100 * number)
        rows = pair_rows(runs, seed=stages.seed + number)
        stages.write(f"{name}.jsonl", rows)
        counts[name] = len(rows)
    return counts


def _measure(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Held-out runs of every pipeline, and the credit of both models on one page."""
    from tokenward.trained.agents.measure import bootstrap, by_prompt
    from tokenward.trained.pipeline.bench import Bench, columns
    from tokenward.trained.pipeline.credit import looked_at

    bench = Bench(stages.file("heldout.jsonl"), stages.model("sft"), max_new_tokens=plan.max_new_tokens)
    means = {}
    for name, (rewriter, answerer) in PIPELINES.items():
        second = stages.out / answerer / ("partner" if answerer in LEARNS else "model")
        print(f"measuring {name}", flush=True)

        def work(one: str = stages.model(rewriter), two: str = str(second)) -> dict[str, Any]:
            return columns(bench.run(one, two, each=plan.runs, seed=stages.seed + 1000))

        found = stages.once(f"measure-{name}", work)
        means[name] = {key: by_prompt(found["prompt"], values) for key, values in found["columns"].items()}
    rows = {name: {key: bootstrap(values) for key, values in own.items()} for name, own in means.items()}
    for name, own in means.items():
        for other in ("sft", "joint"):
            rows[name][f"minus_{other}"] = bootstrap(own["reward"] - means[other]["reward"])
    credit = stages.once("credit", lambda: looked_at(stages, beta=plan.beta))
    counts = {"prompts": len(bench.prompts), "runs": plan.runs}
    return {"pipelines": rows, "credit": credit, "counts": counts}
