"""The story of chains: SFT, pairs told apart by the final answer alone, DPO, a reward model, and PPO on each reward.

Every run is the trainer's, every number is from held-out prompts. A stage that is done is not done again: the same
command goes on where an earlier one stopped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenward.errors import InputError
from tokenward.stages import Stages
from tokenward.trained.reasoning.plan import Plan
from tokenward.trained.reasoning.taught import model_of, teach

POLICIES = ("sft", "dpo", "ppo-outcome", "ppo-model", "ppo-steps", "ppo-end")  # ppo-*: by what is rewarded

WIDTH = 0.06  # standard deviation of a fresh model's weights


def study(*, seed: int = 0, out: str = "runs/chains", scale: float = 1.0, plan: Plan | None = None) -> str:
    """The study in the directory `out`; its tables as text."""
    from tokenward.trained.directory import conduct
    from tokenward.trained.reasoning.words import told

    plan = plan or Plan()
    return conduct("chains", partial(_work, plan=plan), told, plan=plan, seed=seed, out=out, scale=scale)


def _work(stages: Stages, *, plan: Plan) -> dict[str, Any]:
    build(stages, plan)
    pairs = stages.once("pairs", lambda: _pairs(stages, plan))
    align(stages, plan)
    reinforce(stages, plan)
    return _measure(stages, plan) | {"pairs": pairs}


def build(stages: Stages, plan: Plan) -> None:
    """Prompts, a model that knows nothing yet, and the SFT policy, which learns single sums first.

    Weights are drawn three times as wide as usual: from the usual ones sums are learned far slower.
    """
    import torch
    from transformers import LlamaForCausalLM

    from tokenward.data import chain_rows, chains, world_model
    from tokenward.models.quiet import quiet

    seed = stages.seed
    train, held = chain_rows.prompt_rows(train=plan.train_prompts, heldout=plan.held_prompts, seed=seed)
    stages.write("prompts.jsonl", train)
    stages.write("pair_prompts.jsonl", train[: plan.pair_prompts])
    stages.write("heldout.jsonl", held)
    tokenizer = world_model.word_tokenizer(chains.vocabulary())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = world_model.model_config(tokenizer)
        config.initializer_range = WIDTH
        model = LlamaForCausalLM(config)
    with quiet():
        model.save_pretrained(stages.out / "base")
        tokenizer.save_pretrained(stages.out / "base")
    stages.once("sft", lambda: teach(stages, plan, train))


def _pairs(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Pairs of SFT texts of one prompt, right answer over wrong; the same with sides drawn by a coin."""
    from tokenward.trained.reasoning.bench import Bench
    from tokenward.trained.reasoning.pairs import by_coin, by_outcome

    print("pairs: sampling the SFT policy", flush=True)
    found: dict[str, Any] = {}
    for name, prompts, each in (("pairs", "pair_prompts", plan.pair_samples), ("heldout_pairs", "heldout", plan.texts)):
        bench = Bench(model_of(stages, "sft"), stages.file(f"{prompts}.jsonl"), max_new_tokens=plan.max_new_tokens)
        texts = bench.sample(bench.sft, each=each, seed=stages.seed + 1)
        rows = by_outcome(bench, texts, most=plan.most_pairs)
        if not rows:
            raise InputError(
                f"no prompt of {prompts}.jsonl has a right and a wrong answer among {each} texts of the SFT policy: "
                "there is nothing to prefer; give a larger --scale"
            )
        stages.write(f"{name}.jsonl", rows)
        found[name] = len(rows)
        if name == "pairs":
            stages.write("coin_pairs.jsonl", by_coin(rows, seed=stages.seed))
            found["unsound"] = bench.share(texts, "right") - bench.share(texts, "sound")
    return found


def align(stages: Stages, plan: Plan) -> None:
    """DPO, its control on random labels, and the outcome reward model, all on the same pairs."""
    start = {"model": model_of(stages, "sft")}
    for name, data in (("dpo", "pairs"), ("dpo-random-labels", "coin_pairs")):
        settings = {**plan.dpo, **start, "data": str(stages.file(f"{data}.jsonl"))}
        stages.train(name, "dpo", settings, keywords={"beta": plan.beta_dpo})
    pairs = str(stages.file("pairs.jsonl"))
    stages.train("reward-model", "reward_model", {**plan.reward_model, **start, "data": pairs})


def reinforce(stages: Stages, plan: Plan) -> None:
    """PPO at one budget on four rewards: the true outcome; the reward model; the outcome and DPO's credit, two ways.

    The last two are RTO: β_guide log π_dpo/π_sft, summed over each step onto its last token, or over the whole text
    onto its end. Every run logs beside its reward whether answers are right.
    """
    from tokenward.data import chains

    outcome = f"{chains.__file__}:outcome"
    online = {
        **plan.online, "model": model_of(stages, "sft"), "data": str(stages.file("prompts.jsonl")),
        "max_new_tokens": plan.max_new_tokens,
    }  # fmt: skip
    pull = {"beta_kl": plan.beta_kl}
    stages.train("ppo-outcome", "ppo", {**online, "reward": outcome}, keywords=pull)
    model = f"'{stages.model('reward-model')}' + {chains.__file__}:watched"
    stages.train("ppo-model", "ppo", {**online, "reward": model}, keywords=pull)
    guided = {**online, "reward": outcome, "guide": stages.model("dpo")}
    stepwise = {**guided, "sentence_ends": "".join(chains.ENDS)}
    for name, settings, placement in (("ppo-steps", stepwise, "sentence"), ("ppo-end", guided, "end")):
        keywords: dict[str, Any] = {**pull, "beta_guide": plan.beta_guide, "placement": placement}
        stages.train(name, "rto", settings, keywords=keywords)


def _measure(stages: Stages, plan: Plan) -> dict[str, Any]:
    """Accuracy of every policy, credit of steps, best of n, and the curves of the PPO runs."""
    from tokenward.report.records import gather
    from tokenward.trained.reasoning import measure

    found = {}
    for name in POLICIES:
        print(f"measuring {name}", flush=True)
        found[name] = stages.once(f"measure-{name}", partial(measure.accuracy, stages, plan, name))
    credit = stages.once("credit", lambda: measure.credit(stages, plan))
    best = stages.once("best-of-n", lambda: measure.best_of_n(stages, plan))
    runs, _ = gather([stages.out / name for name in POLICIES if name.startswith("ppo")])
    names = {"ppo-model": "reward/watched/right"}  # one of two sources of its reward
    curves = {run.name: run.series(names.get(run.name, "reward/right")) for run in runs}
    preferences = stages.once("preferences", lambda: measure.preferred(stages, plan))
    return {
        "policies": measure.rows(found), "credit": credit, "best": best, "curves": curves, "preferences": preferences,
        "taught": stages.once("sft", dict),
        "counts": {"prompts": plan.held_prompts, "texts": plan.texts},
    }  # fmt: skip
