"""The named combinations of examples/implementation_matters: what each switches, and that each trains."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests import runs
from tests.places import ROOT
from tokenward.cli.runs import train
from tokenward.recipes import maker
from tokenward.runlog import read
from tokenward.train.settings import Settings, read_file, resolve

FOLDER = ROOT / "examples" / "implementation_matters"
NAMES = ("ppo", "ppo_m", "ppo_noclip", "trpo", "trpo_plus")
CODE_LEVEL = {"value_clip": 0.2, "reward_scale": "std", "schedule": "linear", "reward_clip": 10.0, "grad_clip": 1.0}
OFF = {"value_clip": None, "reward_scale": "none", "schedule": "constant", "reward_clip": None, "grad_clip": None}


def settings(name: str) -> Settings:
    file = read_file(FOLDER / f"{name}.yaml")
    recipe = str(file.pop("recipe"))
    return resolve(recipe=recipe, function=maker(recipe), file=file, flags={"model": "m", "data": "d", "out": "o"})


@pytest.mark.parametrize("name", NAMES)
def test_each_file_switches_what_its_name_says(name: str) -> None:
    made = settings(name)
    values = {**vars(made.config), **made.keywords}
    expected = CODE_LEVEL if name in ("ppo", "ppo_noclip", "trpo_plus") else OFF
    assert {key: values[key] for key in expected} == expected
    assert made.recipe == ("trpo" if name.startswith("trpo") else "ppo")
    assert values.get("clip", "none here") == {"ppo": 0.2, "ppo_m": 0.2, "ppo_noclip": None}.get(name, "none here")


def test_there_are_no_other_files() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES)


def trained(name: str, folder: Path, **more: object) -> list[dict[str, object]]:
    """The updates of a file, loaded as a user loads it, with few rows."""
    needed = runs.files(folder, "ppo")
    small = {"rollout_rows": 8, "max_new_tokens": 8, "updates": 2, "threads": 1, "seed": 1, "learning_rate": 1e-3}
    small |= {} if name.startswith("trpo") else {"mini_rows": 4, "epochs": 2}
    flags = {key: needed[key] for key in ("model", "data", "out", "reward")} | small | more
    words = [text for key, value in flags.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    assert train(["--config", str(FOLDER / f"{name}.yaml"), *words]) == 0
    return [event for event in read(folder / "run" / "events.jsonl") if event["event"] == "update"]


def test_the_clip_does_not_bound_the_ratio(tmp_path: Path) -> None:
    """clip .2, and in the second pass over a batch a ratio far above 1.2: other tokens moved it."""
    events = trained("ppo", tmp_path, learning_rate=1e-2, schedule="constant", updates=4)
    assert events[0]["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert float(str(events[3]["policy/ratio_max"])) > 2 and float(str(events[3]["clip_ratio/high"])) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_each_trains_for_two_updates(name: str, tmp_path: Path) -> None:
    """The second update tells what the paper looks at."""
    events = trained(name, tmp_path)
    assert len(events) == 2
    for event in events:
        assert math.isfinite(float(str(event["policy/kl_old"]))) and float(str(event["policy/ratio_max"])) > 0
    scaled = name in ("ppo", "ppo_noclip", "trpo_plus")
    assert ({"reward/running_std", "reward/clipped_share"} <= events[0].keys()) == scaled
    assert ("critic/value_clip_share" in events[0]) == scaled
    assert ("clip_ratio/high" in events[1]) == (name in ("ppo", "ppo_m"))
