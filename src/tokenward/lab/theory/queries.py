"""How many answers must be scored to find the best one: rewards at every token against one reward of the answer.

Zhong et al. 2024, Proposition 3.2, as we read it: where some answer has π*(y) ≥ A^−ξ, token rewards log π*(y_h|·) need
A^min(ξ+1, H) answers, one reward of the answer A^H. The count of the proof is of prefixes: a *heavy* one has
π* ≥ A^−ξ, a *light* one is the first on its way that has less; every answer scored reveals a new light prefix or a new
heavy answer. Derived here: there are 1 + (A−1)·Σ_{h<H} |heavy prefixes of length h| ≤ 1 + (A−1)·H·A^ξ of them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.worlds.tree import Tree

MOST_ANSWERS = 9  # in a game that is searched


@final
@dataclass(frozen=True)
class Count:
    """What one scored answer after another can reveal, and the three counts that it is compared with."""

    revealed: int
    claimed: float
    corrected: int
    bound: float


def count(tree: Tree, law: Float[Tensor, " L"]) -> Count:
    """The count on a tree without end token, ξ from the likeliest answer: A^−ξ = max π*.

    >>> import torch
    >>> from tokenward.lab.worlds.tree import grow
    >>> one_answer = torch.eye(8, dtype=torch.float64)[3]
    >>> count(grow(vocab=2, horizon=3, eos=None), one_answer)
    Count(revealed=4, claimed=2.0, corrected=4, bound=4.0)
    """
    least = float(law.max()) * (1 - 1e-12)  # the likeliest answer itself is heavy
    spread = -math.log(float(law.max())) / math.log(tree.vocab)
    heavy = (tree.visitation(law[None])[0] >= least).nonzero().flatten().tolist()
    after = [(int(tree.child[s, a]), int(tree.leaf[s, a])) for s in heavy for a in range(tree.vocab)]
    revealed = sum(child not in heavy if child >= 0 else True for child, _ in after)
    return Count(
        revealed=revealed,
        claimed=float(tree.vocab ** min(spread + 1, tree.horizon)),
        corrected=1 + (tree.vocab - 1) * len(heavy),
        bound=1.0 + (tree.vocab - 1) * tree.horizon * tree.vocab**spread,
    )


def forced(*, vocab: int, horizon: int, shown: Literal["tokens", "answer"]) -> int:
    """Answers that an adversary forces before a deterministic π* is known, by search of the whole game.

    "tokens": a score shows the first wrong token; "answer": only whether all are right. At most 9 answers in all.

    >>> forced(vocab=2, horizon=3, shown="tokens"), forced(vocab=2, horizon=3, shown="answer")
    (3, 7)
    """
    if vocab**horizon > MOST_ANSWERS:
        raise InputError(
            f"a game of {vocab}^{horizon} = {vocab**horizon} answers is too large to search; at most {MOST_ANSWERS}"
        )
    answers = list(itertools.product(range(vocab), repeat=horizon))

    def seen(asked: tuple[int, ...], truth: tuple[int, ...]) -> int:
        if shown == "answer":
            return int(asked == truth)
        return next((h for h in range(horizon) if asked[h] != truth[h]), horizon)

    @cache
    def left(possible: frozenset[tuple[int, ...]]) -> int:
        if len(possible) == 1:
            return 0
        worst = []
        for asked in answers:
            kinds: dict[int, set[tuple[int, ...]]] = {}
            for truth in possible:
                kinds.setdefault(seen(asked, truth), set()).add(truth)
            if len(kinds) > 1:  # else it tells nothing
                worst.append(1 + max(left(frozenset(rest)) for rest in kinds.values()))
        return min(worst)

    return left(frozenset(answers))
