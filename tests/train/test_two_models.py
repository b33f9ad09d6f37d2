"""Two models under one loss: its gradient, its files, its runs."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests import runs, tiny, two_models
from tests.train.test_resume import killed_after
from tokenward.data import dataset, view
from tokenward.data.collate import rows_batch
from tokenward.data.sources import OfflineSource
from tokenward.data.tokenize import Demonstration, Pair, Prompt, Response, StepPair, StepResponse
from tokenward.data.units import steps_batch
from tokenward.diagnose.evaluate import evaluate
from tokenward.diagnose.lens.record import credit
from tokenward.diagnose.lens.request import Request
from tokenward.diagnose.lens.rows import read_rows
from tokenward.errors import InputError, RunError
from tokenward.masking import row_sum
from tokenward.models.forward import Scorer
from tokenward.models.roles import Roles
from tokenward.recipes import build
from tokenward.runlog import read
from tokenward.train import loop, opened
from tokenward.train.assemble import assemble
from tokenward.types import Batch

NEEDS, LOGP = frozenset({"ref_logp"}), frozenset({"logp"})


def part(prompt: tuple[int, ...], answer: tuple[int, ...], actor: int) -> StepResponse:
    return StepResponse(actor, Prompt(0, prompt, "", where="here:1"), Response(answer, "stop"))


def answered(
    x: tuple[int, ...], z: tuple[int, ...], y: tuple[int, ...], *, actors: tuple[int, int] = (0, 1)
) -> tuple[StepResponse, ...]:
    """z after x, and y after x and z: steps whose contexts are those of one long row."""
    return part(x, z, actors[0]), part(x + z, y, actors[1])


X, Y = ((2, 5, 6), (2, 9)), ((11, 12, 1), (14, 1))
SIDES = ([((7, 8), (11, 12, 1)), ((8,), (14, 1))], [((17,), (21, 1)), ((18, 19, 20), (22, 23, 1))])


def pairs_of(actors: tuple[int, int]) -> list[StepPair]:
    return [
        StepPair(*(answered(x, z, y, actors=actors) for z, y in sides), target=target)
        for x, sides, target in zip(X, SIDES, (1.0, 0.8), strict=True)
    ]


def whole_rows() -> Batch:
    """The same pairs as one row each: the prompt, z and y, with z and y trained on."""
    prompts = [Prompt(i, x, "") for i, x in enumerate(X)]
    told = [
        Demonstration(prompt, Response(z + y, "stop"))
        for prompt, sides in zip(prompts, SIDES, strict=True)
        for z, y in sides
    ]
    return replace(
        rows_batch(told, pad_id=tiny.PAD),
        pairs=torch.tensor([[0, 1], [2, 3]]),
        pair_target=torch.tensor([1.0, 0.8]),
    )


def gradient(roles: Roles, batch: Batch, name: str = "dpo") -> dict[str, list[torch.Tensor]]:
    """The gradient of the loss in each model's weights."""
    recipe = build(name)
    frozen = roles.frozen(batch, NEEDS)
    stats = replace(frozen, logp=roles.current(batch, LOGP).logp)
    recipe.value(batch, stats).backward()
    found = {n: [p.grad.clone() for p in m.parameters()] for n, m in roles.trainable_modules().items()}
    for module in roles.trainable_modules().values():
        module.zero_grad(set_to_none=True)
    return found


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    """Equal up to the models' rounding: they norm in float32."""
    largest = max(float(g.abs().max()) for g in wanted)
    assert largest > 1e-2
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6 * largest)


def scorers(*seeds: int) -> list[Scorer]:
    return [tiny.tiny(seed=seed, dtype=torch.float64) for seed in seeds]


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "slic", "f_dpo"])
def test_one_model_in_both_parts_has_the_gradient_of_the_whole_row(name):
    """Where the contexts coincide, two steps of one model are one row of it."""
    model, reference = scorers(0, 1)
    roles = Roles(policy=model, reference=reference)
    whole = gradient(roles, whole_rows(), name)["policy"]
    steps = gradient(roles, steps_batch(pairs_of((0, 0)), pad_id=tiny.PAD), name)["policy"]
    assert_same(steps, whole)


def test_two_copies_of_a_model_share_the_gradient_of_the_whole_row():
    model, reference = scorers(0, 1)
    whole = gradient(Roles(policy=model, reference=reference), whole_rows())["policy"]
    partner = Roles(policy=copy.deepcopy(model), reference=reference)
    found = gradient(
        Roles(policy=model, reference=reference, partner=partner), steps_batch(pairs_of((0, 1)), pad_id=tiny.PAD)
    )
    assert all(bool((g != 0).any()) for g in (found["policy"][-1], found["partner"][-1]))
    assert_same([a + b for a, b in zip(found["policy"], found["partner"], strict=True)], whole)


def test_the_gradient_of_one_model_is_that_of_dpo_with_the_others_margin_as_offset():
    """∂/∂A of −log σ(β(Δ_A + Δ_B)): Δ_B is a number; written out on A's rows alone."""
    a, ref_a, b, ref_b = scorers(0, 1, 2, 3)
    batch = steps_batch(pairs_of((0, 1)), pad_id=tiny.PAD)
    roles = Roles(policy=a, reference=ref_a, partner=Roles(policy=b, reference=ref_b))
    joint = gradient(roles, batch)

    def margin(model: Scorer, reference: Scorer, first: int) -> torch.Tensor:
        """log-ratio margins of the rows `first`, `first` + 2 … of the batch, from the models directly."""
        there = model(batch, fields=LOGP).logp, reference(batch, fields=LOGP).logp.detach()
        ratio = row_sum(there[0] - there[1], batch.mask)[first::2]
        return ratio[0::2] - ratio[1::2]

    other = margin(b, ref_b, 1).detach()
    z = 0.1 * (margin(a, ref_a, 0) + other)
    target = torch.tensor([1.0, 0.8])
    (-(target * logsigmoid(z) + (1 - target) * logsigmoid(-z)).mean()).backward()
    assert_same(joint["policy"], [p.grad for p in a.parameters()])
    assert not torch.allclose(other, torch.zeros_like(other), atol=1e-2)


def test_statistics_are_each_models_own():
    a, b = scorers(0, 3)
    batch = steps_batch(pairs_of((0, 1)), pad_id=tiny.PAD)
    found = Roles(policy=a, partner=Roles(policy=b)).frozen(batch, frozenset({"old_logp"})).old_logp
    for number, model in enumerate((a, b)):
        rows = batch.actor[:, 0] == number
        assert rows.sum() == 4
        torch.testing.assert_close(found[rows], model(batch, fields=LOGP).logp.detach()[rows], rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match=r"^rows of actor 1, and the run has 1 model: give the other with --partner$"):
        Roles(policy=a).frozen(batch, frozenset({"old_logp"}))


# --- files --------------------------------------------------------------------------------------------------------


def loaded(folder: Path, lines: list[dict[str, object]], **more):
    path = runs.jsonl(folder / "rows.jsonl", lines)
    return dataset.survey(path, tokenizer=tiny.word_tokenizer(), kind="pairs", **more)


def step(actor: str, prompt: str, completion: str) -> dict[str, str]:
    return {"actor": actor, "prompt": prompt, "completion": completion}


LINE = {
    "chosen_steps": [step("model", "w3 w4 ", "w5"), step("partner", "w5 ", "w6 w7")],
    "rejected_steps": [step("model", "w3 w4 ", "w8 w9"), step("partner", "w8 w9 ", "w6")],
    "target": 0.75,
    "score_chosen": 2.0,
    "score_rejected": -1.0,
}


def test_each_step_is_a_row_and_each_run_a_unit(tmp_path):
    data = loaded(tmp_path, [LINE, {**LINE, "rejected_steps": LINE["rejected_steps"][:1]}])
    assert data.schema.name == "pipeline preference" and len(data.examples) == 2
    batch = OfflineSource(data, rows_per_update=2, order="file").next()
    assert batch.tokens[:4].tolist() == [[3, 4, 5, 1, 0], [5, 6, 7, 1, 0], [3, 4, 8, 9, 1], [8, 9, 6, 1, 0]]
    assert batch.mask[:4].int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert batch.unit.tolist() == [0, 0, 1, 1, 2, 2, 3] and batch.group.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.actor[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert batch.pairs.tolist() == [[0, 2], [4, 6]]
    assert batch.pair_target.tolist() == [0.75, 0.75] and batch.pair_weight is None
    assert batch.score.tolist() == [2, 2, -1, -1, 2, 2, -1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chosen_steps": []}, "chosen_steps must be a list of steps, got list []"),
        ({"chosen_steps": [{"actor": "model", "prompt": "w3"}]}, "chosen_steps[0] has no completion"),
        ({"chosen_steps": [step("writer", "w3", "w4")]}, "chosen_steps[0].actor must be model or partner, got str"),
        ({"chosen_steps": [step("model", "w9 ", "w5")]}, "the first steps of chosen_steps and rejected_steps differ"),
        ({"chosen_steps": [step("partner", "w3 w4 ", "w5")]}, "differ in actor or prompt"),
        ({"chosen_steps": [step("model", "w3 w4 ", " ")]}, "chosen_steps[0]: completion is empty"),
        ({"chosen_steps": LINE["rejected_steps"]}, "the two runs of the pipeline are the same"),
    ],
)
def test_what_is_wrong_with_a_run_is_said(tmp_path, change, says):
    data = loaded(tmp_path, [LINE, {**LINE, **change}])
    assert len(data.examples) == 1
    ((first,),) = data.tally.first.values()
    assert says in first and f"{tmp_path}/rows.jsonl:2" in first


def test_data_check_and_show_know_steps(tmp_path):
    found = view.check(loaded(tmp_path, [LINE]), max_dropped=0.0)
    assert (found.format, found.kind, found.usable) == ("pipeline preference", "pairs", 1)
    assert found.lengths["prompt"] == {"p0": 1, "p50": 2, "p90": 2, "p99": 2, "p100": 2}
    assert found.lengths["row"]["p100"] == 5
    shown = view.show(loaded(tmp_path, [LINE]), 0)
    assert [row.role for row in shown] == [
        "chosen, step 1 (model)", "chosen, step 2 (partner)", "rejected, step 1 (model)", "rejected, step 2 (partner)",
    ]  # fmt: skip
    assert [t.id for t in shown[3].tokens] == [8, 9, 6, 1] and [t.trained for t in shown[3].tokens] == [0, 0, 1, 1]


def test_eval_says_that_it_reads_no_pipelines(tmp_path):
    path, model = runs.jsonl(tmp_path / "rows.jsonl", [LINE]), tiny.saved(tmp_path / "base")
    with pytest.raises(InputError, match="holds runs of a pipeline; eval reads pairs, or prompts"):
        evaluate(str(model), data=path)


# --- whole dialogues ----------------------------------------------------------------------------------------------


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


FIRST = [said("system", "w3"), said("user", "w4")]
TALK = [*FIRST, said("assistant", "w5 w6"), said("user", "w7"), said("assistant", "w8")]
OTHER = [*FIRST, said("assistant", "w5 w6"), said("user", "w9 w9"), said("assistant", "w10 w11")]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] + ' <eos> ' }}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}{% endfor %}"
)


def talked(folder: Path, line: dict[str, object]):
    tokenizer = tiny.word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    path = runs.jsonl(folder / "rows.jsonl", [line])
    return dataset.survey(path, tokenizer=tokenizer, kind="pairs")


def test_dialogues_are_trained_on_in_every_turn_of_the_assistant_and_nowhere_else(tmp_path):
    data = talked(tmp_path, {"chosen_messages": TALK, "rejected_messages": OTHER})
    assert data.schema.name == "dialogue preference"
    (pair,) = data.examples
    assert isinstance(pair, Pair) and pair.prompt.tokens == (3, 4)
    batch = OfflineSource(data, rows_per_update=1).next()
    assert batch.tokens.tolist() == [[3, 4, 5, 6, 1, 7, 8, 1, 0, 0], [3, 4, 5, 6, 1, 9, 9, 10, 11, 1]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0, 1, 1, 1]]
    assert batch.segment.tolist()[0][:8] == [0, 0, 0, 0, 0, 0, 1, 1]


def test_shared_turns_of_dialogues_get_no_gradient_and_what_the_user_said_none(tmp_path):
    """The assistant's first turn stands in both, behind the same words: its log-ratios cancel exactly."""
    data = talked(tmp_path, {"chosen_messages": TALK, "rejected_messages": OTHER})
    batch = OfflineSource(data, rows_per_update=1).next()
    model, reference = scorers(0, 1)
    roles = Roles(policy=model, reference=reference)
    stats = replace(roles.frozen(batch, NEEDS), logp=roles.current(batch, LOGP).logp)
    weight = build("dpo").token_weight(batch, stats)
    assert (weight[~batch.mask] == 0).all() and (weight[batch.mask] != 0).all()
    assert torch.equal(weight[0, 2:5], -weight[1, 2:5]), "a shared turn is pushed up as much as down"


def test_credit_of_dialogues_is_of_the_assistants_tokens_alone(tmp_path):
    tokenizer = tiny.word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    for name, seed in (("policy", 0), ("ref", 1)):
        tiny.llama(seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    data = runs.jsonl(tmp_path / "talk.jsonl", [{"chosen_messages": TALK, "rejected_messages": OTHER}])
    request = Request(
        model=str(tmp_path / "policy"), ref=str(tmp_path / "ref"), beta=0.5, data=data, out=str(tmp_path / "out")
    )
    credit(request, show="none")
    chosen, rejected = read_rows(tmp_path / "out" / "credit.jsonl")
    spoken = [True, True, True, False, False, True, True, True]
    assert [value is not None for value in rejected.values["credit"]] == spoken
    assert rejected.actor == tuple(0 if own else -1 for own in spoken)
    assert chosen.totals["length"] == 5 and rejected.totals["length"] == 6
    own = [value for value in rejected.values["credit"] if value is not None]
    assert rejected.totals["credit"] == pytest.approx(sum(own), rel=1e-5)
    assert chosen.values["credit"][:3] == pytest.approx(rejected.values["credit"][:3], abs=1e-5), "the same first turn"


@pytest.mark.parametrize(
    ("rejected", "says"),
    [
        ([said("user", "w9"), *TALK[2:]], "differ before the assistant's first message"),
        (TALK, "the two dialogues are the same"),
        (TALK[:4], "rejected_messages from message 3 on must begin and end with the assistant"),
        (TALK[:2], "rejected_messages must have a message of the assistant after at least one other"),
    ],
)
def test_dialogues_that_are_no_pair_are_refused(tmp_path, rejected, says):
    data = talked(tmp_path, {"chosen_messages": TALK, "rejected_messages": rejected})
    assert not data.examples
    ((first,),) = data.tally.first.values()
    assert says in first


# --- runs ---------------------------------------------------------------------------------------------------------


def moved(folder: Path, name: str, start: str) -> bool:
    return any(
        not torch.equal(a, b)
        for a, b in zip(runs.weights(folder / "run" / name), runs.weights(folder / start), strict=True)
    )


@pytest.mark.parametrize(
    ("learns", "models"), [("both", (True, True)), ("model", (True, False)), ("partner", (False, True))]
)
def test_a_run_trains_the_models_it_is_told_to(tmp_path, learns, models):
    config = two_models.config(tmp_path, learns=learns, micro_tokens=64)
    loop.run(config, "dpo", show="nothing")
    assert (moved(tmp_path, "model", "base"), moved(tmp_path, "partner", "other")) == models
    events = [event for event in read(tmp_path / "run" / "events.jsonl") if event["event"] == "update"]
    assert abs(events[0]["rewards/margins"]) < 1e-5 and events[-1]["rewards/margins"] > 1e-2
    assert events[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_the_size_of_micro_batches_changes_nothing(tmp_path):
    for size in (32, 4096):
        loop.run(two_models.config(tmp_path, micro_tokens=size, out=str(tmp_path / str(size))), "dpo", show="nothing")
    for name in ("model", "partner"):
        for a, b in zip(runs.weights(tmp_path / "32" / name), runs.weights(tmp_path / "4096" / name), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lora_rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_goes_on_bit_for_bit_with_both_models(tmp_path, monkeypatch, lora_rank):
    straight = two_models.config(tmp_path, updates=4, save_every=1, lora_rank=lora_rank)
    loop.run(straight, "dpo", show="nothing")
    again = replace(straight, out=str(tmp_path / "again"))
    killed_after(2, again, "dpo", monkeypatch)
    torch.manual_seed(5)
    loop.resume(tmp_path / "again", show="nothing")
    assert runs.facts(tmp_path / "run") == runs.facts(tmp_path / "again")
    for name in ("model", "partner"):
        one, two = (runs.weights(tmp_path / run / name) for run in ("run", "again"))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_partner_that_has_changed_is_refused(tmp_path, monkeypatch):
    config = two_models.config(tmp_path, save_every=1)
    killed_after(1, config, "dpo", monkeypatch)
    shutil.rmtree(config.partner)
    tiny.saved(Path(config.partner), seed=5)
    with pytest.raises(InputError, match=r"^partner = .*other has changed since this run began"):
        loop.resume(Path(config.out), show="nothing")


def test_adapters_of_both_models(tmp_path):
    loop.run(two_models.config(tmp_path, lora_rank=2), "ipo", show="nothing")
    assert moved(tmp_path, "model", "base") and moved(tmp_path, "partner", "other")
    first, second = (
        (tmp_path / "run" / name / "adapter_model.safetensors").read_bytes() for name in ("adapter", "partner-adapter")
    )
    assert first != second


def test_a_partners_own_reference_is_used(tmp_path, capsys):
    tiny.saved(tmp_path / "third", seed=9)
    loop.run(two_models.config(tmp_path, partner_ref=str(tmp_path / "third")), "dpo", show="lines")
    (event, *_) = read(tmp_path / "run" / "events.jsonl")
    assert abs(event["rewards/margins"]) > 1e-3, "at the start the partner is not its reference"
    said = capsys.readouterr()
    assert "reference (model): largest" in said.out + said.err and "third: largest" in said.out + said.err


def test_beside_a_foreign_reference_the_partners_own_is_still_checked(tmp_path, monkeypatch):
    def other(settings, runtime):
        run = assemble(settings, runtime)
        with torch.no_grad():
            run.roles.partner.reference.lm_head.weight[5] += 0.1
        return run

    monkeypatch.setattr(opened, "assemble", other)
    tiny.saved(tmp_path / "third", seed=9)
    with pytest.raises(RunError, match=r"at the start the partner differs from its reference \(model\) by"):
        loop.run(two_models.config(tmp_path, updates=1, ref=str(tmp_path / "third")), "dpo", show="nothing")


@pytest.mark.parametrize(
    ("recipe", "more", "says"),
    [
        ("ppo", {"reward": "world.py:reward", "rows_per_update": 16}, "partner = .* has no effect here"),
        ("kto", {}, "kto is no loss on pairs of log-ratios alone"),
        ("reward_model", {}, "reward_model is no loss on pairs of log-ratios alone"),
        ("dpo", {"ref": "cached"}, "ref = cached holds the log-probs of one model"),
        ("dpo", {"partner_ref": "adapter"}, "partner_ref = adapter asks for the partner with its adapters off"),
        ("dpo", {"learns": "model", "partner_ref": "copy"}, "learns = model: the other model stays as it is"),
        ("dpo", {"partner": None}, "has steps of the actor partner: give the model that wrote them with --partner"),
        ("dpo", {"partner": None, "learns": "model"}, "learns = 'model' has no effect here: there is no second model"),
    ],
)
def test_what_two_models_cannot_do_is_refused_in_a_line(tmp_path, recipe, more, says):
    with pytest.raises(InputError, match=says):
        loop.run(two_models.config(tmp_path, **more), recipe, show="nothing")


def test_a_partner_without_steps_is_refused(tmp_path):
    data = runs.jsonl(tmp_path / "pairs.jsonl", runs.rows("pairs"))
    with pytest.raises(InputError, match=r"has no step in .*pairs\.jsonl: give chosen_steps and rejected_steps"):
        loop.run(two_models.config(tmp_path, data=data), "dpo", show="nothing")


def test_one_model_may_write_every_step(tmp_path):
    lines = json.loads(json.dumps(two_models.rows()).replace('"partner"', '"model"'))
    config = two_models.config(tmp_path, partner=None, data=runs.jsonl(tmp_path / "own.jsonl", lines))
    loop.run(config, "dpo", show="nothing")
    assert moved(tmp_path, "model", "base") and not (tmp_path / "run" / "partner").exists()
    with pytest.raises(InputError, match="reward_model is no loss on pairs of log-ratios alone"):
        loop.run(replace(config, out=str(tmp_path / "other-run")), "reward_model", show="nothing")
