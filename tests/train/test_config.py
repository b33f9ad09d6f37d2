"""RunConfig and where its values come from."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Literal

import pytest

from tokenward import ranges
from tokenward.cli import main
from tokenward.errors import InputError
from tokenward.recipes import RECIPES, build
from tokenward.train import config as configs
from tokenward.train.config import GROUPS, OPTIONS, RunConfig, coerce, flag, make
from tokenward.train.settings import dump, keyword_types, read_file, resolve, without_use

GIVEN = {"model": "m", "data": "d.jsonl", "out": "o"}


def toy(*, beta: float = 0.1, clip: float | None = None, kl: Literal["reward", "exact"] = "reward", least: int) -> None:
    """A recipe function with every kind of keyword; `least` has no default."""


def test_precedence_is_default_file_flag() -> None:
    file = {**GIVEN, "learning_rate": "1e-3", "seed": 3, "beta": 0.2, "least": 1}
    found = resolve(recipe="toy", function=toy, file=file, flags={"seed": "4", "clip": "none", "kl": "exact"})
    assert (found.config.learning_rate, found.config.seed, found.config.rows_per_update) == (1e-3, 4, 16)
    assert found.keywords == {"beta": 0.2, "clip": None, "kl": "exact", "least": 1}


def test_every_problem_is_one_line_of_one_error() -> None:
    file = {"modle": "m", "data": "d", "out": "o", "learning_rate": "fast", "beta": [1]}
    flags = {"bta": "0.2", "schedule": "cosin", "warmup_updates": "-1", "updates": "3", "passes": "1", "kl": "k9"}
    with pytest.raises(InputError) as error:
        resolve(recipe="toy", function=toy, file=file, flags=flags)
    assert sorted(str(error.value).splitlines()) == sorted(
        [
            "unknown key 'modle' in the file. Did you mean 'model'?",
            "unknown flag --bta. Did you mean 'beta'?",
            "beta must be a number, got [1]",
            "kl must be 'reward' or 'exact', got 'k9'",
            "toy needs least: give --least",
            "learning_rate must be a number, got 'fast'",
            "schedule must be 'constant' or 'linear' or 'cosine', got 'cosin'",
            "warmup_updates must be ≥ 0, got -1",
            "model is missing: give --model",
            "updates (3) and passes (1.0) both say how long to train: give one",
        ]
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("learning_rate", 0, "learning_rate must be > 0, got 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be finite and > 0, got nan"),
        ("weight_decay", float("inf"), "weight_decay must be finite and ≥ 0, got inf"),
        ("max_dropped", 1.5, "max_dropped must be ≥ 0 and ≤ 1, got 1.5"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        pytest.param("seed", f"{10**400}", f"seed must be ≥ 0 and ≤ {2**63 - 1}, got {10**400}", id="a long seed"),
        ("seed", "1e400", "seed must be a whole number, got '1e400'"),
        pytest.param("learning_rate", 10**400, f"learning_rate must be a number, got {10**400}", id="a long number"),
        ("seed", True, "seed must be a whole number, got True"),
        ("top_p", "0", "top_p must be > 0 and ≤ 1, got 0.0"),
        ("model", 7, "model must be text, got 7"),
        ("group", "many", "group must be a whole number or null, got 'many'"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, why: str) -> None:
    with pytest.raises(InputError, match=f"^{why.replace('.', '[.]')}$"):
        make({**GIVEN, name: value})


def test_values_get_their_types_and_stay() -> None:
    config = make({**GIVEN, "learning_rate": "1e-4", "updates": "1e2", "grad_clip": "null"})
    assert (config.learning_rate, config.updates, config.grad_clip) == (1e-4, 100, None)
    assert isinstance(config.updates, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_a_literal_is_not_its_lookalike() -> None:
    with pytest.raises(InputError, match="kl must be 'reward' or 'exact', got None"):
        coerce("kl", None, Literal["reward", "exact"])
    assert coerce("clip", "0.5", float | None) == 0.5
    assert coerce("ref", "5", str | None) == "5"


def test_recipe_keywords_and_run_settings_are_apart() -> None:
    for name, function in RECIPES.items():
        assert not keyword_types(function).keys() & OPTIONS.keys(), name


def test_every_keyword_of_every_recipe_can_be_a_flag() -> None:
    for function in RECIPES.values():
        for name, annotation in keyword_types(function).items():
            assert "class" not in configs.describe(annotation), f"{function.__name__}({name}: {annotation})"


def test_every_option_has_help_and_group() -> None:
    for name, option in OPTIONS.items():
        assert option.metadata["help"] and option.metadata["group"] in GROUPS, name


def test_dump_reads_back_to_the_same_run(tmp_path: Path) -> None:
    flags = {**GIVEN, "model": "наша модель", "learning_rate": "3e-7", "passes": "0.5", "beta": "1e-3", "least": "2"}
    first = resolve(recipe="toy", function=toy, file={}, flags=flags)
    path = tmp_path / "config.yaml"
    path.write_text(dump(first), encoding="utf-8")
    file = read_file(path)
    assert file.pop("recipe") == "toy"
    assert resolve(recipe="toy", function=toy, file=file, flags={}) == first


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seed: 1\nseed: 2\n", "seed stands twice"),
        ("optimizer:\n  seed: 2\n", "optimizer must be one value, got dict"),
        ("- a\n", "must be lines of `key: value`, got list"),
        ("a: [1\n", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_file(path)
    assert why in str(error.value) and len(str(error.value).splitlines()) == 1


def test_settings_that_nothing_reads_are_named() -> None:
    config = RunConfig(**GIVEN, rollout_rows=8, guide="g", lora_alpha=4.0, reward="r.py:f", critic="own", seed=5)
    lines = without_use(config, kinds=frozenset({"pairs"}), needs=frozenset({"logp", "ref_logp", "pairs"}))
    assert sorted(line.split(" = ")[0] for line in lines) == ["critic", "guide", "lora_alpha", "reward", "rollout_rows"]
    assert without_use(config, kinds=frozenset({"rollouts"}), needs=frozenset({"guide_logp", "value", "score"})) == [
        "lora_alpha = 4.0 has no effect here: no adapters are trained (lora_rank = 0): leave it out"
    ]


@pytest.mark.parametrize("value", ["0", "-0.1"])
@pytest.mark.parametrize(("recipe", "key"), [("ipo", "beta"), ("dpo", "beta"), ("rebel", "eta")])
def test_a_pull_that_is_not_above_zero_is_refused_in_one_line(recipe, key, value, capsys):
    assert main(["lab", recipe, f"--{key}", value]) == 2
    assert capsys.readouterr().err == f"tokenward: {key} must be > 0, got {float(value)}\n"


@pytest.mark.parametrize(
    ("recipe", "key", "value", "bounds"),
    [
        ("rloo", "beta_kl", -1.0, "≥ 0"),
        ("grpo", "clip", -0.2, "≥ 0"),
        ("ppo", "lam", 1.5, "≥ 0 and ≤ 1"),
        ("ppo", "gamma", 1.01, "≥ 0 and ≤ 1"),
        ("simpo", "gamma", -1.0, "≥ 0"),
        ("ppo", "dual_clip", 1.0, "> 1"),
        ("ppo", "value_clip", 0.0, "> 0"),
        ("ppo", "kl_target", float("nan"), "finite and > 0"),
        ("ppo_max", "ptx_coef", -1.0, "≥ 0"),
        ("trpo", "max_kl", 0.0, "> 0"),
        ("trpo", "shrink", 1.0, "> 0 and < 1"),
        ("trpo", "cg_steps", 0, "≥ 1"),
        ("nash_md", "mixture", 1.5, "≥ 0 and ≤ 1"),
        ("drto", "rho", -0.1, "≥ 0"),
        ("cispo", "cap", 0.0, "> 0"),
        ("reward_model", "margin", float("nan"), "finite"),
        ("slic", "delta", float("inf"), "finite"),
        ("xpo", "alpha", float("nan"), "finite"),
        ("dapo", "overlong_max", float("inf"), "finite"),
        ("dapo", "overlong_buffer", float("nan"), "finite"),
    ],
)
def test_a_keyword_out_of_range_is_named_by_flags_and_in_python(recipe, key, value, bounds, capsys):
    line = f"{key} must be {bounds}, got {value}"
    assert main(["lab", recipe, f"--{flag(key)}", str(value)]) == 2
    assert capsys.readouterr().err == f"tokenward: {line}\n"
    with pytest.raises(InputError) as error:
        build(recipe, **{key: value})
    assert str(error.value) == line


def test_every_range_is_of_a_keyword_and_holds_its_defaults():
    settings = [(n, p.default) for make in RECIPES.values() for n, p in inspect.signature(make).parameters.items()]
    assert set(ranges.KEYWORDS) <= {name for name, _ in settings}
    assert [found for name, value in settings for found in ranges.wrong(name, value)] == []
    assert ranges.wrong("cg_steps", 10**400) == [] and ranges.wrong("cg_steps", -(10**400))
    assert build("ppo", clip=None).terms and build("simpo", gamma=1.6).terms  # no clip; a margin, not a discount


def test_a_setting_that_other_recipes_have_names_them(capsys):
    for key, others in (("placement", "rto, drto have it"), ("mixture", "nash_md has it")):
        assert main(["train", "ppo", f"--{key}", "0", "--model", "m", "--data", "d", "--out", "o"]) == 2
        assert capsys.readouterr().err == f"tokenward: ppo has no setting {key} ({others})\n"
