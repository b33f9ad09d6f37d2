"""What an on-policy run logs for the checks of its health: pure functions of Batch and TokenStats, detached.

    kl/quarter_1 … _4         mean of log π_old/π_ref over the tokens of each quarter of a completion, nats a token
    sampler/gap_mean, _max    |log π_sampler − log π_old| of a token, nats: two programs, or two laws
    score/length_corr         correlation of score and length over the completions of a batch
    score/length_slope        least-squares slope of the score on the length, reward units a token
    completions/duplicates    share of completions of LONG tokens or more that say again what another of the batch says
    completions/repeated      1 − distinct/all 4-grams of a completion, mean over completions (seq-rep-4 of
                              Welleck et al. 2020)
    policy/ratio_far          share of tokens with π/π_old above FAR or below 1/FAR (of an update, not of a batch)

All are of the first stream's rows.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenward.masking import count, keep
from tokenward.objective.fields import whole_score
from tokenward.objective.metrics import Share, first_stream
from tokenward.types import Batch, TokenStats

LONG = 8  # tokens: short answers are the same by right
GRAM = 4
FAR = 2.0
_BASE = 6364136223846793005  # odd, so that its powers never vanish among whole numbers of 64 bits


def health_metrics(batch: Batch, trainer: TokenStats) -> dict[str, float]:
    """Numbers of a batch of rollouts; `trainer` holds what the training models say of it.

    Empty where nothing was sampled. The numbers are fetched from the device together: one copy for all.
    """
    if batch.sampler_logp is None:
        return {}
    with torch.no_grad():
        own = first_stream(batch)
        own = own[own.any(-1)]
        if not len(own):
            return {}
        found = _of_texts(batch, own) | _of_scores(batch) | _of_laws(batch, trainer)
        flat = torch.stack([value.to(batch.tokens.device, torch.float64) for value in found.values()]).tolist()
        return {name: value for name, value in zip(found, flat, strict=True) if not math.isnan(value)}


def ratio_tail(batch: Batch, stats: TokenStats) -> dict[str, Share]:
    """(sum, weight) of the share of tokens whose ratio is far from 1."""
    if stats.logp is None or stats.old_logp is None:
        return {}
    with torch.no_grad():
        own = first_stream(batch)
        far = keep(stats.logp - stats.old_logp, own).abs() > math.log(FAR)
        return {"policy/ratio_far": (far.sum().to(stats.logp.dtype), count(own).sum())}


def _of_laws(batch: Batch, trainer: TokenStats) -> dict[str, Tensor]:
    """How far the policy is from its reference in each quarter of the text, and from whoever sampled."""
    if trainer.old_logp is None or batch.sampler_logp is None:
        return {}
    own = first_stream(batch)
    gap = (batch.sampler_logp - trainer.old_logp)[own].abs()
    found = {"sampler/gap_mean": gap.mean(), "sampler/gap_max": gap.max()}
    if trainer.ref_logp is not None:
        kl = quarters(trainer.old_logp - trainer.ref_logp, own)
        found |= {f"kl/quarter_{i + 1}": value for i, value in enumerate(kl)}
    return found


def quarters(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " 4"]:
    """The mean of x over the tokens of the first, second, third, last quarter of each row; NaN where there are none.

    >>> quarters(torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0]]), torch.tensor([[True, True, True, True, False]])).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    place = mask.cumsum(-1) - 1
    quarter = (4 * place).div(mask.sum(-1, keepdim=True).clamp(min=1), rounding_mode="floor")[mask]
    zero = torch.zeros(4, dtype=torch.float64, device=x.device)
    sums = zero.index_add(0, quarter, x[mask].double())
    return sums / zero.index_add(0, quarter, torch.ones_like(x[mask]).double())


def _of_scores(batch: Batch) -> dict[str, Tensor]:
    """Correlation and slope of score on length; NaN where either is constant."""
    if batch.score is None:
        return {}
    own = first_stream(batch)
    rows = own.any(-1)
    length, score = count(own)[rows].double(), whole_score(batch, by=health_metrics)[rows].double()
    length, score = length - length.mean(), score - score.mean()
    both, lengths, scores = (length * score).sum(), length.square().sum(), score.square().sum()
    return {"score/length_corr": both / (lengths * scores).sqrt(), "score/length_slope": both / lengths}


def _of_texts(batch: Batch, own: Bool[Tensor, "R T"]) -> dict[str, Tensor]:
    """Completions that are there twice, and 4-grams that a completion says twice; NaN where none is long enough."""
    tokens = batch.tokens[first_stream(batch).any(-1)] + 1
    size = own.sum(-1)
    names = fingerprints(tokens, own)[size >= LONG]
    distinct = torch.unique(names).numel()
    share = 1 - torch.tensor(distinct / len(names) if len(names) else math.nan)
    return {"completions/duplicates": share, "completions/repeated": repeated(tokens, own)}


def fingerprints(tokens: Int[Tensor, "R T"], mask: Bool[Tensor, "R T"]) -> Int[Tensor, " R"]:
    """One whole number of 64 bits for the masked tokens of each row, in their order: Σ_k y_k·b^k modulo 2⁶⁴."""
    power = torch.full((tokens.shape[1],), _BASE, device=tokens.device).cumprod(0)
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    return torch.where(mask, tokens * power[place], 0).sum(-1)


def repeated(tokens: Int[Tensor, "R T"], mask: Bool[Tensor, "R T"]) -> Float[Tensor, ""]:
    """1 − distinct/all n-grams of a row, n = GRAM, mean over the rows with one at least; NaN where none has.

    >>> row = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8]])  # 5 6 7 8 comes twice: 4 of its 5 are distinct
    >>> round(float(repeated(row, torch.ones_like(row).bool())), 3)
    0.2
    """
    last = tokens.shape[1] - GRAM + 1
    if last < 1:
        return torch.tensor(math.nan)
    gram, inside = torch.zeros_like(tokens[:, :last]), torch.ones_like(mask[:, :last])
    for shift in range(GRAM):
        gram = gram * _BASE + tokens[:, shift : shift + last]
        inside = inside & mask[:, shift : shift + last]
    gram = torch.where(inside, gram, _BASE).sort(-1).values  # equal ones side by side; what is outside is one value
    again = ((gram[:, 1:] == gram[:, :-1]) & (gram[:, 1:] != _BASE)).sum(-1)
    number = inside.sum(-1)
    return (again / number)[number > 0].mean()
