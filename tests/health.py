"""Event logs of runs that are ill in one way and well in all others."""

from __future__ import annotations

from collections.abc import Callable

Series = Callable[[int], float] | float
COUNT = 30

WELL: dict[str, Series] = {
    "loss": 0.1, "score": lambda i: 0.01 * i, "score_std": 1.0, "groups/zero_spread": 0.1, "kl": 1.0,
    "completions/length": 20.0, "completions/clipped_ratio": 0.02, "completions/duplicates": 0.05,
    "completions/repeated": 0.01, "kl/quarter_1": 0.06, "kl/quarter_2": 0.05, "kl/quarter_3": 0.06,
    "kl/quarter_4": 0.05, "policy/ratio_far": 0.001, "policy/ratio_max": 1.5, "policy/kl_old": 0.001,
    "clip_ratio/low": 0.05, "clip_ratio/high": 0.05, "critic/vf_explained_var": 0.7, "entropy": 2.0,
    "score/length_corr": 0.1, "score/length_slope": 0.01, "sampler/gap_mean": 1e-6, "sampler/gap_max": 1e-5,
}  # fmt: skip

# check: the metrics that make it bad
ILL: dict[str, dict[str, Series]] = {
    "constant-score": {"score_std": 0.0},
    "zero-variance-groups": {"groups/zero_spread": 0.95},
    "kl": {"kl": 30.0},
    "negative-kl": {"kl": -2.0},
    "kl-in-one-place": {"kl/quarter_4": 2.0},
    "ratio-tail": {"policy/ratio_far": 0.2},
    "largest-ratio": {"policy/ratio_max": lambda i: 500.0 if i == COUNT - 5 else 1.5},
    "clip-share": {"clip_ratio/low": 0.3, "clip_ratio/high": 0.3},
    "step-kl": {"policy/kl_old": 0.5},
    "critic": {"critic/vf_explained_var": -0.2},
    "entropy-falls": {"entropy": lambda i: 2.0 if i < 15 else 0.1},
    "entropy-rises": {"entropy": lambda i: 1.0 if i < 15 else 3.0},
    "length-drift": {"completions/length": lambda i: 20.0 if i < 15 else 5.0},
    "gain-by-length": {
        "score": lambda i: 0.0 if i < 15 else 2.0,
        "completions/length": lambda i: 20.0 if i < 15 else 28.0,
        "score/length_slope": 0.25,
    },
    "score-by-length": {"score/length_corr": -0.95},
    "cut": {"completions/clipped_ratio": 0.8},
    "duplicates": {"completions/duplicates": 0.9},
    "repeats": {"completions/repeated": 0.5},
    "sampler-gap": {"sampler/gap_mean": 0.3},
}


def updates(**metrics: Series) -> list[dict[str, object]]:
    """One update event for each place, with the value of each metric there."""
    return [
        {"event": "update", "update": i + 1, **{k: v(i) if callable(v) else v for k, v in metrics.items()}}
        for i in range(COUNT)
    ]


def ill(check: str) -> list[dict[str, object]]:
    """A run on which this check is bad."""
    return updates(**{**WELL, **ILL[check]})


def evals(rewards: list[float], *, proxies: list[float] | None = None, error: float = 0.1) -> list[dict[str, object]]:
    """Evaluations after every tenth update, the first before any; KL rises by ½ nat each."""
    found: list[dict[str, object]] = []
    for i, reward in enumerate(rewards):
        proxy = {} if proxies is None else {"eval/proxy": proxies[i]}
        numbers = {"eval/reward": reward, "eval/reward_se": error, "eval/objective": reward, "eval/kl": 0.5 * i}
        found.append({"event": "eval", "update": 10 * i, **numbers, "eval/length": 20.0, "eval/cut": 0.0, **proxy})
    return found
