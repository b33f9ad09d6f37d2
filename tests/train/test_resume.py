"""A run that is interrupted anywhere and resumed is the run that was not: same weights, same events."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import runs
from tokenward.cli import main as cli
from tokenward.errors import InputError
from tokenward.train import checkpoint, directory, loop
from tokenward.train.config import RunConfig
from tokenward.train.runtime import Interrupted

UPDATES = 9
RECIPES = {
    "dpo": {"schedule": "cosine"},
    "ipo": {"ref": "cached", "order": "file"},
    "kto": {},
    "rto": {"mini_rows": 4, "epochs": 2, "critic": "own"},  # 4 updates a batch: most checkpoints lie within one
    "ppo_max": {"mini_rows": 4, "epochs": 2, "critic_warmup": 3},  # running statistics; a critic that learns first
    "grpo": {"mini_rows": 4, "epochs": 2, "lora_rank": 2},
    "nash_md": {"mini_rows": 4, "epochs": 2, "lora_rank": 2},  # two samplers, of the policy and of a mixture
}


class Killed(BaseException):
    """Stands for the process's end: nothing in the program catches it."""


def same(one: Path, two: Path) -> None:
    assert runs.facts(one) == runs.facts(two)
    for part in ("model", "critic"):
        if (one / part).exists():
            assert all(
                torch.equal(a, b) for a, b in zip(runs.weights(one / part), runs.weights(two / part), strict=True)
            )


def prepared(folder: Path, name: str, **more: object) -> RunConfig:
    return runs.config(folder, name, **{"updates": UPDATES, "save_every": 1, **RECIPES[name], **more})


SLOW = {"ipo", "kto"}  # what they add to the others is little


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted(RECIPES)])
def straight(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, RunConfig]]:
    """A run without interruption."""
    config = prepared(tmp_path_factory.mktemp("straight"), request.param)
    loop.run(config, request.param, show="nothing")
    yield request.param, config


def killed_after(update: int, config: RunConfig, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and die just after the checkpoint of an update and the events of the one after it."""
    plain = loop.pause

    def dying(run: object, place: object, stop: object) -> None:
        if place.update > update:  # type: ignore[attr-defined]
            raise Killed
        plain(run, place, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "pause", dying)
    with pytest.raises(Killed):
        loop.run(config, name, show="nothing")
    monkeypatch.setattr(loop, "pause", plain)


def test_resumed_is_straight_bit_for_bit(
    straight: tuple[str, RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, config = straight
    for update in (0, 2, 5):  # before any checkpoint, within a batch of rto, at another place of one
        again = replace(config, out=str(tmp_path / f"killed-{update}"))
        killed_after(update, again, name, monkeypatch)
        torch.manual_seed(update)  # the surroundings of the second process are not those of the first
        random.seed(update)
        result = loop.resume(Path(again.out), show="nothing")
        assert result.updates == UPDATES
        same(Path(config.out), Path(again.out))


def test_torn_checkpoints_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = prepared(tmp_path, "dpo", keep_checkpoints=9)
    loop.run(config, "dpo", show="nothing")
    again = replace(config, out=str(tmp_path / "torn"))
    killed_after(6, again, "dpo", monkeypatch)
    steps = Path(again.out) / "checkpoints"
    with (steps / "step-6" / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    (steps / "step-5" / "manifest.json").unlink()
    (steps / "step-4" / "state.json").write_text("{", encoding="utf-8")
    shutil.copytree(steps / "step-3", steps / ".step-8.1.tmp")
    saved = checkpoint.newest(steps)
    assert saved is not None and saved.update == 3
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))


def test_old_checkpoints_go(tmp_path: Path) -> None:
    loop.run(prepared(tmp_path, "dpo", keep_checkpoints=2), "dpo", show="nothing")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-7", "step-8"]


def test_changed_data_and_models_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = prepared(tmp_path, "dpo")
    killed_after(3, config, "dpo", monkeypatch)
    data = Path(config.data)
    text = data.read_text(encoding="utf-8")
    data.write_text(text.replace("w7", "w9", 1), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"data = .*pairs.jsonl has changed since this run began .*start a new run"
    ) as error:
        loop.resume(Path(config.out), show="nothing")
    assert len(str(error.value).splitlines()) == 1
    data.write_text(text, encoding="utf-8")
    shutil.rmtree(config.model)
    runs.tiny.saved(Path(config.model), seed=5)
    with pytest.raises(InputError, match=r"model = .*base has changed since this run began"):
        loop.resume(Path(config.out), show="nothing")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copied_run_goes_on_where_it_was_copied_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = prepared(tmp_path, "dpo", updates=4)
    loop.run(config, "dpo", show="nothing")
    original, copied = Path(config.out), tmp_path / "copied"
    before = contents(original)
    shutil.copytree(original, copied)
    shutil.rmtree(copied / "model")
    assert cli(["train", "--resume", str(copied)]) == 0
    assert contents(original) == before
    same(original, copied)
    assert directory.settings(copied).config.out == str(copied)


def test_a_finished_run_and_an_empty_directory_are_refused(tmp_path: Path) -> None:
    config = prepared(tmp_path, "dpo")
    loop.run(config, "dpo", show="nothing")
    with pytest.raises(InputError, match="is finished: its model lies in"):
        loop.resume(Path(config.out), show="nothing")
    with pytest.raises(InputError, match=r"holds no run: there is no config\.yaml in it"):
        loop.resume(tmp_path / "nothing", show="nothing")


def test_killed_while_writing_the_model_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = prepared(tmp_path, "dpo")
    loop.run(config, "dpo", show="nothing")
    again = replace(config, out=str(tmp_path / "again"))
    with monkeypatch.context() as patch:
        patch.setattr(directory, "finish", lambda run: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            loop.run(again, "dpo", show="nothing")
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = prepared(tmp_path, "dpo", save_every=0)
    loop.run(config, "dpo", show="nothing")
    again = replace(config, out=str(tmp_path / "again"))
    plain = loop.begin

    def interrupted(run: object, place: object, journal: object) -> object:
        if place.update == 3:  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)
        return plain(run, place, journal)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "begin", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=rf"{number.name}: saved at update 4 of 9; go on with: tokenward train --resume"
    ) as stop:
        loop.run(again, "dpo", show="nothing")
    assert stop.value.signal == number and signal.getsignal(number) == before
    monkeypatch.setattr(loop, "begin", plain)
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "rto"])
def test_kill_9_at_random_moments(name: str, tmp_path: Path) -> None:
    """Real processes, killed anywhere: while reading, computing, writing."""
    config = prepared(tmp_path, name, seed=2, updates=150, save_every=3)
    loop.run(config, name, show="nothing")
    out = tmp_path / "killed"
    again = replace(config, out=str(out))
    code = (
        "import sys, pathlib, torch; from tokenward.train import loop, settings; from tokenward.recipes import maker\n"
        f"out, text = pathlib.Path({str(out)!r}), {str(tmp_path / 'again.yaml')!r}\n"
        "file = settings.read_file(text); name = file.pop('recipe')\n"
        "made = settings.resolve(recipe=name, function=maker(name), file=file, flags={})\n"
        "print('ready', flush=True)\n"
        "go_on = (out / 'config.yaml').exists()\n"
        "loop.resume(out, show='nothing') if go_on else loop.run(made.config, name, show='nothing')\n"
    )
    from tokenward.train.settings import Settings, dump

    (tmp_path / "again.yaml").write_text(dump(Settings(name, {}, again)), encoding="utf-8")
    source, kills = random.Random(3), 0
    while not directory.finished(out):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "src"}
        )
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 4:
            time.sleep(source.uniform(0.0, 1.2))
            process.kill()
            kills += 1
        process.wait()
    assert kills == 4
    same(Path(config.out), out)
