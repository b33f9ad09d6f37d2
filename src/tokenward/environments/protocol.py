"""What an environment is: it starts an episode from a prompt, and answers what the model writes, turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

from tokenward.data.tokenize import Prompt


@final
@dataclass(frozen=True)
class Observation:
    """What an environment answers to one turn.

    `text` goes to the model as tokens that carry no loss (not read when `done`) · `reward` of the turn, in reward units
    · `counts` are named numbers that are summed over the episode and logged (`{"calls": 1}`) · `role` is the speaker's
    name in a chat template.
    """

    text: str = ""
    reward: int | float = 0.0
    done: bool = False
    counts: Mapping[str, int | float] = field(default_factory=dict)
    role: str = "user"


@runtime_checkable
class Episode(Protocol):
    """One conversation, with whatever it has to remember."""

    def reply(self, text: str) -> Observation:
        """The answer to what the model wrote in this turn; `text` leaves special tokens out and is stripped."""
        ...


@runtime_checkable
class Environment(Protocol):
    """What episodes come from."""

    def start(self, prompt: Prompt, seed: int) -> Episode:
        """A fresh episode; `prompt.columns` are the columns of its row, `seed` decides everything random in it."""
        ...
