"""Worlds in which a model acts for several turns, and their names on the command line."""

from __future__ import annotations

from collections.abc import Callable

from tokenward.environments.ask import AskThenAnswer
from tokenward.environments.calculator import Calculator
from tokenward.environments.protocol import Environment

ENVIRONMENTS: dict[str, Callable[[], Environment]] = {"ask-then-answer": AskThenAnswer, "calculator": Calculator}
