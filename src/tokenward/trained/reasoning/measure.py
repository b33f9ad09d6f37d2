"""What the study measures on held-out prompts: accuracy, credit of steps, held-out preferences, best of n."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenward.data import chain_rows, dataset
from tokenward.data.tokenize import Pair
from tokenward.diagnose.evaluate import preferences
from tokenward.diagnose.lens.rows import MEANINGS, TokenRow, write_rows
from tokenward.diagnose.lens.steps import by_step
from tokenward.diagnose.lens.token_rows import SUMMED, short
from tokenward.masking import row_sum
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.stages import Stages
from tokenward.trained.agents.measure import bootstrap, by_prompt
from tokenward.trained.reasoning.bench import Bench, said, score_gains
from tokenward.trained.reasoning.choose import chosen
from tokenward.trained.reasoning.plan import Plan
from tokenward.trained.reasoning.steps import located
from tokenward.trained.reasoning.taught import model_of
from tokenward.types import Rollout

Numbers = dict[str, Any]
LEAST = 10  # prompts with texts of a kind: fewer make no interval
SHOWN = 60  # texts of each kind on the page of credit


def accuracy(stages: Stages, plan: Plan, name: str) -> Numbers:
    """Right final answers of a policy's texts, right ones without a wrong step, and KL to SFT, one each a text."""
    bench, policy = held_out(stages, plan), load.policy(model_of(stages, name))
    texts = bench.sample(policy, each=plan.texts, seed=stages.seed + 2)
    batch = bench.batch(texts)
    ratio = row_sum(said(policy, bench.sft, batch, beta=1.0)["credit"].double(), batch.mask)
    parts = {key: [(text.parts or {})[key] for text in texts] for key in ("right", "sound")}
    return {"prompt": [text.prompt_id for text in texts], **parts, "kl": ratio.tolist()}


def rows(policies: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Every number of each policy with its interval over prompts, and differences of accuracy paired by prompt."""
    means = {
        name: {key: by_prompt(one["prompt"], one[key]) for key in ("right", "sound", "kl")}
        for name, one in policies.items()
    }
    found = {}
    for name, own in means.items():
        gaps = {f"minus_{other}": bootstrap(own["right"] - means[other]["right"]) for other in ("sft", "ppo-outcome")}
        found[name] = {key: bootstrap(values) for key, values in own.items()} | gaps
    found["ppo-steps"]["minus_ppo-end"] = bootstrap(means["ppo-steps"]["right"] - means["ppo-end"]["right"])
    return found


def credit(stages: Stages, plan: Plan) -> Numbers:
    """Credit of steps of chains with one error put in, of SFT's own errors, and of two errors that cancel.

    The rows of the first texts of each kind go into the study's credit_*.jsonl.
    """
    print("measuring credit of steps", flush=True)
    bench, rng = held_out(stages, plan), random.Random(stages.seed)
    models = [load.policy(stages.model(name)) for name in ("dpo", "dpo-random-labels")]
    judge = load.reward_model(stages.model("reward-model"))
    drawn = bench.sample(bench.sft, each=plan.texts, seed=stages.seed + 3)
    own = [text for text in drawn if (truth := bench.truth(text)) is not None and truth.first is not None]
    put = bench.given([(p, chain_rows.injected(p.text, rng=rng)) for p in bench.prompts])
    canceling = bench.given([(p, chain_rows.canceled(p.text, rng=rng)) for p in bench.prompts])
    kinds = {
        "injected": put, "natural": [text for text in own if not text.score],
        "canceled": canceling, "natural_right": [text for text in own if text.score],
    }  # fmt: skip
    found: Numbers = {"sampled": len(drawn), "wrong": sum(not text.score for text in drawn)}
    for kind, texts in kinds.items():
        if len({text.prompt_id for text in texts}) < LEAST:
            found[kind] = None
            continue
        whole = token_rows(bench, texts, models=models, judge=judge, beta=plan.beta_dpo)
        found[kind] = located(whole)
        write_rows(stages.out.parent / f"credit_{kind}.jsonl", map(shown, whole[:SHOWN]))
    return found


def shown(row: TokenRow) -> TokenRow:
    """The row as files of token credit have it: values that the lens knows, in the digits of a float32, and sums."""
    known = {name: column for name, column in row.values.items() if name in MEANINGS}
    sums = {name: short(math.fsum(x or 0.0 for x in known[name])) for name in SUMMED if name in known}
    return replace(
        row,
        values={name: tuple(None if x is None else short(x) for x in column) for name, column in known.items()},
        totals={**sums, "length": float(len(row.tokens)), **row.totals},
    )


def token_rows(
    bench: Bench, texts: Sequence[Rollout], *, models: Sequence[Scorer], judge: Scorer, beta: float
) -> list[TokenRow]:
    """Rows with the values of `steps.SCORES` and some of MEANINGS: credit of DPO, of its control, the judge's gains."""
    batch = bench.batch(texts)
    policy, control = models
    named = said(policy, bench.sft, batch, beta=beta)
    named["random"] = said(control, bench.sft, batch, beta=beta)["credit"]
    named["model"] = score_gains(judge, batch)
    return bench.rows(texts, named)


def preferred(stages: Stages, plan: Plan) -> Numbers:
    """How often DPO, its control and the reward model prefer the right one of two held-out texts."""
    bench = held_out(stages, plan)
    data = dataset.load(str(stages.file("heldout_pairs.jsonl")), tokenizer=bench.tokenizer, kind="pairs")
    pairs = [example for example in data.examples if isinstance(example, Pair)]
    found: Numbers = {"pairs": len(pairs)}
    judges: dict[str, tuple[Scorer, Scorer | None]] = {
        name: (load.policy(stages.model(name)), bench.sft) for name in ("dpo", "dpo-random-labels")
    }
    judges["reward-model"] = (load.reward_model(stages.model("reward-model")), None)
    for name, (model, reference) in judges.items():
        one = preferences(pairs, model=model, reference=reference, beta=1.0, pad_id=bench.encoder.pad)
        won = one.numbers["accuracy"]
        found[name] = {"value": won.mean, "low": won.mean - 1.96 * won.se, "high": won.mean + 1.96 * won.se}
    return found


def best_of_n(stages: Stages, plan: Plan) -> Numbers:
    """Accuracy of the best of n SFT texts, by each way to choose, for n = 1, 2, 4 … up to `best_of`."""
    print("measuring best of n", flush=True)
    bench = held_out(stages, plan)
    texts = bench.sample(bench.sft, each=plan.best_of, seed=stages.seed + 4)
    batch = bench.batch(texts)
    credit_ = said(load.policy(stages.model("dpo")), bench.sft, batch, beta=plan.beta_dpo)
    gains = score_gains(load.reward_model(stages.model("reward-model")), batch)
    scores = {
        "implicit": row_sum(credit_["credit"].double(), batch.mask).tolist(),
        "model": row_sum(gains.double(), batch.mask).tolist(),  # R(x, y) − R(x): the same order for one prompt
        "likelihood": row_sum(credit_["ref_logp"].double(), batch.mask).tolist(),
    }
    known = [bench.truth(text) is not None for text in texts]
    parts = iter(bench.rows([t for t, k in zip(texts, known, strict=True) if k], _kept(credit_["credit"], known)))
    least = [min(x for x in by_step(next(parts)).values["credit"] if x is not None) if k else -1e9 for k in known]
    return chosen(
        prompt=[text.prompt_id for text in texts],
        right=[float(text.score or 0.0) for text in texts],
        answer=[bench.words(text).split()[-1:] for text in texts],
        scores=scores | {"least_step": least},
        most=plan.best_of,
    )


def _kept(column: Any, known: Sequence[bool]) -> dict[str, Any]:
    return {"credit": column[[i for i, k in enumerate(known) if k]]}


def held_out(stages: Stages, plan: Plan) -> Bench:
    """The bench on held-out prompts."""
    return Bench(model_of(stages, "sft"), stages.file("heldout.jsonl"), max_new_tokens=plan.max_new_tokens)
