"""Random batches on which every recipe can run, and the recipe settings under test."""

from __future__ import annotations

import torch

from tokenward.objective.recipe import Recipe
from tokenward.types import Batch, Signal, TokenStats

# Recipes in another form than their default, so that the laws hold for every placement of the KL and every aggregation.
VARIANTS: list[tuple[str, dict[str, float | str | None]]] = [
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
    ("mirror_descent", {"ratio": "token", "kl_old": "exact"}),
    ("rto", {"guide_clip": 0.05}),
    ("rto", {"placement": "sentence", "beta_score": 0.5}),
    ("rto", {"placement": "end"}),
    ("rto", {"placement": "residual", "guide_clip": 0.02}),
    ("drto", {"atoms": "span", "rho": 0.3}),
    ("drto", {"divergence": "chi2", "rho": 0.5, "nominal": "uniform"}),
    ("drto", {"divergence": "chi2_bound", "rho": 0.05}),
    ("drto", {"robust_eta": 2.0, "placement": "sentence"}),
    ("ppo", {"kl": "exact", "aggregation": "token_sum"}),
    ("ppo", {"clip": None, "reward_scale": "std", "reward_clip": 1.5}),
    ("ppo", {"dual_clip": 3.0, "kl_target": 0.5, "kl_horizon": 40.0}),
    ("ppo_max", {"ptx_coef": 0.3, "advantage_clip": 0.9}),
    ("rloo", {"kl": "loss_k2"}),
    ("rloo", {"aggregation": "sequence_mean"}),
    ("grpo", {"kl": "reward", "aggregation": "token_mean"}),
    ("grpo", {"std": "unbiased"}),
    ("dr_grpo", {"kl": "loss_k2", "beta_kl": 0.1}),
    ("dapo", {"overlong_max": 5.0, "overlong_buffer": 3.0}),
    ("gspo", {"ratio": "token", "clip_low": 0.1}),
    ("cispo", {"kl": "reward", "beta_kl": 0.1, "aggregation": "sequence_mean"}),
    ("reinforce_pp", {"credit": "last_token"}),
    ("reinforce_pp_baseline", {"kl": "exact", "beta_kl": 0.1}),
    ("reinforce", {"kl": "loss_k3"}),
    ("online_dpo", {"labels": "hard"}),
    ("online_dpo", {"link": "ipo"}),
    ("online_dpo", {"link": "hinge", "label_temperature": 0.5}),
    ("xpo", {"alpha": 0.0}),
    ("xpo", {"alpha": 0.3, "labels": "hard"}),
    ("nash_md", {"mixture": 0.0}),
    ("nash_md", {"kl": "loss_k2"}),
    ("remax", {"kl": "exact", "aggregation": "token_sum"}),
]


def batch_of(
    recipe: Recipe | None = None, *, seed: int = 0, groups: int = 3, per_group: int = 4, width: int = 9
) -> Batch:
    """Groups of rows with a prompt, a hole of untrainable tokens in some rows, ragged lengths, pairs within groups.

    The rows of a recipe of several streams belong to them in turn, so that its pairs are between the first two.
    """
    gen = torch.Generator().manual_seed(seed)
    rows = groups * per_group
    length = torch.randint(5, width + 1, (rows,), generator=gen)
    column = torch.arange(width)
    prompt = torch.randint(1, 3, (rows, 1), generator=gen)
    mask = (column >= prompt) & (column < length[:, None])
    mask[::3, 3] = False  # a token the model did not write, between two that it did
    first = torch.arange(0, rows, 2)
    streams = 1 if recipe is None else len(recipe.streams)
    return Batch(
        tokens=torch.randint(0, 7, (rows, width), generator=gen),
        length=length,
        mask=mask,
        group=torch.arange(groups).repeat_interleave(per_group),
        weight=torch.rand(rows, generator=gen, dtype=torch.float64) + 0.5,
        score=torch.rand(rows, generator=gen, dtype=torch.float64),
        origin=torch.arange(rows) % streams if streams > 1 else None,
        label=torch.randint(0, 2, (rows,), generator=gen).double(),
        reward=torch.randn(rows, width, generator=gen, dtype=torch.float64),
        segment=(torch.arange(width) // 3).expand(rows, -1).contiguous(),
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
        kl_old=noise(*shape).abs(),
    )


def start_of(batch: Batch) -> Signal:
    """KTO's reference point, as the lab gives it."""
    return Signal(point=torch.full((batch.rows,), 0.1, dtype=torch.float64))
