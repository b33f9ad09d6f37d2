"""Rows of the built-in world: prompts, texts of a careless writer, strings said twice, labeled pairs; all seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from math import exp
from typing import Literal

from tokenward.data.world import FACTS, NEUTRAL, PROMPTS, STATEMENTS, VALENCE, vocabulary
from tokenward.errors import InputError

WRONG, TWICE = 0.2, 0.15  # how often the writer of the SFT texts gets a fact wrong, or says a sentence twice
LONGEST = 24  # words of an SFT text, at most
COPY_LENGTH = (4, 12)  # words of a string that is said twice


def prompt_rows(*, train: int, heldout: int, seed: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Two lists of prompt rows {"prompt", "color", "item", "event"} that share no combination of facts."""
    rng = random.Random(seed)
    facts = [dict(zip(FACTS, values, strict=True)) for values in product(*FACTS.values())]
    if train + heldout > len(facts):
        raise InputError(f"prompt_rows: {train} + {heldout} prompts asked of a world of {len(facts)} fact combinations")
    rng.shuffle(facts)
    rows = [{"prompt": rng.choice(PROMPTS).format(**f), **f} for f in facts[: train + heldout]]
    return rows[:train], rows[train:]


def sft_rows(prompts: Sequence[dict[str, str]], *, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"} by a writer who draws a share WRONG of the facts anew and says some sentences twice."""
    rng = random.Random(seed)
    return [{"prompt": row["prompt"], "completion": _write(row, rng)} for row in _cycle(prompts, count)]


def _cycle(prompts: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    return [prompts[i % len(prompts)] for i in range(count)]


def _write(row: dict[str, str], rng: random.Random) -> str:
    """A text of at most LONGEST words; longer drafts are thrown away."""
    while len((text := _draft(row, rng)).split()) > LONGEST:
        pass
    return text


def _draft(row: dict[str, str], rng: random.Random) -> str:
    sentences = rng.sample(STATEMENTS, rng.choice((1, 2, 2)))
    sentences += rng.sample(list(VALENCE), rng.choice((1, 1, 2)))
    sentences += [rng.choice(NEUTRAL)] if rng.random() < 0.2 else []
    if rng.random() < TWICE:
        sentences.append(rng.choice(sentences))
    return " ".join(_fill(s, row, rng) for s in sentences)


def _fill(sentence: str, row: dict[str, str], rng: random.Random) -> str:
    said = {name: rng.choice(values) if rng.random() < WRONG else row[name] for name, values in FACTS.items()}
    return sentence.format(**said)


def copy_rows(*, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"} of random words said twice: what teaches a small model to look back and copy."""
    rng = random.Random(seed)
    words = vocabulary()
    rows = []
    for _ in range(count):
        text = " ".join(rng.choices(words, k=rng.randint(*COPY_LENGTH)))
        rows.append({"prompt": f"{text} :", "completion": text})
    return rows


def pair_rows(
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    rewards: Sequence[Sequence[float]],
    *,
    labels: Literal["bradley_terry", "coin"],
    seed: int,
) -> list[dict[str, str]]:
    """{"prompt", "chosen", "rejected"}: completions 2k and 2k+1 of each prompt, one drawn as the winner.

    P(first wins) = σ(r_first − r_second) for "bradley_terry". For "coin" it is ½, tossed in antithetic twos: of two
    pairs with neighboring reward gaps one label follows the truth and one does not, so that no information is left in
    the labels even by chance. Equal texts and empty ones are left out.
    """
    rng = random.Random(seed)
    pairs = []
    for prompt, texts, values in zip(prompts, completions, rewards, strict=True):
        for i in range(0, len(texts) - 1, 2):
            better, worse = (i, i + 1) if values[i] >= values[i + 1] else (i + 1, i)
            if texts[i].split() != texts[i + 1].split() and texts[i].strip() and texts[i + 1].strip():
                pairs.append((values[better] - values[worse], prompt, texts[better], texts[worse]))
    if labels == "coin":
        order = sorted(range(len(pairs)), key=lambda k: pairs[k][0])
        tosses = [side for _ in range(0, len(pairs), 2) for side in rng.sample((True, False), 2)]
        follows = dict(zip(order, tosses, strict=False))
    else:
        follows = {k: rng.random() < 1 / (1 + exp(-gap)) for k, (gap, *_) in enumerate(pairs)}
    return [
        {"prompt": prompt, "chosen": good if follows[k] else bad, "rejected": bad if follows[k] else good}
        for k, (_, prompt, good, bad) in enumerate(pairs)
    ]
