"""How an update moves the parameters: along the gradient of the loss, or as far as a constraint allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tokenward.errors import InputError


@final
@dataclass(frozen=True)
class Gradient:
    """One optimizer step per update on the gradient of the loss."""


@final
@dataclass(frozen=True)
class ConstrainedStep:
    """Minimize the policy's terms L subject to mean KL(π_old‖π) ≤ `max_kl`: the step of TRPO.

    θ = θ_old − s·d,  d = (F + λI)⁻¹∇L,  s = √(2δ / dᵀ(F + λI)d), then s·`shrink`, s·`shrink`², … (`backtracks` trials)

    F: Fisher matrix at θ_old, λ `damping`; (F + λI)⁻¹ by `cg_steps` of conjugate gradient. The first trial whose
    *realized* KL is at most δ and whose L is lower is taken, and if none is, the policy stays. δ = `max_kl`: nats per
    token, exact over the vocabulary, a mean over the trainable tokens of the update's rows (weighted by row weight).
    A critic on weights of its own takes `critic_updates` steps of the optimizer. Source: Schulman et al. 2015; the
    defaults are those of Engstrom et al. 2020's code (whose policies act once per state), but for `shrink`: ours.
    """

    max_kl: float = 0.01
    cg_steps: int = 10
    damping: float = 0.1
    backtracks: int = 10
    shrink: float = 0.5
    critic_updates: int = 10

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be above 0" for name in ("max_kl", "cg_steps", "backtracks") if not getattr(self, name) > 0
        ]
        wrong += [f"{name} must be 0 or more" for name in ("damping", "critic_updates") if not getattr(self, name) >= 0]
        wrong += [] if 0 < self.shrink < 1 else ["shrink must lie between 0 and 1"]
        if wrong:
            raise InputError(f"{self}: {' and '.join(wrong)}")


Update = Gradient | ConstrainedStep
