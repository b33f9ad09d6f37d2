"""From lab to language model: J_τ of methods that share an optimum, and what DPO learns when two models wrote a pair.

Every run is the trainer's, every number is from held-out prompts of the built-in world, whose reward is known exactly.
A stage that is done is not done again: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenward.stages import Stages, build_world, supervise
from tokenward.trained.language_model.plan import Plan


def study(*, seed: int = 0, out: str = "runs/language-model", scale: float = 1.0, plan: Plan | None = None) -> str:
    """The study in the directory `out`; its tables as text."""
    from tokenward.trained.directory import conduct
    from tokenward.trained.language_model.words import told

    plan = plan or Plan()
    work = partial(_work, plan=plan)
    return conduct("language-model", work, told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    build_world(stages, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
    supervise(stages)
    pairs = stages.once("pairs", lambda: _pairs(stages, plan))
    _align(stages, plan, ipo_scale=float(pairs["ipo_scale"]))
    return _measure(stages, plan) | {"pairs": pairs}


def _pairs(stages: Stages, plan: Plan) -> dict[str, Any]:
    """The files of pairs, how many each holds, the mean reward of each law's texts, and IPO's β per unit of τ."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.language_model.data import draw, from_two, halves, ipo_scale, preferred, softened

    print("pairs: sampling the SFT policy", flush=True)
    bench = Bench(stages.model("sft"), stages.file("prompts.jsonl"), seed=stages.seed)
    own = draw(bench, prompts=plan.pair_prompts, each=plan.pair_samples, temperature=1.0, seed=stages.seed)
    one, two = halves(own)
    files = {"pairs": preferred(own, seed=stages.seed), "one-law": from_two(one, two)}
    files["soft-pairs"] = softened(files["pairs"])
    rewards = {"sft": own.mean_reward}
    for number, (name, temperature) in enumerate(plan.laws.items()):
        seed, each = stages.seed + 21 + number, plan.pair_samples // 2
        other = draw(bench, prompts=plan.pair_prompts, each=each, temperature=temperature, seed=seed)
        files[name], rewards[name] = from_two(other, two), other.mean_reward
    for name, rows in files.items():
        stages.write(f"{name}.jsonl", rows)
    counts = {name: len(rows) for name, rows in files.items()}
    return {"counts": counts, "rewards": rewards, "ipo_scale": ipo_scale(files["pairs"])}


def _align(stages: Stages, plan: Plan, *, ipo_scale: float) -> None:
    """Five methods at one τ, and DPO on the pairs of two laws and of one."""
    from tokenward.data import world
    from tokenward.demo.measure import MAX_NEW_TOKENS

    tau, start = plan.tau, {"model": stages.model("sft")}
    runs = (
        ("dpo", "dpo", "pairs", tau), ("ipo", "ipo", "pairs", tau * ipo_scale), ("rda", "rda", "pairs", tau),
        ("pra", "pra", "soft-pairs", tau), *((f"dpo-{name}", "dpo", name, tau) for name in (*plan.laws, "one-law")),
    )  # fmt: skip
    for name, recipe, data, beta in runs:
        settings = {**plan.offline, **start, "data": str(stages.file(f"{data}.jsonl"))}
        stages.train(name, recipe, settings, keywords={"beta": beta})
    settings = {
        **plan.online, **start, "data": str(stages.file("prompts.jsonl")), "reward": f"{world.__file__}:reward",
        "max_new_tokens": MAX_NEW_TOKENS,
    }  # fmt: skip
    stages.train("ppo", "ppo", settings, keywords={"beta_kl": tau})


def _measure(stages: Stages, plan: Plan) -> dict[str, Any]:
    """J_τ of every policy, and what the implicit reward of every DPO goes with."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.language_model import measure

    bench = Bench(stages.model("sft"), stages.file("heldout.jsonl"), seed=stages.seed)
    names = ["sft", "dpo", "ipo", "rda", "pra", "ppo", *(f"dpo-{name}" for name in (*plan.laws, "one-law"))]
    policies = {}
    for name in names:
        print(f"measuring {name}", flush=True)
        work = partial(measure.policy_values, bench, stages.model(name), tau=plan.tau, each=plan.texts)
        columns = stages.once(f"value-{name}", work)
        policies[name] = measure.values_of(columns, tau=plan.tau)
    fresh = stages.once("fresh", lambda: measure.fresh_texts(bench, each=plan.texts, laws=plan.laws))
    learned = {}
    for name in (name for name in names if name.startswith("dpo")):
        work = partial(measure.implicit_rewards, bench, stages.model(name), fresh, tau=plan.tau)
        implicit = stages.once(f"implicit-{name}", work)["implicit"]
        law = name.removeprefix("dpo-") if name.removeprefix("dpo-") in plan.laws else "hotter"
        learned[name] = {"law": law, **measure.association_row(implicit, fresh, law=law)}
    counts = {"texts": len(policies["sft"].prompt), "prompts": len(bench.prompts), "fresh": len(fresh["prompt"])}
    return {"values": measure.value_rows(policies), "learned": learned, "counts": counts}
