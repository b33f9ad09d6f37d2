"""The two stories at a tiny size, the example, and what the page says of given numbers."""

from __future__ import annotations

import copy
import json
import runpy

import pytest
import torch

from tests.places import ROOT
from tokenward.errors import InputError
from tokenward.report.study_page import page
from tokenward.studies import study as studies
from tokenward.trained.agents import measure, story, words
from tokenward.trained.agents.plan import Plan
from tokenward.trained.agents.worlds import worlds

EXAMPLE = ROOT / "examples" / "higher_lower.py"
SHORT = {"updates": 2, "rows_per_update": 8, "learning_rate": 1e-3}
ONLINE = {"updates": 2, "rollout_rows": 8, "mini_rows": 4, "learning_rate": 1e-4, "critic": "own"}
TINY = Plan(
    train_prompts=24, held_prompts=4, pair_episodes=4, episodes=2, copy=SHORT, sft=SHORT, dpo=SHORT, online=ONLINE
)


def numbers(**gaps):
    """Results in which everything is as hoped; gaps overwrite (policy, key) by (value, low, high)."""

    def span(value, reach=0.02):
        return {"value": value, "low": value - reach, "high": value + reach}

    rewards = {"sft": 0.3, "dpo": 0.5, "ppo": 0.88, "rto": 0.88, "cut": 0.24}
    acts = {"sft": 0.4, "dpo": 0.6, "ppo": 0.98, "rto": 0.98, "cut": 0.0}
    policies = {}
    for name, reward in rewards.items():
        row = {key: span(reward) for key in words.COLUMNS} | {"called_well": span(acts[name])}
        for other in ("sft", "ppo"):
            row[f"reward_minus_{other}"] = span(reward - rewards[other])
            row[f"called_well_minus_{other}"] = span(acts[name] - acts[other])
        policies[name] = row
    for where, value in gaps.items():
        name, key = where.split("__")
        policies[name][key] = dict(zip(("value", "low", "high"), value, strict=True))
    shown = [{"prompt": "<b>", "turns": ["model: <script>alert(1)</script>", "environment: ok"], "reward": 0.9}]
    return {
        "policies": policies, "pairs": {"pairs": 10}, "seconds": 1.0, "counts": {"prompts": 8, "episodes": 4},
        "curves": {name: {"return": ([1, 3], [0.2, 0.5])} for name in ("ppo", "rto", "cut")},
        "transcripts": dict.fromkeys(words.METHODS, shown),
        "settings": {"seed": 0, "scale": 1.0, "sharpness": 5.0},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ask-then-answer", "calculator"])
def test_claims_hold_on_good_numbers_and_each_can_fail(name):
    world = worlds()[name]
    found = words.told(world, numbers())
    assert len(found.claims) == 9 and not found.failed
    bad = {
        f"{policy}__{key}": (0.0, -0.1, 0.1)
        for policy in ("dpo", "ppo", "rto", "cut")
        for key in ("reward", "reward_minus_sft", "reward_minus_ppo", "called_well_minus_sft")
    }
    assert len(words.told(world, numbers(**bad)).failed) == 9


@pytest.mark.parametrize(
    ("gap", "sign"),
    [((0.1, 0.05, 0.2), "more than PPO"), ((-0.1, -0.2, -0.05), "less than PPO"), ((0.0, -0.1, 0.1), "not told apart")],
)
def test_the_sign_of_rto_against_ppo_is_told_as_it_is(gap, sign):
    notes = words.told(worlds()["calculator"], numbers(rto__reward_minus_ppo=gap)).notes
    assert sign in notes[0]


def test_transcripts_are_escaped_on_the_page():
    found = words.told(worlds()["ask-then-answer"], numbers())
    shown = page(found, {figure.name: "<svg/>" for figure in found.figures})
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_bootstrap_draws_prompts():
    """Against the standard error of a mean: 1.96 s/√n on each side; pairs of episodes of a prompt are one number."""
    means = measure.by_prompt([3, 3, 5, 5], [0.0, 1.0, 2.0, 2.0])
    assert means.tolist() == [0.5, 2.0]
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measure.bootstrap(values)
    reach = 1.96 * float(values.std()) / 20
    assert found["value"] == pytest.approx(float(values.mean()))
    assert found["high"] - found["value"] == pytest.approx(reach, rel=0.15)
    assert found["value"] - found["low"] == pytest.approx(reach, rel=0.15)


def test_plans_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(InputError, match="extrapolate its guide"):
        Plan(beta_guide=0.1, beta_kl=0.05)
    with pytest.raises(InputError, match="must be even"):
        Plan(pair_episodes=3)
    with pytest.raises(InputError, match="unknown world 'calc"):
        story.study("calculater", out=str(tmp_path / "a"))
    with pytest.raises(InputError, match="scale multiplies"):
        story.study("calculator", out=str(tmp_path / "a"), scale=0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("mine")
    with pytest.raises(InputError, match="did not make"):
        story.study("calculator", out=str(tmp_path / "a"), plan=TINY)


@pytest.mark.slow
def test_a_story_runs_and_goes_on(tmp_path, capsys):
    out = str(tmp_path / "calc")
    text = story.study("calculator", out=out, plan=TINY)
    assert "Held-out episodes" in text and "Transcripts" in text
    first = json.loads((tmp_path / "calc" / "results.json").read_text())
    assert set(first["policies"]) == set(story.POLICIES)
    found = studies.read(tmp_path / "calc" / "data.jsonl")
    assert len(found.claims) == 9
    capsys.readouterr()
    story.study("calculator", out=out, plan=TINY)
    assert capsys.readouterr().out.count("done before") == 6
    again = json.loads((tmp_path / "calc" / "results.json").read_text())
    both = [copy.deepcopy(one) for one in (first, again)]
    assert all(one.pop("seconds") > 0 for one in both) and both[0] == both[1]
    with pytest.raises(InputError, match="begun with other settings"):
        story.study("calculator", out=out, seed=1, plan=TINY)


@pytest.mark.slow
def test_the_example_trains(tmp_path, capsys):
    module = runpy.run_path(str(EXAMPLE))
    module["main"](tmp_path / "out", "2")
    assert "episode/return" in capsys.readouterr().out


def test_the_examples_environment_answers():
    from tokenward.data.tokenize import Prompt

    made = runpy.run_path(str(EXAMPLE))["HigherLower"]()
    episode = made.start(Prompt(0, (), "", {"most": 9}), 3)
    answers = [episode.reply(str(n)) for n in range(1, 10)]
    assert [a.done for a in answers].count(True) == 1
    at = [a.done for a in answers].index(True)
    assert [a.text for a in answers] == ["higher"] * at + [""] + ["lower"] * (8 - at)
    assert episode.reply("hm").reward == -0.2
    assert len({made.start(Prompt(0, (), "", {"most": 9}), seed).number for seed in range(40)}) == 9
