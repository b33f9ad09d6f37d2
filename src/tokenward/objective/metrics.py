"""What training logs: pure functions of Batch, TokenStats and Signal, in TRL's names where TRL has one.

`step_metrics` gives (sum, weight) pairs, to be added over micro-batches and divided once; `batch_metrics` numbers,
once per batch of rollouts. Everything is detached.

    rewards/chosen, /rejected, /margins   β·log π/π_ref summed over the response (a reward model: its scores); pair mean
    rewards/accuracies                    share of pairs with margin > 0 (a tie counts ½)
    logps/chosen, /rejected               Σ_t log π of the response, nats; pair mean
    drift/chosen, /rejected               log π/π_ref, nats; mean over the tokens of these answers
    entropy, policy/kl_old                token mean; kl_old = KL(π_old‖π) as ϱ − 1 − log ϱ, ϱ = π/π_old
    clip_ratio/low, /high                 share of tokens (GSPO: of rows) whose ratio is beyond 1 ∓ clip and whose gain
                                          is cut there; CISPO: high is the share of tokens at the cap
    clip_ratio/dual                       share of tokens with A < 0 and a ratio beyond the dual clip
    policy/ratio_max                      largest π/π_old of a token
    score, kl, completions/length         row means: reward (token rewards too), Σ_t log π_old/π_ref, trainable tokens
    completions/clipped_ratio             share of rows cut at the length limit
    groups/zero_spread                    share of prompts with two answers or more whose scores are all the same
    critic/vf_explained_var               1 − Var(returns − V_old)/Var(returns) over tokens
    robust/atoms, /effective_atoms        atoms that count, and 1/Σ q² of the worst weights q
    robust/eta                            tilt of the worst weights, q ∝ p e^{ηℓ}; absent where only the worst count
    critic/value_clip_share               share of tokens whose value is held by its clip: no gradient there

Entropies, ratios and values are those of the first stream's rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenward.masking import count, keep, row_sum, unit_sum
from tokenward.objective.capped import Capped
from tokenward.objective.fields import POLICY_FIELDS, whole_score
from tokenward.objective.links import Clipped, ClippedSquare, Ratio
from tokenward.objective.recipe import Recipe
from tokenward.objective.robust import RobustTerm
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, TokenTerm
from tokenward.types import LENGTH, Batch, Signal, TokenStats, pair_share, stream_weight

Share = tuple[Tensor, Tensor]  # (sum, weight)


def step_metrics(recipe: Recipe, batch: Batch, stats: TokenStats, signal: Signal) -> dict[str, Share]:
    """(sum, weight) of every metric that the recipe's terms and the fields present allow."""
    with torch.no_grad():
        stats = stats.masked(batch.mask)
        found: dict[str, Share] = {}
        for term in recipe.terms:
            if isinstance(term, PairTerm) and term.compare == "difference" and batch.pairs is not None:
                found |= _pair_metrics(term, batch, stats)
            if isinstance(term, (TokenTerm, RowTerm, RobustTerm)) and isinstance(term.link, (Clipped, Capped, Ratio)):
                found |= _ratio_metrics(term, term.link, batch, stats, signal)
            if isinstance(term, TokenTerm) and isinstance(term.link, ClippedSquare):
                found |= _value_metrics(term, term.link, batch, stats, signal)
            if isinstance(term, RobustTerm):
                found |= _robust_metrics(term, batch, stats, signal)
        if stats.entropy is not None:
            own = first_stream(batch)
            found["entropy"] = (keep(stats.entropy, own).sum(), count(own).sum())
        return {name: (total.detach(), weight.detach()) for name, (total, weight) in found.items()}


def step_maxima(batch: Batch, stats: TokenStats) -> dict[str, Tensor]:
    """Metrics of which the largest over micro-batches is kept, not the mean."""
    if stats.logp is None or stats.old_logp is None:
        return {}
    with torch.no_grad():
        gap = keep(stats.logp - stats.old_logp, first_stream(batch))
        return {"policy/ratio_max": gap.max().exp()} if gap.numel() else {}


def batch_metrics(batch: Batch, frozen: TokenStats, signal: Signal) -> dict[str, float]:
    """Numbers of a whole batch after stage one; rows of the first stream alone."""
    rows = batch.weight > 0 if batch.origin is None else (batch.origin == 0)
    found = {"completions/length": _mean(count(batch.mask)[rows])}
    if batch.score is not None:
        score = whole_score(batch, by=batch_metrics)[rows]
        found["score"], found["score_std"] = _mean(score), float(score.float().std(correction=0))
        found |= _zero_spread(batch.group[rows], score)
    if frozen.old_logp is not None and frozen.ref_logp is not None:
        found["kl"] = _mean(row_sum(frozen.old_logp - frozen.ref_logp, batch.mask)[rows])
    if frozen.guide_logp is not None and frozen.guide_ref_logp is not None:
        found["guide"] = _mean(row_sum(frozen.guide_logp - frozen.guide_ref_logp, batch.mask)[rows])
    if batch.finish is not None:
        found["completions/clipped_ratio"] = _mean((batch.finish == LENGTH)[rows].float())
    if signal.returns is not None and frozen.old_value is not None:
        own = first_stream(batch)
        returns, value = signal.returns[own], frozen.old_value[own]
        spread = returns.var(correction=0)
        if bool(spread > 0):
            found["critic/vf_explained_var"] = float(1 - (returns - value).var(correction=0) / spread)
    if signal.point is not None:
        found["kto/point"] = float(signal.point[0])
    return found


def fields_logged(recipe: Recipe) -> frozenset[str]:
    """Fields of TokenStats worth computing without being asked for: the entropy of a policy that samples and moves."""
    samples = any(stream.kind == "rollouts" for stream in recipe.streams)
    return frozenset({"entropy"}) if samples and recipe.trained & POLICY_FIELDS else frozenset()


def _pair_metrics(term: PairTerm, batch: Batch, stats: TokenStats) -> dict[str, Share]:
    if batch.pairs is None:
        return {}
    score, pairs = term.score.rows(batch, stats), batch.pairs[pair_share(batch, term.streams) > 0]
    win, lose = score[pairs[:, 0]], score[pairs[:, 1]]
    number = torch.as_tensor(float(len(pairs)))
    margin = win - lose
    hits = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    found = {
        "rewards/chosen": (win.sum(), number),
        "rewards/rejected": (lose.sum(), number),
        "rewards/margins": (margin.sum(), number),
        "rewards/accuracies": (hits.sum(), number),
    }
    if isinstance(term.score, LogRatio) and stats.logp is not None:
        total = unit_sum(row_sum(stats.logp, batch.mask), batch.unit)
        found["logps/chosen"] = (total[pairs[:, 0]].sum(), number)
        found["logps/rejected"] = (total[pairs[:, 1]].sum(), number)
        found |= _drift(batch, stats, pairs)
    return found


def _drift(batch: Batch, stats: TokenStats, pairs: Int[Tensor, "P 2"]) -> dict[str, Share]:
    """log π/π_ref of a token of chosen and of rejected answers, where there is a reference."""
    if stats.logp is None or stats.ref_logp is None:
        return {}
    total = unit_sum(row_sum(stats.logp - stats.ref_logp, batch.mask), batch.unit)
    number = unit_sum(count(batch.mask, total.dtype), batch.unit)
    sides = {"chosen": pairs[:, 0], "rejected": pairs[:, 1]}
    return {f"drift/{name}": (total[rows].sum(), number[rows].sum()) for name, rows in sides.items()}


def first_stream(batch: Batch) -> Bool[Tensor, "B T"]:
    """The trainable tokens of the rows of the first stream."""
    return batch.mask if batch.origin is None else batch.mask & (batch.origin == 0)[:, None]


def _ratio_metrics(
    term: TokenTerm | RowTerm | RobustTerm,
    link: Clipped | Capped | Ratio,
    batch: Batch,
    stats: TokenStats,
    signal: Signal,
) -> dict[str, Share]:
    if stats.logp is None or stats.old_logp is None or signal.advantage is None:
        return {}
    own = first_stream(batch)
    gap = keep(stats.logp - stats.old_logp, own)
    found = {"policy/kl_old": (keep(gap.exp() - 1 - gap, own).sum(), count(own).sum())}
    if isinstance(link, Ratio):
        return found
    rows = (stream_weight(batch, term.stream) > 0) & batch.mask.any(-1)
    if isinstance(term, (TokenTerm, RobustTerm)):
        counted, score = batch.mask & rows[:, None], term.score.tokens(batch, stats)
        advantage = term.target.tokens(batch, stats, signal)
    else:
        counted, score, advantage = rows, term.score.rows(batch, stats), term.target.rows(batch, stats, signal)
    for side, cut in link.cut(score, advantage).items():
        found[f"clip_ratio/{side}"] = ((cut & counted).sum().to(gap.dtype), counted.sum().to(gap.dtype))
    return found


def _robust_metrics(term: RobustTerm, batch: Batch, stats: TokenStats, signal: Signal) -> dict[str, Share]:
    loss, nominal = term.losses(batch, stats, signal)
    if not len(loss):
        return {}
    worst, one = term.worst(loss, nominal), torch.ones(())
    effective = 1 / (worst.weight**2).sum()
    found = {"robust/atoms": (torch.tensor(float(len(loss))), one), "robust/effective_atoms": (effective, one)}
    if worst.eta is not None and worst.eta < float("inf"):
        found["robust/eta"] = (torch.tensor(worst.eta), one)
    return found


def _value_metrics(
    term: TokenTerm, link: ClippedSquare, batch: Batch, stats: TokenStats, signal: Signal
) -> dict[str, Share]:
    """Where the clipped branch of the value loss is the larger one."""
    if link.clip is None or stats.value is None or signal.returns is None:
        return {}
    step, aim = term.score.tokens(batch, stats), term.target.tokens(batch, stats, signal)
    held = (step.clamp(-link.clip, link.clip) - aim).abs() > (step - aim).abs()
    own = first_stream(batch)
    return {"critic/value_clip_share": (keep(held.to(step.dtype), own).sum(), count(own).sum())}


def _zero_spread(group: Tensor, score: Tensor) -> dict[str, float]:
    """Such groups have advantage 0: what the share of them costs is rollouts."""
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    if not bool((size > 1).any()):
        return {}
    high = torch.full_like(size, -torch.inf, dtype=score.dtype).scatter_reduce(0, index, score, "amax")
    low = torch.full_like(size, torch.inf, dtype=score.dtype).scatter_reduce(0, index, score, "amin")
    return {"groups/zero_spread": _mean((high == low)[size > 1].float())}


def _mean(x: Tensor) -> float:
    return float(x.double().mean()) if x.numel() else float("nan")
