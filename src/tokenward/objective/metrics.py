"""What training logs: pure functions of Batch, TokenStats and Signal, in TRL's names where TRL has one.

`step_metrics` gives (sum, weight) pairs, to be added over micro-batches and divided once; `batch_metrics` numbers,
once per batch of rollouts. Everything is detached.

    rewards/chosen, /rejected, /margins   β·log π/π_ref summed over the response (a reward model: its scores); pair mean
    rewards/accuracies                    share of pairs with margin > 0 (a tie counts ½)
    logps/chosen, /rejected               Σ_t log π of the response, nats; pair mean
    entropy, policy/kl_old                token mean; kl_old = KL(π_old‖π) as ϱ − 1 − log ϱ, ϱ = π/π_old
    clip_ratio/low, /high                 share of tokens whose ratio is beyond 1 ∓ clip and whose gain is cut there
    policy/ratio_max                      largest π/π_old of a token
    score, kl, completions/length         row means: reward, Σ_t log π_old/π_ref, trainable tokens
    completions/clipped_ratio             share of rows cut at the length limit
    critic/vf_explained_var               1 − Var(returns − V_old)/Var(returns) over tokens
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenward.masking import count, keep, row_sum
from tokenward.objective.links import Clipped
from tokenward.objective.recipe import Recipe
from tokenward.objective.terms import LogRatio, PairTerm, TokenTerm
from tokenward.types import LENGTH, Batch, Signal, TokenStats

Share = tuple[Tensor, Tensor]  # (sum, weight)


def step_metrics(recipe: Recipe, batch: Batch, stats: TokenStats, signal: Signal) -> dict[str, Share]:
    """(sum, weight) of every metric that the recipe's terms and the fields present allow."""
    with torch.no_grad():
        stats = stats.masked(batch.mask)
        found: dict[str, Share] = {}
        for term in recipe.terms:
            if isinstance(term, PairTerm) and term.compare == "difference" and batch.pairs is not None:
                found |= _pair_metrics(term, batch, stats)
            if isinstance(term, TokenTerm) and isinstance(term.link, Clipped):
                found |= _ratio_metrics(term.link, batch, stats, signal)
        if stats.entropy is not None:
            found["entropy"] = (keep(stats.entropy, batch.mask).sum(), count(batch.mask).sum())
        return {name: (total.detach(), weight.detach()) for name, (total, weight) in found.items()}


def step_maxima(batch: Batch, stats: TokenStats) -> dict[str, Tensor]:
    """Metrics of which the largest over micro-batches is kept, not the mean."""
    if stats.logp is None or stats.old_logp is None:
        return {}
    with torch.no_grad():
        gap = keep(stats.logp - stats.old_logp, batch.mask)
        return {"policy/ratio_max": gap.max().exp()} if gap.numel() else {}


def batch_metrics(batch: Batch, frozen: TokenStats, signal: Signal) -> dict[str, float]:
    """Numbers of a whole batch after stage one; rows of the first stream alone."""
    rows = batch.weight > 0 if batch.origin is None else (batch.origin == 0)
    found = {"completions/length": _mean(count(batch.mask)[rows])}
    if batch.score is not None:
        found["score"] = _mean(batch.score[rows])
        found["score_std"] = float(batch.score[rows].float().std(correction=0))
    if frozen.old_logp is not None and frozen.ref_logp is not None:
        found["kl"] = _mean(row_sum(frozen.old_logp - frozen.ref_logp, batch.mask)[rows])
    if frozen.guide_logp is not None and frozen.guide_ref_logp is not None:
        found["guide"] = _mean(row_sum(frozen.guide_logp - frozen.guide_ref_logp, batch.mask)[rows])
    if batch.finish is not None:
        found["completions/clipped_ratio"] = _mean((batch.finish == LENGTH)[rows].float())
    if signal.returns is not None and frozen.old_value is not None:
        returns, value = signal.returns[batch.mask], frozen.old_value[batch.mask]
        spread = returns.var(correction=0)
        if bool(spread > 0):
            found["critic/vf_explained_var"] = float(1 - (returns - value).var(correction=0) / spread)
    if signal.point is not None:
        found["kto/point"] = float(signal.point[0])
    return found


def fields_logged(recipe: Recipe) -> frozenset[str]:
    """Fields of TokenStats worth computing without being asked for: the entropy of a policy that samples."""
    return frozenset({"entropy"}) if any(stream.kind == "rollouts" for stream in recipe.streams) else frozenset()


def _pair_metrics(term: PairTerm, batch: Batch, stats: TokenStats) -> dict[str, Share]:
    if batch.pairs is None:
        return {}
    score = term.score.rows(batch, stats)
    win, lose = score[batch.pairs[:, 0]], score[batch.pairs[:, 1]]
    number = torch.as_tensor(float(len(batch.pairs)))
    margin = win - lose
    hits = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    found = {
        "rewards/chosen": (win.sum(), number),
        "rewards/rejected": (lose.sum(), number),
        "rewards/margins": (margin.sum(), number),
        "rewards/accuracies": (hits.sum(), number),
    }
    if isinstance(term.score, LogRatio) and stats.logp is not None:
        total = row_sum(stats.logp, batch.mask)
        found["logps/chosen"] = (total[batch.pairs[:, 0]].sum(), number)
        found["logps/rejected"] = (total[batch.pairs[:, 1]].sum(), number)
    return found


def _ratio_metrics(link: Clipped, batch: Batch, stats: TokenStats, signal: Signal) -> dict[str, Share]:
    if stats.logp is None or stats.old_logp is None or signal.advantage is None:
        return {}
    tokens = count(batch.mask).sum()
    gap = keep(stats.logp - stats.old_logp, batch.mask)
    ratio, advantage = gap.exp(), keep(signal.advantage, batch.mask)
    low = (ratio < 1 - link.low) & (advantage < 0)
    high = (ratio > 1 + link.high) & (advantage > 0)
    return {
        "policy/kl_old": (keep(gap.exp() - 1 - gap, batch.mask).sum(), tokens),
        "clip_ratio/low": (low.sum().to(gap.dtype), tokens),
        "clip_ratio/high": (high.sum().to(gap.dtype), tokens),
    }


def _mean(x: Tensor) -> float:
    return float(x.double().mean()) if x.numel() else float("nan")
