"""The words of the study of chains on made-up numbers: each claim fails when its number does."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenward.trained.directory import text
from tokenward.trained.reasoning.tables import POLICIES, SCORES, WAYS, ends
from tokenward.trained.reasoning.words import told


def near(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def results() -> dict[str, Any]:
    """Numbers for which every claim holds."""

    def located() -> dict[str, Any]:
        found: dict[str, Any] = {"texts": 9, "prompts": 8}
        for name in SCORES:
            found |= {name: {"auc": near(0.9), "ap": near(0.7), "hits": near(0.6), "wrong": 9, "right": 30}}
            found |= {f"lead_{name}": {"auc": near(0.05), "hits": near(0.05)}}
        return found | {"chance": {"hits": near(0.2)}}

    policies = {
        name: {key: near(0.05) for key in ("sound", "kl", "minus_sft", "minus_ppo-outcome", "minus_ppo-end")}
        | {"right": near(0.9)}
        for name in POLICIES
    }
    best: dict[str, Any] = {name: {n: near(0.9) for n in ("1", "2")} for name in WAYS}
    best |= {f"{what}_{name}": near(0.05) for what in ("lead", "gain") for name in WAYS}
    return {
        "policies": policies, "best": best,
        "credit": {"injected": located(), "natural": located(), "canceled": None, "natural_right": None,
                   "sampled": 40, "wrong": 4},
        "counts": {"prompts": 8, "texts": 5}, "pairs": {"pairs": 30, "unsound": 0.01}, "taught": {"rounds": 1},
        "preferences": {"pairs": 9, **{name: near(0.8) for name in ("dpo", "reward-model", "dpo-random-labels")}},
        "curves": {name: ([1, 2], [0.8, 0.9]) for name in POLICIES if name.startswith("ppo")}, "seconds": 9.0,
        "settings": {"seed": 0, "scale": 1.0, "best_of": 2, "most_pairs": 3, "rounds": 6, "beta_kl": 0.1,
                     "beta_guide": 0.1, "online": {"updates": 48}},
    }  # fmt: skip


def test_the_study_says_what_the_numbers_say() -> None:
    found = told(results())
    assert not found.failed and len(found.claims) == 16
    assert [table.title.split(":")[0] for table in found.tables] == [
        *["Finding the first wrong step"] * 2, "Best of n texts of the SFT policy", "Policies on held-out prompts",
    ]  # fmt: skip
    assert found.tables[0].rows[-1][:3] == ("chance", "0.5", "0.231")  # 9 of 39 steps are wrong
    assert "0.900 (0.890 to 0.910)" in text(found) and "DOES NOT HOLD" not in text(found)


CREDIT = [("credit", "auc", 0.505), ("lead_chance", "hits", 0.005), ("lead_random", "auc", 0.005),
          ("lead_model", "auc", 0.005)]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "claim"),
    [
        (("policies", "sft", "right"), 0.79, 0),
        (("policies", "sft", "right"), 0.98, 0),
        (("policies", "dpo", "minus_sft"), 0.005, 1),
        *[(("credit", kind, *path), value, at + 4 * number) for number, kind in enumerate(("injected", "natural"))
          for at, (*path, value) in enumerate(CREDIT, 2)],
        (("best", "gain_implicit"), 0.005, 10),
        (("best", "lead_vote"), 0.005, 11),
        (("best", "lead_model"), -0.015, 12),
        (("policies", "ppo-steps", "minus_ppo-outcome"), 0.005, 13),
        (("policies", "ppo-steps", "minus_ppo-end"), 0.005, 14),
        (("policies", "ppo-model", "minus_sft"), 0.005, 15),
    ],
)  # fmt: skip
def test_each_claim_fails_when_its_number_does(path: tuple[str, ...], value: float, claim: int) -> None:
    given = results()
    *way, last = path
    at = given
    for key in way:
        at = at[key]
    at[last] = near(value)
    found = told(given)
    assert found.failed == (found.claims[claim],)


def test_preferences_of_one_prompt_have_no_interval() -> None:
    given = results()
    given["preferences"]["dpo"] = {"value": 1.0, "low": math.nan, "high": math.nan}
    assert "dpo 1.000 (–)" in told(given).notes[0] and ends(near(0.5)) == "0.500 (0.490 to 0.510)"
