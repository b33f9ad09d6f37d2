"""The pairs of the study: texts of one law or of two, oriented by draws on the reward, or by who wrote them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, fsum
from statistics import fmean
from typing import final

from tokenward.demo.measure import Bench
from tokenward.errors import InputError
from tokenward.rollout.rewards import completion_text
from tokenward.rollout.sampler import Law
from tokenward.types import Rollout

Row = dict[str, str | float]


@final
@dataclass(frozen=True)
class Texts:
    """Texts of one law with their true rewards, prompt by prompt."""

    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rewards: tuple[tuple[float, ...], ...]

    @property
    def mean_reward(self) -> float:
        return fmean(reward for row in self.rewards for reward in row)


def readable(bench: Bench, rollout: Rollout) -> bool:
    """Whether the text ends by itself and its words are its tokens, so that a file of it gives the same tokens back.

    Leaving the others out conditions each law on one set of texts: ratios of laws on that set change by a constant.
    """
    return rollout.finish == "stop" and len(rollout.response_tokens) > 1 and bench.marks(rollout) is not None


def draw(bench: Bench, *, prompts: int, each: int, temperature: float, seed: int) -> Texts:
    """`each` texts of the SFT policy at a temperature for each of the first prompts; unreadable ones are left out."""
    asked = bench.prompts[:prompts]
    rollouts = bench.samples(bench.reference, prompts=asked, each=each, seed=seed, law=Law(temperature=temperature))
    texts: list[list[str]] = [[] for _ in asked]
    rewards: list[list[float]] = [[] for _ in asked]
    for number, rollout in enumerate(rollouts):
        if rollout.score is not None and readable(bench, rollout):
            texts[number // each].append(
                completion_text(bench.tokenizer, rollout.prompt_tokens, rollout.response_tokens)
            )
            rewards[number // each].append(rollout.score)
    return Texts(tuple(p.text for p in asked), tuple(map(tuple, texts)), tuple(map(tuple, rewards)))


def preferred(drawn: Texts, *, seed: int) -> list[Row]:
    """Texts 2k and 2k+1 of each prompt, the chosen one drawn with P(first) = σ(r_first − r_second); scores beside."""
    rng = random.Random(seed)
    rows = from_two(*halves(drawn))
    return [row if rng.random() < _sigmoid(gap) else _turned(row) for row, gap in zip(rows, _gaps(rows), strict=True)]


def halves(drawn: Texts) -> tuple[Texts, Texts]:
    """Each prompt's texts 0, 2, 4 … and 1, 3, 5 …: two sets of one law."""
    one, two = (
        Texts(
            drawn.prompts,
            tuple(texts[start::2] for texts in drawn.texts),
            tuple(rewards[start::2] for rewards in drawn.rewards),
        )
        for start in (0, 1)
    )
    return one, two


def from_two(chosen: Texts, rejected: Texts) -> list[Row]:
    """Text k of one law chosen over text k of another, whatever they say: independent given the prompt."""
    if chosen.prompts != rejected.prompts:
        raise InputError("pairs from two laws need the same prompts in the same order")
    return [
        {"prompt": prompt, "chosen": good, "rejected": bad, "score_chosen": high, "score_rejected": low}
        for prompt, *columns in zip(
            chosen.prompts, chosen.texts, rejected.texts, chosen.rewards, rejected.rewards, strict=True
        )
        for good, bad, high, low in zip(*columns, strict=False)
        if good.split() != bad.split()
    ]


def softened(rows: Sequence[Row]) -> list[Row]:
    """The same pairs with P(chosen is preferred) = σ(r_w − r_l) beside them."""
    return [{**row, "target": _sigmoid(gap)} for row, gap in zip(rows, _gaps(rows), strict=True)]


def ipo_scale(rows: Sequence[Row]) -> float:
    """IPO's β per unit of τ at which P_μ/β is the best linear fit of r/τ: E[(σ(Δ) − ½)Δ]/E[Δ²] over pairs of μ⊗μ.

    Both members of a pair are draws of μ, so the numerator is 2 Cov(P_μ(y), r(y)) within a prompt and the denominator
    2 Var(r): their ratio is the least-squares slope of P_μ(y) = E_{y′~μ} σ(r(y) − r(y′)) on r. Derived here.

    >>> round(ipo_scale([{"score_chosen": 0.001, "score_rejected": 0.0}]), 6)  # σ′(0) = ¼ where all gaps are small
    0.25
    """
    gaps = list(_gaps(rows))
    return fsum((_sigmoid(gap) - 0.5) * gap for gap in gaps) / fsum(gap**2 for gap in gaps)


def _gaps(rows: Sequence[Row]) -> Iterator[float]:
    return (float(row["score_chosen"]) - float(row["score_rejected"]) for row in rows)


def _turned(row: Row) -> Row:
    other = {"chosen": "rejected", "rejected": "chosen"}
    other |= {f"score_{one}": f"score_{two}" for one, two in other.items()}
    return {name: row[other.get(name, name)] for name in row}


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > -500 else 0.0
