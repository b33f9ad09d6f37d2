"""Products with the Fisher matrix of a policy at its tokens: exact, and without the matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenward.masking import row_sum
from tokenward.models.forward import Scorer
from tokenward.models.frozen import pieces
from tokenward.types import Batch, take


def fisher_product(
    policy: Scorer,
    batch: Batch,
    vector: Float[Tensor, " N"],
    *,
    weight: Float[Tensor, " B"],
    temperature: float = 1.0,
    micro_tokens: int = 16384,
) -> Float[Tensor, " N"]:
    """F v, F = Σ_rows w Σ_t E_{a~π(·|s_t)}[∇log π ∇log πᵀ], over the weights that train, in their order.

    Twice backward through KL(π_old‖π) at π = π_old, whose Hessian is F: over all tokens of the vocabulary, not only
    the sampled one. Attention runs unfused meanwhile, as the fused kernels have no second derivative. Sums over pieces
    of at most `micro_tokens` padded tokens, and of no more than fit the head at once.
    """
    found, fields = torch.zeros_like(vector), frozenset({"kl_of_old"})
    most = min(micro_tokens, max(1, policy.chunk_floats // policy.vocabulary))
    moving = trained(policy)
    for rows in pieces(batch.length, micro_tokens=most):
        part = take(batch, rows, width=max(int(batch.length[rows].max()), 1))
        if not bool(part.mask.any()):
            continue
        with torch.enable_grad():
            with sdpa_kernel(SDPBackend.MATH):
                divergence = policy(part, fields=fields, temperature=temperature, old=policy).kl_of_old
            total = (weight[rows] * row_sum(divergence, part.mask)).sum()
            slopes = torch.autograd.grad(total, moving, create_graph=True, materialize_grads=True)
            along = flat(slopes) @ vector
            found += flat(torch.autograd.grad(along, moving, materialize_grads=True))
    return found


def trained(policy: Scorer) -> list[torch.nn.Parameter]:
    """The weights that train, in the order of `flat` vectors."""
    return [p for p in policy.parameters() if p.requires_grad]


def flat(parts: tuple[Tensor, ...] | list[Tensor]) -> Float[Tensor, " N"]:
    """One vector of many tensors."""
    return torch.cat([part.reshape(-1) for part in parts])


@torch.no_grad()
def move(policy: Scorer, direction: Float[Tensor, " N"], *, by: float) -> None:
    """θ += by·direction, over the weights that train."""
    start = 0
    for parameter in trained(policy):
        part = direction[start : start + parameter.numel()]
        parameter.add_(part.view_as(parameter).to(parameter.dtype), alpha=by)
        start += parameter.numel()
