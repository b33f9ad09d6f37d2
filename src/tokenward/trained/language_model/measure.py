"""What the study measures on held-out prompts: J_τ of each policy, and what each DPO's implicit reward goes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.data.collate import rollouts_batch
from tokenward.demo.measure import Bench
from tokenward.diagnose.evaluate import log_ratios
from tokenward.diagnose.measures.association import Interval, correlation, interval, scatter, slope, spread
from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.measures.value import TextValues, difference, text_values
from tokenward.masking import row_sum
from tokenward.models import frozen, load
from tokenward.trained.language_model.data import readable
from tokenward.types import Batch, Rollout

Numbers = dict[str, Any]
NORMAL = 1.96  # standard errors on each side of a 95 % interval
MICRO = 4096  # tokens scored at a time: what one core keeps in its cache


def policy_values(bench: Bench, model: str, *, tau: float, each: int) -> Numbers:
    """Reward, KL and log-ratio of `each` texts of a policy for each held-out prompt, as JSON columns."""
    policy = load.policy(model)
    rollouts = bench.samples(policy, each=each, seed=bench.seed + 1)
    found = text_values(
        rollouts, policy=policy, reference=bench.reference, tau=tau, pad_id=bench.pad, micro_tokens=MICRO
    )
    columns = {name: getattr(found, name).tolist() for name in ("reward", "kl", "ratio")}
    return {"prompt": list(found.prompt), **columns, "length": [len(r.response_tokens) for r in rollouts]}


def values_of(columns: Mapping[str, Any], *, tau: float) -> TextValues:
    """The columns of `policy_values` as what they were."""
    numbers = [torch.tensor(columns[name], dtype=torch.float64) for name in ("reward", "kl", "ratio")]
    return TextValues(tau, tuple(columns["prompt"]), *numbers)


def fresh_texts(bench: Bench, *, each: int, laws: Mapping[str, float]) -> Numbers:
    """Texts of the SFT policy that no run has read, their rewards, and log μ/π_sft of each of the laws of chosen texts.

    The laws are the SFT policy at other temperatures, so each ratio is exact: Σ_t log π_T(y_t|s_t) − log π_1(y_t|s_t).
    """
    drawn = bench.samples(bench.reference, each=each, seed=bench.seed + 11)
    rollouts = [rollout for rollout in drawn if readable(bench, rollout)]
    batch = rollouts_batch([[r] for r in rollouts], pad_id=bench.pad)
    own = _logp(bench, batch, temperature=1.0)
    return {
        "prompt": [r.prompt_id for r in rollouts],
        "tokens": [list(r.response_tokens) for r in rollouts],
        "reward": [r.score for r in rollouts],
        **{name: (_logp(bench, batch, temperature=t) - own).tolist() for name, t in laws.items()},
    }


def implicit_rewards(bench: Bench, model: str, fresh: Mapping[str, Any], *, tau: float) -> Numbers:
    """τ log π/π_ref of the fresh texts."""
    rollouts = [
        Rollout(number, bench.named[number].tokens, tuple(tokens), (True,) * len(tokens), (0.0,) * len(tokens), "stop")
        for number, tokens in zip(fresh["prompt"], fresh["tokens"], strict=True)
    ]
    batch = rollouts_batch([[r] for r in rollouts], pad_id=bench.pad)
    ratios = log_ratios(load.policy(model), bench.reference, batch, micro_tokens=MICRO)
    return {"implicit": [tau * x for x in ratios]}


def _logp(bench: Bench, batch: Batch, *, temperature: float) -> Float[Tensor, " B"]:
    fields = frozenset({"logp"})
    found = frozen.score(bench.reference, batch, fields, temperature=temperature, micro_tokens=MICRO).logp
    assert found is not None  # asked for above
    return row_sum(found.double(), batch.mask)


def value_rows(policies: Mapping[str, TextValues]) -> dict[str, Numbers]:
    """Each policy's J_τ, reward and KL, and its J_τ against SFT's and DPO's on the same prompts, with intervals."""
    found: dict[str, Numbers] = {}
    for name, values in policies.items():
        parts = {"value": values.value, "reward": values.reward, "kl": values.kl, "ratio": values.ratio}
        row = {key: plain(values.mean(part)) for key, part in parts.items()}
        row["kl_gap"] = plain(values.mean(values.ratio - values.kl))
        row |= {f"minus_{other}": plain(difference(values, policies[other])) for other in ("sft", "dpo")}
        found[name] = row
    return found


def association_row(
    implicit: Sequence[float], fresh: Mapping[str, Any], *, law: str, draws: int = 1000
) -> dict[str, dict[str, float]]:
    """What an implicit reward goes with within prompts: the true reward, or the log-ratio of one law to SFT's.

    `slope_*` are the coefficients of implicit reward on both together · `lead` = |corr. with the reward| − |corr. with
    the log-ratio| · `rms` of the implicit reward's deviations from its prompt's mean.
    """
    parts = scatter([implicit, fresh["reward"], fresh[law]], clusters=fresh["prompt"])
    with_reward, with_law = correlation(0, 1), correlation(0, 2)
    statistics = {
        "correlation_reward": with_reward,
        "correlation_law": with_law,
        "slope_reward": slope(0, on=(1, 2), which=1),
        "slope_law": slope(0, on=(1, 2), which=2),
        "lead": lambda s: with_reward(s).abs() - with_law(s).abs(),
        "rms": spread(0, texts=len(implicit)),
        "reward_and_law": correlation(1, 2),
    }
    return {name: plain(interval(parts, statistic, draws=draws)) for name, statistic in statistics.items()}


def plain(found: Estimate | Interval) -> dict[str, float]:
    """Value and ends of the 95 % interval."""
    if isinstance(found, Interval):
        return asdict(found)
    reach = NORMAL * found.se
    return {"value": found.mean, "low": found.mean - reach, "high": found.mean + reach}
