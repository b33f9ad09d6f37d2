"""The study of searches: its words on made-up numbers, its budget, and the whole command at a tiny scale."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from tests.search.test_search import PROMPTS, language
from tests.tiny import tiny
from tokenward.errors import InputError
from tokenward.lab.worlds.world import default_world
from tokenward.search.best_of_n import best_of_n
from tokenward.studies.beam_width import beam_width
from tokenward.studies.study import read
from tokenward.trained.search import measure
from tokenward.trained.search import plan as search_plan
from tokenward.trained.search.plan import Plan
from tokenward.trained.search.story import study
from tokenward.trained.search.words import gap, told

exact_study = sys.modules[beam_width.__module__]

N = 6


def column(level, *, logp=-3.0, read=400.0):
    reward = [level + 0.1 * (i % 2) for i in range(N)]
    return {"reward": reward, "length": [9] * N, "errors": [0.0] * N, "ended": [True] * N, "logp": [logp] * N,
            "read": read, "setting": "n 4"}  # fmt: skip


def made(levels):
    """Results in which each width has the reward given."""
    curve = {width: column(level, logp=-3.0 + 0.01 * int(width)) for width, level in levels.items()}
    strategies = {name: column(1.0 if "best" in name else 0.0) for name in measure.STRATEGIES}
    settings = {"seed": 0, "scale": 1.0, "prompts": N, "width_prompts": N, "budget": 500}
    return {"beams": {"dpo-0.3 sum": curve, "dpo-0.3 mean": curve, "ppo sum": curve}, "strategies": strategies,
            "settings": settings}  # fmt: skip


def test_the_words_follow_the_numbers():
    rises = told(made({"1": 0.0, "5": 1.0, "20": 0.2}))
    assert "5 beams − 1 +1.00 ± 0.00, 20 − 5 -0.80 ± 0.00 (rise found, fall found)" in rises.notes[0]
    assert [claim.holds for claim in rises.claims] == [True, False, True, True]
    falls = told(made({"1": 1.0, "5": 0.5, "20": 0.0}))
    assert "(rise not found, fall found)" in falls.notes[0] and not falls.failed
    assert "(rise not found, fall not found)" in told(made({"1": 0.0, "5": 0.0, "20": 0.0})).notes[0]
    close = made({"1": 0.0, "5": 0.0, "20": 0.0})
    noise = [-1.0, -0.1, -1.0, 0.1, -0.5, 0.0]
    for beta in (0.1, 0.3, 1.0):
        curve = {width: {**one} for width, one in close["beams"]["dpo-0.3 sum"].items()}
        curve["20"]["reward"] = [a + b for a, b in zip(curve["1"]["reward"], noise, strict=True)]
        close["beams"][f"dpo-{beta} sum"] = curve
    fall = told(close).claims[1]
    assert not fall.holds and "98.3%" in fall.check, "sure at 95 % of one β, not as the surest of three"
    del close["beams"]["dpo-0.1 sum"], close["beams"]["dpo-1.0 sum"]
    assert told(close).claims[1].holds
    over = made({"1": 1.0, "5": 0.5, "20": 0.0})
    over["strategies"]["PPO, greedy"]["read"] = 700.0
    assert [claim.holds for claim in told(over).claims] == [True, True, True, False]


def test_a_difference_is_of_the_same_prompts():
    found = gap({"reward": [1.0, 2.0, 4.0]}, {"reward": [0.0, 1.0, 3.0]})
    assert found.mean == pytest.approx(1.0) and found.se == pytest.approx(0.0)


class Two:
    def score(self, rollouts, prompts):
        return [replace(rollout, score=2.0) for rollout in rollouts]


def test_tokens_that_the_reward_model_reads_are_counted():
    judge = measure.Counted(Two())
    best_of_n(language(tiny(), reference=None, reward=judge, max_new_tokens=3, end_ids=[]), PROMPTS, n=4)
    assert judge.read == 4 * sum(len(prompt.tokens) + 3 for prompt in PROMPTS)


def test_a_plan_needs_its_own_beta_and_width_one():
    with pytest.raises(InputError, match=r"beta 0\.7 must be one of"):
        Plan(beta=0.7)
    for widths in ((2, 5), (1, 2), ()):
        with pytest.raises(InputError, match="widths are compared with width 1"):
            Plan(widths=widths)
    with pytest.raises(InputError, match="held_prompts = 70"):
        Plan(held_prompts=70)


def test_the_exact_study_takes_a_world_and_says_of_it_what_theory_says(monkeypatch):
    monkeypatch.setattr(exact_study, "TREES", 60)
    own, given = beam_width(None), beam_width(default_world())
    assert [row[2] for row in own.tables[0].rows] == [0.0, 0.5, 1.0, 2.0] * 4 and len(own.claims) == 4
    assert len(given.claims) == 2 and not given.failed and [row[1] for row in given.tables[0].rows] == [0.7] * 4
    sure = next(row for row in given.tables[0].rows if row[2] == 0.0)
    assert sure[7].startswith("+") and len(given.figures) == 1


@pytest.mark.slow
def test_the_whole_study_at_a_tiny_scale_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    for module in (measure, search_plan):
        monkeypatch.setattr(module, "PILOT", 2)
    monkeypatch.setattr(measure, "SETTINGS", (1, 2, 4))
    plan = Plan(
        train_prompts=60, held_prompts=8, pair_prompts=16, pair_samples=4, betas=(0.3,), width_prompts=2,
        widths=(1, 2, 5, 7), ppo_widths=(1, 2), mean_widths=(1, 2), prompts=2, budget=120,
        online={**Plan().online, "rollout_rows": 16, "mini_rows": 16},
    )  # fmt: skip
    words = study(out=str(tmp_path / "s"), scale=0.02, plan=plan)
    assert "strategies at a budget of 120 tokens" in words
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert set(results["strategies"]) == set(measure.STRATEGIES)
    assert set(results["beams"]) == {"dpo-0.3 sum", "dpo-0.3 mean", "ppo sum", "ppo mean"}
    assert len(results["beams"]["dpo-0.3 sum"]["5"]["reward"]) == 2
    assert read(tmp_path / "s" / "data.jsonl").figures[-1].series[0].style == "bars"
    capsys.readouterr()
    study(out=str(tmp_path / "s"), scale=0.02, plan=plan)
    assert "done before" in capsys.readouterr().out
    assert json.loads((tmp_path / "s" / "results.json").read_text())["beams"] == results["beams"]
