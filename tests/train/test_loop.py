"""The trainer on a two-layer model: what it computes, what it writes, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests import runs
from tokenward.errors import InputError, RunError
from tokenward.recipes import RECIPES, build
from tokenward.rollout.sampler import GenerateSampler
from tokenward.runlog import read
from tokenward.train import checkpoint, loop, opened
from tokenward.train.assemble import Run, assemble
from tokenward.train.config import RunConfig
from tokenward.train.progress import progress
from tokenward.train.runtime import session
from tokenward.train.schedule import epochs, minis
from tokenward.train.settings import Settings
from tokenward.train.update import Learner, Piece


def events(folder: Path) -> list[dict[str, object]]:
    return read(folder / "run" / "events.jsonl")


def column(folder: Path, name: str) -> list[float]:
    return [float(event[name]) for event in events(folder) if name in event]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name: str, tmp_path: Path) -> None:
    config = runs.config(tmp_path, name, updates=3)
    result = loop.run(config, name, show="nothing")
    assert [event["update"] for event in events(tmp_path)] == [1, 2, 3]
    assert all(isinstance(event["loss"], float) for event in events(tmp_path))
    before, after = (torch.cat([p.flatten() for p in runs.weights(path)]) for path in (config.model, result.model))
    assert before.shape != after.shape or not torch.equal(before, after)


def gradient(config: RunConfig, name: str, *, micro_tokens: int) -> tuple[int, torch.Tensor]:
    """(micro-batches, gradient) of the first update; a second value head makes nothing zero by accident."""
    config = replace(config, micro_tokens=micro_tokens, grad_clip=None)
    with session(config) as runtime:
        run = assemble(Settings(name, {}, config), runtime)
        torch.manual_seed(0)
        if run.roles.policy.value_head is not None:
            torch.nn.init.normal_(run.roles.policy.value_head.weight)
        batch = run.source.next()
        frozen = run.roles.frozen(batch, run.recipe.needs)
        piece = Piece(batch, frozen, run.recipe.signal(batch, frozen))
        learner = Learner(
            run.recipe, roles=run.roles, optimizer=run.optimizer, runtime=runtime, config=config
        )  # fmt: skip
        calls: list[object] = []
        plain = run.roles.current
        run.roles.current = lambda *given: (calls.append(given), plain(*given))[1]  # type: ignore[method-assign]
        learner.step(piece.rows(minis(batch, recipe=run.recipe, config=config, number=1)[0]))
        found = [p.grad.flatten() for m in run.modules.values() for p in m.parameters() if p.grad is not None]
        return len(calls), torch.cat(found)


@pytest.mark.parametrize(
    "name", ["sft", "dpo", "simpo", "kto", "reward_model", "rda", "rloo", "grpo", "ppo", "rto", "rebel", "xpo", "remax"]
)
def test_the_gradient_is_the_same_under_every_accumulation(name: str, tmp_path: Path) -> None:
    config = runs.config(
        tmp_path, name, dtype="float64", **({"mini_rows": 8} if build(name).streams[0].kind == "rollouts" else {})
    )
    one, whole = gradient(config, name, micro_tokens=10_000)
    some, halves = gradient(config, name, micro_tokens=48)
    many, single = gradient(config, name, micro_tokens=1)
    assert one == 1 < some < many
    assert whole.abs().max() > 1e-6
    for other in (halves, single):
        torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-12)


def test_sft_learns_its_texts(tmp_path: Path) -> None:
    loop.run(runs.config(tmp_path, "sft", updates=40), "sft", show="nothing")
    loss = column(tmp_path, "loss")
    assert loss[0] > 3 and sum(loss[-5:]) / 5 < 0.6 * loss[0]


def test_dpo_raises_margins_and_accuracies(tmp_path: Path) -> None:
    loop.run(runs.config(tmp_path, "dpo", updates=20), "dpo", keywords={"beta": 0.3}, show="nothing")
    margins = column(tmp_path, "rewards/margins")
    assert abs(margins[0]) < 1e-5 and margins[-1] > 1
    assert column(tmp_path, "rewards/accuracies")[-1] == 1
    assert column(tmp_path, "loss")[0] == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.slow
def test_ppo_raises_a_simple_reward(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "ppo", updates=60, rollout_rows=32, mini_rows=16, learning_rate=3e-3)
    loop.run(config, "ppo", keywords={"beta_kl": 0.01}, show="nothing")
    score = column(tmp_path, "score")
    assert len(score) == 15  # one a batch of 2 epochs × 2 updates
    assert sum(score[-3:]) / 3 > sum(score[:3]) / 3 + 0.2


def test_a_run_directory_holds_what_the_design_says(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "dpo", updates=4, save_every=2, critic=None)
    result = loop.run(config, "dpo", keywords={"beta": 0.3}, show="nothing")
    out = tmp_path / "run"
    names = {"config.yaml", "recipe.txt", "environment.json", "events.jsonl", "checkpoints", "model"}
    assert {path.name for path in out.iterdir()} == names
    assert yaml.safe_load((out / "config.yaml").read_text())["beta"] == 0.3
    assert (out / "recipe.txt").read_text() == f"{build('dpo', beta=0.3)}\n"
    assert json.loads((out / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-2"]
    assert result.updates == 4 and result.event == events(tmp_path)[-1]
    AutoModelForCausalLM.from_pretrained(result.model)


def test_lora_trains_adapters_and_saves_a_merged_model(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "dpo", updates=3, lora_rank=2)
    result = loop.run(config, "dpo", show="nothing")
    assert (tmp_path / "run" / "adapter").is_dir()
    base, tuned = (AutoModelForCausalLM.from_pretrained(path) for path in (config.model, result.model))
    assert not torch.equal(base.model.layers[0].self_attn.q_proj.weight, tuned.model.layers[0].self_attn.q_proj.weight)
    assert torch.equal(base.model.embed_tokens.weight, tuned.model.embed_tokens.weight)


def test_a_reward_model_is_saved_as_one_and_an_own_critic_beside(tmp_path: Path) -> None:
    result = loop.run(runs.config(tmp_path, "reward_model", updates=2), "reward_model", show="nothing")
    assert AutoModelForSequenceClassification.from_pretrained(result.model).score.weight.abs().max() > 0
    (tmp_path / "rl").mkdir()
    config = runs.config(tmp_path / "rl", "ppo", updates=2, critic="own")
    loop.run(replace(config, reward=str(result.model)), "ppo", show="nothing")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "rl" / "run" / "critic")


def test_nan_stops_with_the_rows_named_and_the_last_checkpoint_kept(tmp_path: Path) -> None:
    rows = runs.rows("scores", count=24)
    rows[20]["score"] = 1e30  # its square is infinite in float32
    config = runs.config(tmp_path, "ra", order="file", save_every=1, updates=3)
    runs.jsonl(tmp_path / "scores.jsonl", rows)
    with pytest.raises(RunError, match=r"ra: the loss or its gradient is NaN .* comes from .*scores.jsonl:21$"):
        loop.run(config, "ra", show="nothing")
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert saved is not None and saved.update == 2
    assert all(bool(tensor.isfinite().all()) for tensor in saved.tensors["weights"].values())
    assert not (tmp_path / "run" / "model").exists()


def test_a_sampler_that_is_not_the_policy_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GenerateSampler.generate

    def shifted(self: GenerateSampler, *args: object, **kwargs: object) -> list[object]:
        groups = plain(self, *args, **kwargs)  # type: ignore[arg-type]
        return [[replace(r, logp=tuple(x - 0.01 for x in r.logp)) for r in group] for group in groups]

    monkeypatch.setattr(GenerateSampler, "generate", shifted)
    with pytest.raises(
        RunError, match=r"first ratio: sampler and trainer differ by 0.01 nats at a token, more than 0.001"
    ):
        loop.run(runs.config(tmp_path, "rloo", updates=1), "rloo", show="nothing")


def test_a_reference_that_is_not_the_start_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(settings: Settings, runtime: object) -> Run:
        run = assemble(settings, runtime)  # type: ignore[arg-type]
        with torch.no_grad():
            run.roles.reference.lm_head.weight[5] += 0.1  # type: ignore[union-attr]
        return run

    monkeypatch.setattr(opened, "assemble", other)
    with pytest.raises(RunError, match=r"the policy differs from its reference \(model\) by .* more than rounding"):
        loop.run(runs.config(tmp_path, "dpo", updates=1), "dpo", show="nothing")


def test_the_samplers_log_probs_can_be_the_old_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.config(tmp_path, "rloo", updates=3, old_logp="sampler", temperature=0.7)
    loop.run(config, "rloo", show="lines")
    assert "first ratio: largest |log π_sampler/π_trainer| of a token" in capsys.readouterr().out


def test_epochs_give_every_row_once_in_whole_groups(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "rloo", rollout_rows=12, mini_rows=4, group=2, epochs=3)
    with session(config) as runtime:
        batch = assemble(Settings("rloo", {}, config), runtime).source.next()
    found = epochs(batch, config=config, number=1)
    assert len(found) == 9
    for epoch in (found[:3], found[3:6], found[6:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert all(batch.group[rows].unique(return_counts=True)[1].tolist() == [2, 2] for rows in found)
    assert [r.tolist() for r in found[:3]] != [r.tolist() for r in found[3:6]]
    assert [r.tolist() for r in found] == [r.tolist() for r in epochs(batch, config=config, number=1)]
    assert [r.tolist() for r in found] != [r.tolist() for r in epochs(batch, config=config, number=2)]


def test_learning_rates_follow_the_schedule(tmp_path: Path) -> None:
    more = {"schedule": "linear", "warmup_updates": 1, "learning_rate": 1.0e-3, "learning_rate_floor": 0.5}
    loop.run(runs.config(tmp_path, "dpo", updates=5, **more), "dpo", show="nothing")
    assert column(tmp_path, "learning_rate") == pytest.approx([1e-3, 1e-3, 8.75e-4, 7.5e-4, 6.25e-4])


def test_length_comes_from_passes(tmp_path: Path) -> None:
    assert loop.run(runs.config(tmp_path, "dpo", count=20, passes=2.0), "dpo", show="nothing").updates == 6
    (tmp_path / "rl").mkdir()
    config = runs.config(tmp_path / "rl", "rloo", count=8, rollout_rows=8, mini_rows=4, epochs=1)
    assert loop.run(config, "rloo", show="nothing").updates == 4  # 8 prompts × 2 in batches of 8, 2 updates each


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("rto", {"guide": None}, "rto: Guide needs guide_logp: give a guide .* with --guide"),
        ("ppo", {"reward": None}, "ppo: Outcome needs score: give --reward"),
        ("ppo", {"ref": "adapter"}, "ref = adapter asks .* --lora-rank"),
        ("ppo", {"ref": "cached"}, "ref = cached serves recipes that read ref_logp of the rows of a file"),
        ("kto", {"ref": "cached"}, "ref = cached serves recipes"),
        ("rloo", {"group": 1}, "group = 1: rloo needs 2 or more completions of a prompt"),
        ("rloo", {"group": 3, "mini_rows": 6}, "rollout_rows = 8 must be a multiple of group = 3"),
        ("rloo", {"mini_rows": 16}, "mini_rows = 16 is more than rollout_rows = 8"),
        ("rloo", {"old_logp": "sampler", "top_k": 3}, "old_logp = sampler with top_k or top_p"),
        ("rloo", {"max_new_tokens": 64}, "max_new_tokens = 64 leaves no room for a prompt in 64 tokens"),
        ("dpo", {"guide": "x"}, "guide = 'x' has no effect here: the recipe reads no guide: leave it out"),
        ("dpo", {"split": "test"}, "split = 'test' has no effect here: all data are files, and files have no splits"),
        (
            "online_dpo",
            {"old_logp": "sampler"},
            "old_logp = 'sampler' has no effect here: the recipe divides by no older",
        ),
        ("reward_model", {"temperature": 2.0}, "temperature = 2.0 has no effect here: a reward model"),
        ("dpo", {"learning_rate_floor": 0.1}, "learning_rate_floor = 0.1 has no effect here: .*schedule = constant"),
        ("rloo", {"reward": "answer:gold"}, "reward answer:gold: .*jsonl:1 has no column 'gold'"),
        ("dpo", {"model": "./absent"}, "^model = ./absent: no directory ./absent"),
        ("dpo", {"ref": "./absent"}, "^ref = ./absent: no directory"),
        ("rto", {"guide": "./absent"}, "^guide = ./absent: no directory"),
        ("rto", {"guide_ref": "./absent"}, "^guide_ref = ./absent: no directory"),
        ("ppo", {"critic": "./absent"}, "^critic = ./absent: no directory"),
        ("ppo", {"reward": "./absent"}, "^reward = ./absent: "),
        ("ppo", {"critic": "own", "critic_warmup": 2, "updates": 2}, "critic_warmup = 2 must be below .* updates .2.:"),
        ("ppo", {"critic": "own", "critic_warmup": 50}, "critic_warmup = 50 must be below the run's updates"),
        ("dpo", {"data": "./absent.jsonl"}, "absent.jsonl: there is no such file"),
        ("rloo", {"eval_data": "./absent.jsonl"}, "^eval_data = ./absent.jsonl: .* there is no such file"),
        ("dpo", {"probe_every": 5}, "probe_every = 5 has no effect here"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    name: str, change: dict[str, object], why: str, tmp_path: Path
) -> None:
    config = runs.config(tmp_path, name, **change)
    with pytest.raises(InputError, match=why) as error:
        loop.run(replace(config, out=str(tmp_path / "new" / "run")), name, show="nothing")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_refused_run_takes_away_no_folder_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="guide = 'x' has no effect"):
        loop.run(runs.config(tmp_path, "dpo", guide="x", out=str(tmp_path / "there")), "dpo", show="nothing")
    assert (tmp_path / "there").is_dir()


def test_a_missing_column_names_who_asked(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "pra")
    runs.jsonl(
        tmp_path / "pairs.jsonl", [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in runs.rows("pairs")]
    )
    with pytest.raises(InputError, match=r"pairs.jsonl: pra: PairTerm needs pair_target: give a target column"):
        loop.run(config, "pra", show="nothing")


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "dpo", updates=1)
    loop.run(config, "dpo", show="nothing")
    with pytest.raises(InputError, match=r"holds a run already \(config.yaml\): give another --out"):
        loop.run(config, "dpo", show="nothing")


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE is 2, but a run is one process"):
        loop.run(runs.config(tmp_path, "dpo"), "dpo", show="nothing")


def test_a_run_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        loop.run(runs.config(tmp_path, "dpo", updates=1), "dpo", show="nothing")
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, False)
    finally:
        torch.set_num_threads(1)


def test_lines_tell_the_first_every_nth_and_the_last_update(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress("lines", total=7, done=2, every=3, label="dpo")
    for number in range(3, 8):
        shown.update(number, {"loss": 0.5, "kl": 1.25, "other": 3.0})
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["update 3/7", "update 6/7", "update 7/7"]
    assert all("loss 0.5 · kl 1.25 · " in line and line.endswith("0:00 left") for line in lines)


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = progress("auto", total=4, done=0, every=1, label="dpo")
    shown.say("a line")
    shown.update(4, {"loss": 0.5})
    shown.close()
    told = capsys.readouterr()
    assert not told.out and "a line" in told.err and "4/4" in told.err and "loss 0.5" in told.err


def test_nothing_is_said_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.config(tmp_path, "dpo", updates=2)
    capsys.readouterr()
    loop.run(config, "dpo", show="nothing")
    assert capsys.readouterr() == ("", "")
