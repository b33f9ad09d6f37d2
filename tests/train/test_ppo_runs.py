"""PPO's run settings: a critic that learns first and comes from a reward model, demonstrations beside rollouts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import runs
from tests.train.test_resume import Killed, same
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.runlog import read
from tokenward.train import loop
from tokenward.train.beside import Beside
from tokenward.train.config import RunConfig
from tokenward.train.opened import fresh
from tokenward.train.schedule import minis
from tokenward.types import take

PTX = {"ptx_coef": 0.5}


def updates(out: Path | str) -> list[dict[str, object]]:
    return [event for event in read(Path(out) / "events.jsonl") if event["event"] == "update"]


def mixed(folder: Path, **more: object) -> RunConfig:
    """ppo_max with 24 demonstrations, 3 an update; 8 rollouts in 2 epochs of 2 updates."""
    demos = runs.jsonl(folder / "demos.jsonl", runs.rows("demos"))
    return runs.config(folder, "ppo_max", **{"demos": demos, "demo_rows": 3, "critic": "own", "updates": 9, **more})


def test_every_update_of_a_batch_takes_its_share_of_the_demonstrations(tmp_path: Path) -> None:
    config = mixed(tmp_path, order="file", max_new_tokens=3)
    lines = [json.loads(line) for line in Path(config.demos or "").read_text(encoding="utf-8").splitlines()]
    with fresh(config, "ppo_max", keywords=PTX, show="nothing") as live:
        source, tokenizer = live.run.source, live.run.tokenizer
        assert isinstance(source, Beside)
        batch = source.next()
        assert batch.origin is not None and batch.origin.tolist() == [0] * 8 + [1] * 12
        for row, line in zip(range(8, 20), lines, strict=False):
            text = tokenizer.decode(batch.tokens[row, : int(batch.length[row])], skip_special_tokens=True)
            assert text.split() == f"{line['prompt']}{line['completion']}".split()
            assert source.where(int(batch.group[row])) == f"{config.demos}:{row - 7}"
        assert source.where(int(batch.group[0])) == f"{config.data}:1"
        found = minis(batch, recipe=live.run.recipe, config=config, number=0)
        assert [sorted((index < 8).tolist()) for index in found] == [[False] * 3 + [True] * 4] * 4
        demos = torch.cat([index[index >= 8] for index in found])
        assert sorted(demos.tolist()) == list(range(8, 20))
        again = source.next()
        assert tokenizer.decode(again.tokens[8, : int(again.length[8])], skip_special_tokens=True).split() == (
            f"{lines[12]['prompt']}{lines[12]['completion']}".split()
        )


def test_the_likelihood_of_the_demonstrations_rises_and_is_told(tmp_path: Path) -> None:
    config = mixed(tmp_path, demo_rows=8, updates=16, learning_rate=1e-2)
    loop.run(config, "ppo_max", keywords={"ptx_coef": 1.0}, show="nothing")
    losses = [float(str(event["terms/ptx"])) for event in updates(config.out)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    told = [event for event in updates(config.out) if "score" in event]  # 4 batches of 8 rows
    assert {"reward/running_std", "reward/clipped_share", "demos/epoch"} <= told[0].keys() and len(told) == 4
    means = [float(str(event["score"])) for event in told]
    for number, event in enumerate(told, start=1):
        assert event["reward/running_mean"] == pytest.approx(sum(means[:number]) / number)


@pytest.mark.parametrize(
    ("keywords", "settings", "message"),
    [
        (PTX, {"demos": None}, "ppo_max learns from demonstrations beside rollouts: give --demos FILE"),
        ({}, {}, r"demos = .* the recipe reads no demonstrations \(ppo_max does with ptx_coef above 0\): leave it out"),
        (PTX, {"critic_warmup": 2, "demos": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_demonstrations_and_their_coefficient_go_together(
    keywords: dict[str, float], settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        loop.run(mixed(tmp_path, **settings), "ppo_max", keywords=keywords, show="nothing")


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_at_first_only_the_critic_learns(
    critic: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = runs.config(tmp_path, "ppo", updates=5, critic=critic, critic_warmup=4, epochs=1, log_every=1)
    before = load.policy(config.model).causal_lm.state_dict()
    held = []

    def watched(run: Any, place: Any, stop: object) -> None:
        now = run.roles.policy.causal_lm.state_dict()
        held.append(all(torch.equal(value, now[name]) for name, value in before.items()))

    monkeypatch.setattr(loop, "pause", watched)
    loop.run(config, "ppo", show="lines")
    assert held == [True, True, True, True, False]
    told = updates(config.out)[:4]
    assert all(event["critic/warmup"] == 1 and "terms/policy" not in event for event in told)
    assert told[-1]["learning_rate"] == config.learning_rate
    head = [float(str(event["grad_norm"])) for event in told]
    assert all(norm > 0 for norm in head)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("update ")]
    assert ["critic alone" in line for line in lines] == held


def test_then_the_policy_learns_from_a_critic_that_knows_something(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "ppo", updates=3, critic="own", critic_warmup=2, epochs=1, mini_rows=8)
    loop.run(config, "ppo", show="nothing")
    told = updates(config.out)
    assert ["terms/policy" in event for event in told] == [False, False, True]
    assert ["critic/warmup" in event for event in told] == [True, True, False]
    before, after = runs.weights(config.model), runs.weights(tmp_path / "run" / "model")
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_critic_of_its_own_is_asked_for_where_none_learns_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="critic_warmup = 2 has no effect here"):
        loop.run(runs.config(tmp_path, "grpo", critic_warmup=2), "grpo", show="nothing")


def test_a_reward_model_is_where_the_critic_starts(tmp_path: Path) -> None:
    """Its head is the value head: the first values are its scores of what stands before each token."""
    (tmp_path / "rm").mkdir()
    loop.run(runs.config(tmp_path / "rm", "reward_model", updates=2), "reward_model", show="nothing")
    model = tmp_path / "rm" / "run" / "model"
    config = runs.config(tmp_path, "ppo_max", updates=1, critic=str(model))
    with fresh(config, "ppo_max", show="nothing") as live:
        batch = live.run.source.next()
        value = live.run.roles.frozen(batch, live.run.recipe.needs).old_value
        assert value is not None
        judge = load.reward_model(str(model))
        for row in range(2):
            start = int(batch.mask[row].int().argmax())
            cut = replace(take(batch, torch.tensor([row]), width=start), length=torch.tensor([start]))
            seen = judge(cut, fields=frozenset({"model_score"})).model_score
            assert seen is not None
            torch.testing.assert_close(value[row, start], seen[0], rtol=1e-4, atol=1e-5)
        assert float(value[batch.mask].abs().max()) > 0


def test_memory_and_both_files_go_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ppo_max with demonstrations and a critic that learns first, killed within each kind of update, and resumed."""
    config = mixed(tmp_path, save_every=1, critic_warmup=2)
    loop.run(config, "ppo_max", keywords=PTX, show="nothing")
    plain = loop.pause
    for update in (1, 6):
        again = replace(config, out=str(tmp_path / f"killed-{update}"))

        def dying(run: object, place: object, stop: object, last: int = update) -> None:
            if place.update > last:  # type: ignore[attr-defined]
                raise Killed
            plain(run, place, stop)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "pause", dying)
        with pytest.raises(Killed):
            loop.run(again, "ppo_max", keywords=PTX, show="nothing")
        monkeypatch.setattr(loop, "pause", plain)
        torch.manual_seed(update)
        random.seed(update)
        loop.resume(Path(again.out), show="nothing")
        same(Path(config.out), Path(again.out))


def test_other_demonstrations_are_refused_on_resuming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = mixed(tmp_path, save_every=1)
    monkeypatch.setattr(loop, "pause", lambda run, place, stop: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        loop.run(config, "ppo_max", keywords=PTX, show="nothing")
    monkeypatch.undo()
    file = Path(config.demos or "")
    file.write_text(file.read_text(encoding="utf-8").replace("w7", "w9", 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"demos = .* has changed since this run began"):
        loop.resume(Path(config.out), show="nothing")
