"""A writer of habits: whose errors are as likely as the truth, so that likelihood cannot tell them apart."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tokenward.data import world_rows
from tokenward.data.world import FACTS, words_of

HABITS = {"color": "black", "item": "lamp", "event": "late"}  # what the writer says where it does not look
LAPSE = 0.5  # how often it does not


def habit_rows(prompts: Sequence[Mapping[str, str]], *, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"}: the texts of the built-in writer, each stated fact right or, with LAPSE, the habit.

    The built-in writer errs rarely, and each time anew among ten values or more: its wrong words are rare words. This
    one says the same wrong word each time, and as often as the right one.
    """
    rng = random.Random(seed)
    rows = []
    for number, row in enumerate(world_rows.sft_rows([dict(one) for one in prompts], count=count, seed=seed)):
        facts = prompts[number % len(prompts)]
        said = [_said(word, facts, rng) for word in words_of(row["completion"])]
        rows.append({"prompt": row["prompt"], "completion": " ".join(said)})
    return rows


def _said(word: str, facts: Mapping[str, str], rng: random.Random) -> str:
    """The word; a stated fact anew."""
    name = next((name for name, values in FACTS.items() if word in values), None)
    if name is None:
        return word
    return HABITS[name] if rng.random() < LAPSE else facts[name]
