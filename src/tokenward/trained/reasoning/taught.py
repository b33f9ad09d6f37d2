"""The SFT policy of the study: single sums first, then whole chains, round after round until it answers well enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenward.data import chain_rows
from tokenward.stages import Stages
from tokenward.trained.reasoning.plan import Plan

ENOUGH = 0.85  # share of right answers on training prompts at which a policy is taught: held-out ones are fewer
ASKED = 512  # of them

Row = dict[str, str]


def teach(stages: Stages, plan: Plan, train: Sequence[Row]) -> dict[str, Any]:
    """The run that made the SFT policy, how many rounds it took, and its right answers on training prompts.

    Some seeds need a second round: there the model finds late where in the prompt each step stands.
    """
    from tokenward.models import load
    from tokenward.trained.reasoning.bench import Bench

    sums = stages.write("sums.jsonl", chain_rows.sums(count=_rows(plan.sums), seed=stages.seed))
    stages.train("sft-sums", "sft", {**plan.sums, "model": str(stages.out / "base"), "data": str(sums)})
    each, model, found = _rows(plan.sft), stages.model("sft-sums"), dict[str, Any]()
    shown = chain_rows.demonstrations(train, count=plan.rounds * each, seed=stages.seed)
    stages.write("asked.jsonl", train[:ASKED])
    for number in range(1, plan.rounds + 1):
        name = f"sft-{number}"
        rows = stages.write(f"demonstrations-{number}.jsonl", shown[(number - 1) * each : number * each])
        stages.train(name, "sft", {**plan.sft, "model": model, "data": str(rows)})
        model = stages.model(name)
        bench = Bench(model, stages.file("asked.jsonl"), max_new_tokens=plan.max_new_tokens)
        right = bench.share(bench.sample(load.policy(model), each=1, seed=stages.seed), "right")
        found = {"run": name, "rounds": number, "right": right}
        print(f"{name}: {right:.1%} of training prompts answered right", flush=True)
        if right >= ENOUGH:
            break
    return found


def model_of(stages: Stages, name: str) -> str:
    """The model of a run; "sft" is that of the last round."""
    if name != "sft":
        return stages.model(name)
    return stages.model(stages.once("sft", _not_taught)["run"])


def _not_taught() -> dict[str, Any]:
    raise AssertionError("the SFT policy is asked for before it was taught")


def _rows(settings: Mapping[str, object]) -> int:
    """Rows that a run reads, each once."""
    return int(str(settings["updates"])) * int(str(settings["rows_per_update"]))
