"""TRPA: preference pairs by rule within a group of the policy's own answers, and a small KL to the old policy.

    tokenward train examples/recipes/trpa.py:trpa --model M --data prompts.jsonl --reward R --out DIR --group 16

The paper's rules give each answer a level (right; wrong in the right form; in no form). A reward function gives numbers
here, and the levels are its values, or steps of a given width: `width` 0 takes every difference for a level.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tokenward.objective.divergences import K2
from tokenward.objective.fields import ask
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.terms import LogRatio, PairTerm, TokenTerm
from tokenward.types import Batch, Signal, TokenStats


@final
@dataclass(frozen=True)
class LevelOrder:
    """1 where the first answer has the higher level, 0 where the second has, ½ in one level; level = ⌊score/width⌋."""

    width: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"score", "pairs"})
    reads: ClassVar[frozenset[str]] = frozenset()
    access: ClassVar[str] = "labels"

    def pairs(self, batch: Batch, stats: TokenStats, signal: Signal) -> Tensor:
        score, pairs = ask(batch, "score", by=self), ask(batch, "pairs", by=self)
        level = torch.floor(score / self.width) if self.width else score
        return (torch.sign(level[pairs[:, 0]] - level[pairs[:, 1]]) + 1) / 2


@final
@dataclass(frozen=True)
class Ordered:
    """−log σ(z) for target 1, −log σ(−z) for 0, and nothing for ½: answers of one level are not compared."""

    def __call__(self, z: Tensor, target: Tensor) -> Tensor:
        return torch.where(target == 0.5, torch.zeros_like(z), -logsigmoid(torch.where(target > 0.5, z, -z)))


def trpa(*, beta: float = 1.0, width: float = 0.0, kl_coef: float = 0.001) -> Recipe:
    """−log σ(β (lr_w/|w| − lr_l/|l|)) over all pairs of a group of which one has the higher level; + kl_coef·KL to old.

    lr = Σ_t log π/π_ref. The sum is divided by all pairs of the batch, those of one level among them. The KL is ½ log²ϱ
    per token, whose gradient is that of KL(π‖π_old) at the state. The coefficient .001 is the paper's; β is ours.
    """
    score = LogRatio("ref_logp", beta=beta, pool="mean")
    pair = PairTerm("trpa", score=score, link=Ordered(), target=LevelOrder(width))
    near = TokenTerm("kl_old", score=LogRatio("old_logp"), link=K2(), coef=kl_coef)
    return Recipe("trpa", (), (Stream("rollouts", group=2),), (pair, near) if kl_coef else (pair,))
