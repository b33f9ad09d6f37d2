"""Search with what was trained: what each strategy makes of one budget of tokens, and what wider beams do.

Every run is the trainer's, every number is from held-out prompts of the built-in world, whose reward is known exactly.
A stage that is done is not done again: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tokenward.stages import Stages, build_world, supervise
from tokenward.trained.search.plan import Plan

if TYPE_CHECKING:
    from tokenward.search.beam import Length


def study(*, seed: int = 0, out: str = "runs/search", scale: float = 1.0, plan: Plan | None = None) -> str:
    """The study in the directory `out`; its tables as text."""
    from tokenward.trained.directory import conduct
    from tokenward.trained.search.words import told

    plan = plan or Plan()
    return conduct("search", partial(_work, plan=plan), told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    train(stages, plan)
    return _measure(stages, plan)


def train(stages: Stages, plan: Plan) -> None:
    """SFT, pairs labeled by draws on the reward, DPO at each β, a reward model, and PPO on it with its own critic."""
    from tokenward.demo.measure import MAX_NEW_TOKENS

    build_world(stages, train_prompts=plan.train_prompts, held_prompts=plan.held_prompts)
    supervise(stages)
    stages.once("pairs", lambda: _pairs(stages, plan))
    base = {"model": stages.model("sft"), "data": str(stages.file("pairs.jsonl"))}
    for beta in plan.betas:
        stages.train(named(beta), "dpo", {**plan.offline, **base}, keywords={"beta": beta})
    stages.train("reward-model", "reward_model", {**plan.reward_model, **base})
    settings = {
        **plan.online, "model": stages.model("sft"), "data": str(stages.file("prompts.jsonl")),
        "reward": stages.model("reward-model"), "max_new_tokens": MAX_NEW_TOKENS,
    }  # fmt: skip
    stages.train("ppo", "ppo", settings, keywords={"beta_kl": plan.beta_kl})


def named(beta: float) -> str:
    """The run of DPO at this β."""
    return f"dpo-{beta:g}"


def _pairs(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Texts of the SFT policy two and two, the chosen one drawn with P = σ(r_first − r_second)."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.language_model.data import draw, preferred

    print("pairs: sampling the SFT policy", flush=True)
    bench = Bench(stages.model("sft"), stages.file("prompts.jsonl"), seed=stages.seed)
    own = draw(bench, prompts=plan.pair_prompts, each=plan.pair_samples, temperature=1.0, seed=stages.seed)
    rows = preferred(own, seed=stages.seed)
    stages.write("pairs.jsonl", rows)
    return {"count": len(rows), "reward": own.mean_reward}


def _measure(stages: Stages, plan: Plan) -> dict[str, Any]:
    """True reward, length and tokens read: of beams at every width, and of every strategy at the budget."""
    from tokenward.demo.measure import Bench
    from tokenward.trained.search import measure

    bench = Bench(stages.model("sft"), stages.file("heldout.jsonl"), seed=stages.seed)
    curves: list[tuple[str, Length, tuple[int, ...]]] = [(named(beta), "sum", plan.widths) for beta in plan.betas]
    curves += [(named(plan.beta), "mean", plan.mean_widths)]
    curves += [("ppo", "sum", plan.ppo_widths), ("ppo", "mean", plan.ppo_widths)]
    beams: dict[str, dict[str, Any]] = {}
    for name, length, widths in curves:
        print(f"measuring beams of {name}, texts compared by {length}", flush=True)
        for width in widths:
            model = stages.model(name)
            work = partial(measure.beams, bench, model, width=width, length=length, prompts=plan.width_prompts)
            found = stages.once(f"beams-{name}-{length}-{width}", work)
            beams.setdefault(f"{name} {length}", {})[str(width)] = found
    models = measure.Models(
        sft=stages.model("sft"), dpo=stages.model(named(plan.beta)), ppo=stages.model("ppo"),
        critic=str(stages.out / "ppo" / "critic"), reward=stages.model("reward-model"), beta=plan.beta,
        beta_kl=plan.beta_kl,
    )  # fmt: skip
    strategies = {}
    for name in measure.STRATEGIES:
        print(f"measuring {name}", flush=True)
        work = partial(measure.strategy, bench, models, name, prompts=plan.prompts, budget=plan.budget)
        strategies[name] = stages.once(f"strategy-{name.replace(' ', '-')}", work)
    return {"beams": beams, "strategies": strategies}
