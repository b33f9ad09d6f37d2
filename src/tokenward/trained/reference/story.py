"""DPO from four references on the built-in world: chosen log-probs that fall and that rise, with the identity beside.

Every run is the trainer's; its probe (texts of the reference, made at the start) gives the curves, fresh texts on
held-out prompts give the numbers. A stage that is done is not done again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenward.stages import Stages, build_world, supervise
from tokenward.trained.reference.plan import Plan


def study(*, seed: int = 0, out: str = "runs/reference-runs", scale: float = 1.0, plan: Plan | None = None) -> str:
    """Run what is not done yet; results.json, data.jsonl (the study) and runs/ in `out`; the tables as text."""
    from tokenward.trained.directory import conduct
    from tokenward.trained.reference.words import told

    plan = plan or Plan()
    return conduct("reference-runs", partial(_work, plan=plan), told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    """The runs of DPO, and what was measured of each."""
    build_world(stages, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
    supervise(stages)
    pairs = stages.once("pairs", lambda: _pairs(stages, plan))
    models = _references(stages, plan)
    for name, reference, beta in plan.runs():
        settings = {**plan.offline, "model": models[reference], "data": str(stages.file("pairs.jsonl"))}
        stages.train(name, "dpo", settings, keywords={"beta": beta})
    return {"runs": {name: _run(stages, plan, name, models[ref], beta=beta) for name, ref, beta in plan.runs()},
            "pairs": pairs}  # fmt: skip


def _pairs(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Pairs of the SFT policy's texts, on training and on held-out prompts, and each side as demonstrations."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.language_model.data import draw, preferred

    print("pairs: sampling the SFT policy", flush=True)
    counts = {}
    for source, target, prompts, each, more in (
        ("prompts.jsonl", "pairs", plan.pair_prompts, plan.pair_samples, 0),
        ("heldout.jsonl", "heldout-pairs", plan.held_prompts, plan.held_samples, 5),
    ):
        bench = Bench(stages.model("sft"), stages.file(source), seed=stages.seed)
        drawn = draw(bench, prompts=prompts, each=each, temperature=1.0, seed=stages.seed + more)
        rows = preferred(drawn, seed=stages.seed)
        stages.write(f"{target}.jsonl", rows)
        counts[target] = len(rows)
        if target == "pairs":
            for side in ("chosen", "rejected"):
                stages.write(f"{side}.jsonl", [{"prompt": r["prompt"], "completion": r[side]} for r in rows])
    return counts


def _references(stages: Stages, plan: Plan) -> dict[str, str]:
    """The directories of the references: tuned on either side, the sampler of both, and one that knows no review."""
    for side in ("chosen", "rejected"):
        settings = {**plan.tuned, "model": stages.model("sft"), "data": str(stages.file(f"{side}.jsonl"))}
        stages.train(f"sft-{side}", "sft", settings)
    own = {side: stages.model(f"sft-{side}") for side in ("chosen", "rejected")}
    return {**own, "both": stages.model("sft"), "none": stages.model("sft-copy")}


def _run(stages: Stages, plan: Plan, name: str, reference: str, *, beta: float) -> dict[str, Any]:
    """The curves of a run from its events, and the reference report of its model on held-out pairs."""
    from tokenward.report.records import gather

    print(f"measuring {name}", flush=True)
    report = stages.once(f"report-{name}", partial(_report, stages, plan, name, reference))
    ((run,), _) = gather([stages.out / name])
    curve: dict[str, Any] = {}
    for metric in ("reference/log_ratio", "reference/log_ratio_se", "reference/kl", "reference/z"):
        curve["update"], curve[metric] = run.series(metric)
    for side in ("chosen", "rejected"):
        _, values = run.series(f"rewards/{side}")
        curve[side] = [value / beta for value in values]  # nats a text, before each update
    return {"beta": beta, "reference": name.split("-")[1], "curve": curve, "report": report}


def _report(stages: Stages, plan: Plan, name: str, reference: str) -> dict[str, Any]:
    from tokenward.data import dataset
    from tokenward.demo.measure import MAX_NEW_TOKENS
    from tokenward.diagnose.reference.measure import Sampling, reference_report
    from tokenward.models import load

    model = stages.model(name)
    tokenizer, policy = load.tokenizer(model), load.policy(model)
    data = dataset.load(str(stages.file("heldout-pairs.jsonl")), tokenizer=tokenizer, kind="pairs")
    found = reference_report(
        policy.requires_grad_(False),
        load.policy(reference).requires_grad_(False),
        data.examples,
        end_ids=load.end_ids(policy, tokenizer),
        pad_id=data.encoder.pad,
        sampling=Sampling(plan.held_prompts, plan.texts, MAX_NEW_TOKENS, seed=stages.seed + 31, rows=512),
        micro_tokens=4096,
    )
    return found.as_json()
