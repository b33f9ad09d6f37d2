"""Random batches on which every recipe can run, and the recipe settings under test."""

from __future__ import annotations

import torch

from tokenward.types import Batch, Signal, TokenStats

# Recipes in another form than their default, so that the laws hold for every placement of the KL and every aggregation.
VARIANTS: list[tuple[str, dict[str, float | str]]] = [
    ("ra", {"normalizer": "given"}),
    ("ra", {"normalizer": "mean_reward"}),
    ("ra", {"normalizer": "monte_carlo"}),
    ("ra", {"normalizer": "monte_carlo", "sampler": "reference"}),
    ("ra", {"normalizer": "monte_carlo", "sampler": "policy"}),
    ("rda", {"sampler": "policy"}),
    ("pra", {"labels": "draw", "link": "logistic"}),
    ("pra", {"labels": "hard", "link": "brier"}),
    ("pra", {"labels": "smoothed"}),
    ("pra", {"sampler": "policy", "labels": "smoothed", "label_temperature": 0.5}),
    ("bda", {"sampler": "policy-through"}),
    ("bda", {"direction": "forward"}),
    ("bda", {"direction": "forward", "sampler": "reference"}),
    ("bda", {"direction": "forward", "sampler": "data"}),
    ("bda", {"direction": "forward", "sampler": "target"}),
    ("f_dpo", {"divergence": "forward_kl"}),
    ("f_dpo", {"divergence": "reverse_kl"}),
    ("bco", {"point": "zero"}),
    ("mirror_descent", {"ratio": "token"}),
    ("rto", {"guide_clip": 0.05}),
    ("ppo", {"kl": "exact", "aggregation": "token_sum"}),
    ("rloo", {"kl": "loss_k2"}),
    ("rloo", {"aggregation": "sequence_mean"}),
    ("grpo", {"kl": "reward", "aggregation": "token_mean"}),
    ("reinforce", {"kl": "loss_k3"}),
]


def batch_of(*, seed: int = 0, groups: int = 3, per_group: int = 4, width: int = 9) -> Batch:
    """Groups of rows with a prompt, a hole of untrainable tokens in some rows, ragged lengths, pairs within groups."""
    gen = torch.Generator().manual_seed(seed)
    rows = groups * per_group
    length = torch.randint(5, width + 1, (rows,), generator=gen)
    column = torch.arange(width)
    prompt = torch.randint(1, 3, (rows, 1), generator=gen)
    mask = (column >= prompt) & (column < length[:, None])
    mask[::3, 3] = False  # a token the model did not write, between two that it did
    first = torch.arange(0, rows, 2)
    return Batch(
        tokens=torch.randint(0, 7, (rows, width), generator=gen),
        length=length,
        mask=mask,
        group=torch.arange(groups).repeat_interleave(per_group),
        weight=torch.rand(rows, generator=gen, dtype=torch.float64) + 0.5,
        score=torch.rand(rows, generator=gen, dtype=torch.float64),
        label=torch.randint(0, 2, (rows,), generator=gen).double(),
        reward=torch.randn(rows, width, generator=gen, dtype=torch.float64),
        pairs=torch.stack([first, first + 1], -1),
        pair_weight=torch.rand(len(first), generator=gen, dtype=torch.float64) + 0.5,
        pair_target=torch.rand(len(first), generator=gen, dtype=torch.float64),
        normalizer=torch.randn(rows, generator=gen, dtype=torch.float64),
        sampler_logp=-torch.randn(rows, width, generator=gen, dtype=torch.float64).abs(),
    )


def stats_of(batch: Batch, *, seed: int = 1, spread: float = 0.3) -> TokenStats:
    """Every field of TokenStats; log-ratios of standard deviation `spread`."""
    gen = torch.Generator().manual_seed(seed)
    shape = tuple(batch.tokens.shape)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=gen, dtype=torch.float64)

    base = -noise(*shape).abs()
    return TokenStats(
        logp=base + spread * noise(*shape),
        old_logp=base + spread * noise(*shape),
        ref_logp=base,
        guide_logp=base + spread * noise(*shape),
        guide_ref_logp=base + spread * noise(*shape),
        value=noise(*shape),
        old_value=noise(*shape),
        model_score=noise(shape[0]),
        entropy=noise(*shape).abs(),
        kl_ref=noise(*shape).abs(),
    )


def start_of(batch: Batch) -> Signal:
    """KTO's reference point, as the lab gives it."""
    return Signal(point=torch.full((batch.rows,), 0.1, dtype=torch.float64))
