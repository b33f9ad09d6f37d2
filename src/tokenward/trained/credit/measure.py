"""Texts with known errors, the numbers of their tokens under each model, and the tables of what finds the errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tokenward.data import world, world_rows
from tokenward.data.collate import rollouts_batch
from tokenward.demo.measure import Bench
from tokenward.diagnose.lens.rows import TokenRow
from tokenward.diagnose.measures.intervals import estimate
from tokenward.diagnose.truth.injected import Injected, broken, repeat, second_error, wrong_fact
from tokenward.diagnose.truth.localization import Localization, Suspicion, localization
from tokenward.models import frozen, load
from tokenward.types import Rollout

Columns = dict[str, Any]
FIELDS = frozenset({"logp", "entropy"})
TRUE, RANDOM, SWAPPED = "credit, true labels", "credit, random labels", "credit, swapped labels"
SECOND = ("clean2", "only_first", "only_second", "both")
SFT_LOGP, SFT_ENTROPY, POLICY_LOGP = "−log π_sft", "entropy of SFT", "−log π, true labels"


def texts(bench: Bench, held: Sequence[Mapping[str, str]], *, each: int, written: int) -> Columns:
    """Every text that is measured: `set` (sampled, clean, injected, …), prompt, ids, kind of error and slot of tokens.

    sampled: the SFT policy's own, with the errors that it makes · clean: right texts of the writer of the SFT corpus ·
    injected: those with one error · clean2, only_first, only_second, both: versions of texts that state two facts,
    where `slot` is the second fact alone.
    """
    found: Columns = {name: [] for name in ("set", "prompt", "tokens", "kind", "slot")}

    def add(name: str, prompt: int, tokens: Sequence[int], kind: Sequence[str], slot: Sequence[bool]) -> None:
        for key, value in zip(found, (name, prompt, list(tokens), list(kind), list(slot)), strict=True):
            found[key].append(value)

    for rollout in bench.samples(bench.reference, each=each, seed=bench.seed + 1):
        marks = bench.marks(rollout)
        if marks is not None:
            add("sampled", rollout.prompt_id, rollout.response_tokens, *marks)
    if written:
        _add_written(bench, held, written, add)
    return found


def _add_written(bench: Bench, held: Sequence[Mapping[str, str]], written: int, add: Callable[..., None]) -> None:
    """Right texts of the writer, and their versions with errors."""
    numbers = {prompt.text: prompt.id for prompt in bench.prompts}
    rng = random.Random(bench.seed + 5)
    ends = [bench.tokenizer.eos_token_id]
    for row in world_rows.sft_rows([dict(one) for one in held], count=written * len(held), seed=bench.seed + 5):
        prompt, words = row["prompt"], tuple(world.words_of(row["completion"]))

        def put(name: str, given: Sequence[str], only: int | None = None, prompt: str = prompt) -> None:
            truth = world.truth(prompt, given)
            assert truth is not None  # a prompt of the world
            slot = [i == only if only is not None else s for i, s in enumerate(truth.slot)]
            ids = bench.tokenizer.convert_tokens_to_ids(list(given))
            add(name, numbers[prompt], [*ids, *ends], [*(k or "" for k in truth.kind), ""], [*slot, False])

        one: list[Injected | None] = [make(prompt, words, rng) for make in (wrong_fact, repeat, broken)]
        if any(made is None for made in one):
            continue  # it has an error of its own, or states no fact
        put("clean", words)
        for made in one:
            if made is not None:
                put("injected", made.words)
        two = second_error(prompt, words, rng)
        if two is not None:
            put("clean2", two.clean, only=two.second)
            for name in ("only_first", "only_second", "both"):
                put(name, getattr(two, name), only=two.second)


def numbers(bench: Bench, model: str, given: Mapping[str, Any]) -> Columns:
    """log π and the entropy of π of every token of the texts."""
    rollouts = [
        Rollout(prompt, bench.named[prompt].tokens, tuple(ids), (True,) * len(ids), (0.0,) * len(ids), "stop")
        for prompt, ids in zip(given["prompt"], given["tokens"], strict=True)
    ]
    batch = rollouts_batch([[r] for r in rollouts], pad_id=bench.pad)
    found = frozen.score(load.policy(model), batch, FIELDS, micro_tokens=4096)
    assert found.logp is not None and found.entropy is not None  # asked for above
    columns: Columns = {}
    for name, table in (("logp", found.logp.tolist()), ("entropy", found.entropy.tolist())):
        columns[name] = [
            row[len(r.prompt_tokens) : len(r.prompt_tokens) + len(r.response_tokens)]
            for row, r in zip(table, rollouts, strict=True)
        ]
    return columns


def tables(given: Mapping[str, Any], models: Mapping[str, Columns], *, beta: float, draws: int) -> Columns:
    """Every table as JSON: the policy's own texts, and, where there are such, injected errors and second ones."""
    scores = suspicions(models, beta=beta)
    found: Columns = {}
    for name, sets in (("sampled", ("sampled",)), ("injected", ("clean", "injected"))):
        rows = [i for i, one in enumerate(given["set"]) if one in sets]
        some = {key: [column[i] for i in rows] for key, column in scores.items()}
        marks = [list(zip(given["slot"][i], given["kind"][i], strict=True)) for i in rows]
        facts = [[slot and kind in ("", "contradiction") for slot, kind in row] for row in marks]
        for where, places in (("facts", facts), ("all", [[True] * len(row) for row in marks])) if rows else ():
            found[f"{name}_{where}"] = _located(given, rows, some, places, draws).as_json()
    return found | ({"second": _second(given, scores, draws=draws)} if "both" in given["set"] else {})


def suspicions(models: Mapping[str, Columns], *, beta: float) -> dict[str, Suspicion]:
    """What is thought to point at errors, high where it does: −credit of three policies, and three baselines."""
    sft, dpo = models["sft"], models["dpo"]

    def against(name: str) -> list[list[float]]:
        pairs = zip(models[name]["logp"], sft["logp"], strict=True)
        return [[beta * (r - p) for p, r in zip(ours, theirs, strict=True)] for ours, theirs in pairs]

    return {
        TRUE: against("dpo"), RANDOM: against("dpo-random"), SWAPPED: against("dpo-swapped"),
        SFT_LOGP: [[-x for x in row] for row in sft["logp"]], SFT_ENTROPY: sft["entropy"],
        POLICY_LOGP: [[-x for x in row] for row in dpo["logp"]],
    }  # fmt: skip


def _second(given: Mapping[str, Any], scores: Mapping[str, Suspicion], *, draws: int) -> Columns:
    """The second fact of a text, wrong against right: AUC where the first is wrong ("after") and where not ("alone").

    Both have the same words but for the first fact, so their difference is paired: two scores on the same tokens.
    `credit`: of the second fact where it is wrong, true labels, and the paired difference.
    """
    places = {name: [i for i, one in enumerate(given["set"]) if one == name] for name in SECOND}
    alone, after = places["clean2"] + places["only_second"], places["only_first"] + places["both"]
    slots = [given["slot"][i] for i in alone]
    found: Columns = {}
    for name, column in scores.items():
        pair = {"after": [column[i] for i in after], "alone": [column[i] for i in alone]}
        found[name] = _located(given, alone, pair, slots, draws).as_json()
    values = {
        name: [-float(scores[TRUE][i][given["slot"][i].index(True)] or 0.0) for i in places[name]]
        for name in ("both", "only_second")
    }
    prompts = [given["prompt"][i] for i in places["both"]]
    values["difference"] = [a - b for a, b in zip(values["both"], values["only_second"], strict=True)]
    found["credit"] = {name: asdict(estimate(column, clusters=prompts)) for name, column in values.items()}
    return found


def _located(
    given: Mapping[str, Any],
    rows: Sequence[int],
    scores: Mapping[str, Suspicion],
    places: Sequence[Sequence[bool]],
    draws: int,
) -> Localization:
    """The table of these texts; intervals draw whole prompts again."""
    texts = [TokenRow("", tuple(map(str, given["tokens"][i])), {}, wrong=tuple(given["kind"][i])) for i in rows]
    prompts = [str(given["prompt"][i]) for i in rows]
    return localization(texts, scores, places=places, clusters=prompts, draws=draws)
