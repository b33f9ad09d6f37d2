"""The words of the study of four references on made-up numbers: each claim fails when its number does."""

from __future__ import annotations

from typing import Any

import pytest

from tokenward.trained.directory import text
from tokenward.trained.reference.words import NAMES, told


def near(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "se": 0.05}


def run(reference: str, beta: float, chosen: float) -> dict[str, Any]:
    curve = {
        "update": [1.0, 2.0], "reference/log_ratio": [0.0, -1.0], "reference/log_ratio_se": [0.1, 0.1],
        "reference/kl": [0.0, 1.0], "reference/z": [0.0, -1.0], "chosen": [0.0, -1.0], "rejected": [0.0, -2.0],
    }  # fmt: skip
    report = {
        "identities": [{"ratio": near(-1.0), "kl": near(-1.0), "z": z} for z in (0.5, -0.5)],
        "margin": near(1.0), "verdict": "expected",
        "sets": {name: {"ratio": near(chosen)} for name in ("chosen", "rejected", "policy samples")},
        "against": {"chosen": {"ratio": near(0.1)}, "rejected": {"ratio": near(-0.1)}},
    }  # fmt: skip
    return {"beta": beta, "reference": reference, "curve": curve, "report": report}


def results() -> dict[str, Any]:
    """Numbers for which every claim holds: chosen answers fall most in none-0.1 and rise most in rejected-2."""
    levels = {"chosen": (-1.0, -0.4), "both": (-3.0, -0.1), "rejected": (-2.0, 0.3), "none": (-6.0, -0.7)}
    runs = {
        f"{name}-{beta:g}": run(name, beta, level)
        for name in NAMES for beta, level in zip((0.1, 2.0), levels[name], strict=True)
    }  # fmt: skip
    return {
        "runs": runs, "pairs": {"pairs": 9, "heldout-pairs": 5}, "stages": {"a": 1.0},
        "settings": {"seed": 0, "scale": 1.0, "texts": 4, "held_prompts": 8, "offline": {"updates": 2}},
    }  # fmt: skip


def test_the_study_says_what_the_numbers_say() -> None:
    found = told(results())
    assert not found.failed and len(found.claims) == 13 and len(found.figures) == 4
    assert "0.30 (0.20 to 0.40)" in text(found) and "run none-0.1" in found.claims[0].check


@pytest.mark.parametrize(
    ("name", "path", "value", "claims"),
    [
        ("none-0.1", ("report", "identities", 0, "z"), -5.0, [0, 2]),
        ("rejected-2", ("report", "identities", 0, "z"), 5.0, [1, 2]),
        ("none-0.1", ("report", "identities", 0, "z"), None, [0, 2]),  # of a KL that is no number z is not known
        ("chosen-2", ("report", "identities", 0, "z"), None, [2]),
        ("chosen-2", ("report", "identities", 1, "z"), -5.0, [3]),
        ("both-0.1", ("report", "identities", 1, "z"), None, [3]),
        ("both-0.1", ("curve", "reference/z"), [0.0, -6.0], [4]),
        ("none-0.1", ("report", "sets", "chosen", "ratio", "high"), 0.1, [5, 12]),
        ("rejected-2", ("report", "sets", "chosen", "ratio", "low"), -0.1, [6, 11]),
        ("both-2", ("report", "margin", "low"), -0.1, [7]),
        ("both-2", ("report", "margin", "low"), None, [7]),
        ("both-2", ("report", "against", "chosen", "ratio", "mean"), 2.0, [8]),
        ("both-2", ("report", "sets", "chosen", "ratio", "low"), 0.8, [9]),
        ("chosen-2", ("report", "sets", "chosen", "ratio", "high"), 0.1, [10]),
        ("none-2", ("report", "sets", "chosen", "ratio", "high"), 0.1, [12]),
    ],
)
def test_each_claim_fails_when_its_number_does(name: str, path: tuple[Any, ...], value: Any, claims: list[int]) -> None:
    given = results()
    *way, last = path
    at = given["runs"][name]
    for key in way:
        at = at[key]
    at[last] = value
    found = told(given)
    assert [n for n, claim in enumerate(found.claims) if not claim.holds] == claims
    assert "None" not in text(found)
