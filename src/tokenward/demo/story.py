"""The whole story on the built-in world: SFT, DPO, a reward model, PPO and RTO, and what each was worth.

Every stage is a run of the trainer, as `tokenward train` makes it; its directory can be looked at, resumed, repeated.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenward.demo.plan import Plan
from tokenward.errors import InputError
from tokenward.stages import Stages, build_world, one_thread, supervise

HERE = "demo.json"  # marks a directory as the demo's own, so that it may be made anew


def demo(*, seed: int = 0, out: str = "runs/demo", scale: float = 1.0, plan: Plan | None = None) -> str:
    """Run everything, write summary.json and report.html into `out`; the table and where the report lies."""
    if not 0 < scale <= 10:
        raise InputError(
            f"scale multiplies the updates of every stage: give a number above 0 and at most 10, got {scale}"
        )
    start = time.monotonic()
    plan = plan or Plan()
    story = Stages(claimed(Path(out)), seed, scale)
    with one_thread():
        build_world(story, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
        supervise(story)
        _label(story, plan)
        _prefer(story, plan)
        _reinforce(story, plan)
        summary = _measure(story, plan)
    summary["seconds"] = time.monotonic() - start
    return _tell(story, summary)


def claimed(out: Path) -> Path:
    """An empty directory; one that an earlier demo made is emptied, any other with something in it is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out = {out} is a file: give another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / HERE).is_file():
            raise InputError(f"{out} holds something that the demo did not make: give another --out")
        shutil.rmtree(out)
    try:
        (out / "data").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"out = {out} cannot be made: {error.strerror}") from error
    (out / HERE).write_text("{}\n", encoding="utf-8")
    return out


def _label(story: Stages, plan: Plan) -> None:
    """Pairs of SFT samples, labeled by Bradley–Terry draws on the true reward, and by a coin; held-out pairs too."""
    from tokenward.data import world_rows
    from tokenward.demo.measure import Bench
    from tokenward.rollout.rewards import completion_text

    start = time.monotonic()
    for source, target, prompts, seed in (
        ("prompts.jsonl", "pairs", plan.pair_prompts, 0),
        ("heldout.jsonl", "heldout_pairs", plan.held_prompts, 7),
    ):
        bench = Bench(story.model("sft"), story.file(source), seed=story.seed)
        each = plan.pair_samples if target == "pairs" else plan.texts
        chosen = bench.prompts[:prompts]
        rollouts = bench.samples(bench.reference, prompts=chosen, each=each, seed=story.seed + seed)
        texts = [completion_text(bench.tokenizer, r.prompt_tokens, r.response_tokens) for r in rollouts]
        values = [float(r.score) for r in rollouts if r.score is not None]
        starts = range(0, len(rollouts), each)
        arguments = (
            [p.text for p in chosen],
            [texts[i : i + each] for i in starts],
            [values[i : i + each] for i in starts],
        )
        story.write(f"{target}.jsonl", world_rows.pair_rows(*arguments, labels="bradley_terry", seed=story.seed))
        if target == "pairs":
            story.write("coin_pairs.jsonl", world_rows.pair_rows(*arguments, labels="coin", seed=story.seed))
    story.seconds["pairs"] = time.monotonic() - start
    count = len(story.file("pairs.jsonl").read_text(encoding="utf-8").splitlines())
    print(f"pairs: {count}, labeled by Bradley–Terry draws on the true reward; as many by a coin", flush=True)


def _prefer(story: Stages, plan: Plan) -> None:
    """DPO, its negative control on random labels, and the reward model."""
    base = {"model": story.model("sft")}
    beta = {"beta": plan.beta_dpo}
    for name, data in (("dpo", "pairs"), ("dpo-random-labels", "coin_pairs")):
        story.train(name, "dpo", {**plan.dpo, **base, "data": str(story.file(f"{data}.jsonl"))}, keywords=beta)
    pairs = str(story.file("pairs.jsonl"))
    story.train("reward-model", "reward_model", {**plan.reward_model, **base, "data": pairs})


def _reinforce(story: Stages, plan: Plan) -> None:
    """PPO and RTO on the reward model: same settings, budget and seed; RTO has the DPO policy as its guide besides."""
    from tokenward.demo.measure import MAX_NEW_TOKENS

    settings = {
        **plan.online, "model": story.model("sft"), "data": str(story.file("prompts.jsonl")),
        "reward": story.model("reward-model"), "max_new_tokens": MAX_NEW_TOKENS,
    }  # fmt: skip
    story.train("ppo", "ppo", settings, keywords={"beta_kl": plan.beta_kl})
    keywords = {"beta_kl": plan.beta_kl, "beta_guide": plan.beta_guide}
    story.train("rto", "rto", {**settings, "guide": story.model("dpo")}, keywords=keywords)


def _measure(story: Stages, plan: Plan) -> dict[str, Any]:
    """Everything that summary.json holds, but the total time; credit rows are written beside it."""
    from tokenward.demo.measure import Bench, gap
    from tokenward.diagnose.lens.rows import write_rows
    from tokenward.diagnose.measures.ceiling import reward_at
    from tokenward.models import load

    start = time.monotonic()
    print("measuring on held-out prompts", flush=True)
    bench = Bench(story.model("sft"), story.file("heldout.jsonl"), seed=story.seed)
    models = {name: load.policy(story.model(name)) for name in ("sft", "dpo", "ppo", "rto", "dpo-random-labels")}
    samples = {name: bench.measure(models[name], each=plan.texts) for name in ("sft", "dpo", "ppo", "rto")}
    story.seconds["sft"] += story.seconds.pop("sft-copy", 0.0)
    methods = {name: found.row(seconds=story.seconds[name]) for name, found in samples.items()}
    judge = load.reward_model(story.model("reward-model"))
    search = bench.search(models["dpo"], judge=judge, n=plan.best_of, width=plan.width, count=plan.search_prompts)
    ceiling = bench.ceiling(prompts=plan.ceiling_prompts, each=plan.ceiling_samples)
    for row in (*methods.values(), *search.values()):
        top = reward_at(ceiling, row["kl"])
        if top is not None:
            row["ceiling"], row["ceiling_se"] = top
    found: dict[str, Any] = {"methods": methods, "search": search}
    for key, name in (("credit_auc", "dpo"), ("credit_auc_random_labels", "dpo-random-labels")):
        area, rows = bench.credit(models[name], samples["sft"].rollouts, beta=plan.beta_dpo)
        found |= {key: area.auc, f"{key}_interval": [area.low, area.high]}
        found[f"{key}_counts"] = {"wrong": area.positives, "other_slots": area.negatives}
        write_rows(story.out / f"credit_{name}.jsonl", rows[: 40 * plan.texts : plan.texts])
    policies = {name: models[name] for name in ("dpo", "dpo-random-labels")}
    found["heldout_accuracy"] = bench.preferences(story.file("heldout_pairs.jsonl"), policies, judge_model=judge)
    difference = gap(samples["rto"], samples["ppo"])
    found["rto_minus_ppo"] = {"reward": difference.mean, "reward_se": difference.se}
    found["ceiling"] = [asdict(point) for point in ceiling]
    story.seconds["measuring"] = time.monotonic() - start
    found |= {"stages": story.seconds, "settings": {"seed": story.seed, "scale": story.scale, **asdict(plan)}}
    return found


def _tell(story: Stages, summary: dict[str, Any]) -> str:
    """Write summary.json and the page; the words for the terminal."""
    from tokenward.demo.words import LABELS, notes, table
    from tokenward.report.page import write_page
    from tokenward.runlog import write_json

    for name, row in [*summary["methods"].items(), *summary["search"].items()]:
        row["label"] = LABELS[name]
    summary["notes"] = notes(summary)
    write_json(story.out / "summary.json", summary)
    runs = ["sft", "dpo", "dpo-random-labels", "reward-model", "ppo", "rto"]
    folders = [story.out, *(story.out / run for run in runs)]
    path = write_page(folders, story.out / "report.html", title="tokenward demo: the built-in world")
    lines = [table(summary), "", *summary["notes"], "", f"report: {path}", f"numbers: {story.out / 'summary.json'}"]
    return "\n".join(lines)
