"""Is it credit? DPO on true, random and swapped labels, and what each one's implicit advantage finds of known errors.

Every run is the trainer's; every text that is measured belongs to prompts that no run has read. A stage that is done is
not done again: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from tokenward.stages import Stages, build_world, supervise
from tokenward.trained.credit.plan import Plan

LABELS = {"dpo": "pairs", "dpo-random": "coin-pairs", "dpo-swapped": "swapped-pairs"}  # run: file of pairs
WRITERS = ("", "habit-")  # what stands before the names of runs and files: the built-in writer, the writer of habits


def study(*, seed: int = 0, out: str = "runs/credit", scale: float = 1.0, plan: Plan | None = None) -> str:
    """The study in the directory `out`; its tables as text."""
    from tokenward.trained.credit.words import told
    from tokenward.trained.directory import conduct

    plan = plan or Plan()
    return conduct("credit", partial(_work, plan=plan), told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    build_world(stages, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
    supervise(stages)
    _supervise_habits(stages)
    counts = {}
    for writer in WRITERS:
        counts[writer or "built-in"] = stages.once(f"{writer}pairs", partial(_pairs, stages, plan, writer))["count"]
        for name, data in LABELS.items():
            start = {"model": stages.model(f"{writer}sft"), "data": str(stages.file(f"{writer}{data}.jsonl"))}
            stages.train(f"{writer}{name}", "dpo", {**plan.dpo, **start}, keywords={"beta": plan.beta})
    return {"tables": _measure(stages, plan), "pairs": counts}


def _supervise_habits(stages: Stages) -> None:
    """The last stage of SFT once more, on texts of the writer of habits, into habit-sft."""
    from tokenward.data import world_model
    from tokenward.trained.credit.habits import habit_rows

    stage = world_model.SFT_STAGES[-1]
    settings = asdict(stage)
    settings.pop("corpus")
    rows = habit_rows(stages.rows("prompts.jsonl"), count=stage.rows, seed=stages.seed)
    settings |= {"model": stages.model("sft-copy"), "data": str(stages.write("habit-reviews.jsonl", rows))}
    stages.train("habit-sft", "sft", settings)


def _pairs(stages: Stages, plan: Plan, writer: str) -> dict[str, Any]:
    """Pairs of the SFT policy's texts: labels drawn on the true reward, tossed by a coin, drawn and then swapped."""
    from tokenward.data import world_rows
    from tokenward.demo.measure import Bench
    from tokenward.rollout.rewards import completion_text

    print(f"{writer}pairs: sampling the SFT policy", flush=True)
    bench = Bench(stages.model(f"{writer}sft"), stages.file("prompts.jsonl"), seed=stages.seed)
    asked, each = bench.prompts[: plan.pair_prompts], plan.pair_samples
    rollouts = bench.samples(bench.reference, prompts=asked, each=each, seed=stages.seed)
    texts = [completion_text(bench.tokenizer, r.prompt_tokens, r.response_tokens) for r in rollouts]
    values = [float(r.score) for r in rollouts if r.score is not None]
    starts = range(0, len(rollouts), each)
    arguments = (
        [p.text for p in asked], [texts[i : i + each] for i in starts], [values[i : i + each] for i in starts]
    )  # fmt: skip
    true = world_rows.pair_rows(*arguments, labels="bradley_terry", seed=stages.seed)
    coin = world_rows.pair_rows(*arguments, labels="coin", seed=stages.seed)
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in true]
    for name, rows in zip(LABELS.values(), (true, coin, swapped), strict=True):
        stages.write(f"{writer}{name}.jsonl", rows)
    return {"count": len(true)}


def _measure(stages: Stages, plan: Plan) -> dict[str, Any]:
    """The texts with their errors, what every model says of their tokens, and the tables."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.credit import measure

    found: dict[str, Any] = {}
    held = stages.rows("heldout.jsonl")
    for writer in WRITERS:
        bench = Bench(stages.model(f"{writer}sft"), stages.file("heldout.jsonl"), seed=stages.seed)
        written = 0 if writer else plan.written
        texts = stages.once(f"{writer}texts", partial(measure.texts, bench, held, each=plan.texts, written=written))
        numbers = {}
        for name in ("sft", *LABELS):
            print(f"measuring {writer}{name}", flush=True)
            work = partial(measure.numbers, bench, stages.model(f"{writer}{name}"), texts)
            numbers[name] = stages.once(f"numbers-{writer}{name}", work)
        work = partial(measure.tables, texts, numbers, beta=plan.beta, draws=plan.draws)
        found |= {f"{writer}{name}": table for name, table in stages.once(f"{writer}tables", work).items()}
    return found
