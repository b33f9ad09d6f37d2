"""Ask, then answer: the prompt lacks the fact that the answer depends on; one question, the right one, brings it.

    lamp for mia . which box ?   →  ask size  →  it is small .  →  box small

Which attribute decides the box is a property of the item, the same everywhere; its value is a fact of the row, drawn
uniformly, and only a question tells it. A right box is worth 1, a wrong one 0, every turn before the box costs COST.
So the best policy earns BEST = 1 − COST, and the best one that never asks earns BLIND, one over the number of values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle, islice, product
from typing import Any, final

from tokenward.data.tokenize import Prompt
from tokenward.environments.protocol import Observation
from tokenward.errors import InputError

VALUES: dict[str, tuple[str, ...]] = {
    "size": ("small", "middle", "large", "huge"),
    "weight": ("light", "medium", "heavy", "massive"),
    "color": ("red", "green", "blue", "white"),
    "fabric": ("cotton", "silk", "wool", "linen"),
}
ITEMS: dict[str, str] = {  # item: the attribute that decides its box
    **dict.fromkeys(("lamp", "mirror", "table", "shelf"), "size"),
    **dict.fromkeys(("hammer", "kettle", "anvil", "drill"), "weight"),
    **dict.fromkeys(("pen", "candle", "crayon", "marble"), "color"),
    **dict.fromkeys(("shirt", "scarf", "coat", "glove"), "fabric"),
}
NAMES = tuple(
    "mia tom eva leo ana sam ida max lea ben amy joe zoe kim pat lou sue dan jim kay ali bob cat deb "
    "ed fay gus hal ira jo".split()
)
COST = 0.1
BEST, BLIND = 1 - COST, 0.25
UNKNOWN = "what ?"
RIGHT, OTHER = 0.4, 0.25  # of the demonstrations: shares that ask well, that ask about something else; the rest guess
SLIP = 0.1  # how often a demonstration boxes by another value than the one it was told

Row = dict[str, Any]


@final
class AskThenAnswer:
    """The environment: facts come from the columns of the prompt's row."""

    def start(self, prompt: Prompt, seed: int) -> Asking:
        del seed  # the row decides everything
        missing = [name for name in ("item", *VALUES) if name not in prompt.columns]
        if missing:
            raise InputError(f"row {prompt.where or prompt.id} lacks the columns {', '.join(missing)}")
        return Asking({name: str(prompt.columns[name]) for name in ("item", *VALUES)})


@final
class Asking:
    """One order."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts
        self.decides = ITEMS[facts["item"]]

    def reply(self, text: str) -> Observation:
        """`ask ATTRIBUTE` is answered, `box VALUE` ends the episode; anything else is not understood, and costs."""
        match text.split():
            case ["box", value]:
                right = float(value == self.facts[self.decides])
                return Observation(reward=right, done=True, counts={"right": right})
            case ["ask", attribute] if attribute in VALUES:
                well = float(attribute == self.decides)
                return Observation(
                    f"it is {self.facts[attribute]} .", reward=-COST, counts={"calls": 1.0, "calls_well": well}
                )
        return Observation(UNKNOWN, reward=-COST)


def prompt_rows(*, train: int, heldout: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Two lists of rows {"prompt", "item", an attribute: its value …} that share no item with its customer."""
    rng = random.Random(seed)
    orders = list(product(ITEMS, NAMES))
    if train + heldout > len(orders):
        raise InputError(f"ask-then-answer: {train} + {heldout} prompts asked of a world of {len(orders)} orders")
    rng.shuffle(orders)
    rows = [_row(item, name, rng) for item, name in orders[: train + heldout]]
    return rows[:train], rows[train:]


def _row(item: str, name: str, rng: random.Random) -> Row:
    text = f"{item} for {name} . which box ?"
    return {"prompt": text, "item": item, **{attribute: rng.choice(values) for attribute, values in VALUES.items()}}


def demonstrations(rows: Sequence[Row], *, count: int, seed: int) -> list[Row]:
    """{"prompt", "turns"} of a careless packer: some ask well, some ask something else, some guess; values slip."""
    rng = random.Random(seed)
    return [{"prompt": row["prompt"], "turns": _packed(_redrawn(row, rng), rng)} for row in islice(cycle(rows), count)]


def _redrawn(row: Row, rng: random.Random) -> Row:
    """The order with facts drawn anew: what an item's box is was another thing the last time."""
    return {**row, **{attribute: rng.choice(values) for attribute, values in VALUES.items()}}


def _packed(row: Row, rng: random.Random) -> list[dict[str, str]]:
    decides = ITEMS[row["item"]]
    draw = rng.random()
    other = rng.choice([attribute for attribute in VALUES if attribute != decides])
    asked = decides if draw < RIGHT else other if draw < RIGHT + OTHER else None
    told = asked == decides and rng.random() >= SLIP
    box = {"role": "assistant", "content": f"box {row[decides] if told else rng.choice(VALUES[decides])}"}
    if asked is None:
        return [box]
    question = {"role": "assistant", "content": f"ask {asked}"}
    return [question, {"role": "user", "content": f"it is {row[asked]} ."}, box]


def vocabulary() -> list[str]:
    """Every word of prompts, questions and answers, sorted."""
    words = {*"for . which box ? ask it is".split(), *UNKNOWN.split()}
    return sorted(words.union(ITEMS, NAMES, VALUES, *VALUES.values()))
