"""The two worlds as their stories need them: rows, words, what is best, and how to speak of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from tokenward.environments import ask, calculator

Row = dict[str, Any]


@runtime_checkable
class PromptRows(Protocol):
    """Training and held-out prompts of a world."""

    def __call__(self, *, train: int, heldout: int, seed: int) -> tuple[list[Row], list[Row]]: ...


@runtime_checkable
class Demonstrations(Protocol):
    """Trajectories of the world's careless demonstrator."""

    def __call__(self, rows: Sequence[Row], *, count: int, seed: int) -> list[Row]: ...


@final
@dataclass(frozen=True)
class World:
    """`best` and `blind` in reward units: the best policy's reward, and the best one's that never calls.

    `act` names what a good policy learns to do (a call that helps), `about` is one sentence on the world,
    `transitions` says whether its answers are random given what was written, and what that means for DPO.
    """

    name: str
    title: str
    question: str
    about: str
    act: str
    best: float
    blind: float
    best_why: str
    transitions: str
    prompt_rows: PromptRows
    demonstrations: Demonstrations
    vocabulary: Callable[[], list[str]]


def worlds() -> dict[str, World]:
    """Both, by the name of their environment and study."""
    return {world.name: world for world in (_asking(), _calculating())}


def _asking() -> World:
    return World(
        name="ask-then-answer",
        title="Ask, then answer",
        question=(
            "The prompt lacks the fact that the answer depends on, and asking costs a little. Do policies trained "
            "on the reward of whole episodes learn to ask the right question first?"
        ),
        about=(
            f"{len(ask.ITEMS)} items, each with one of {len(ask.VALUES)} attributes that decides its box; its "
            f"value is one of {len(next(iter(ask.VALUES.values())))}, drawn uniformly, and only asking tells it. "
            f"Right box 1, wrong 0, each turn before the box −{ask.COST:g}"
        ),
        act="asks the right question",
        best=ask.BEST,
        blind=ask.BLIND,
        best_why=f"one right question and the right box: 1 − {ask.COST:g}; never asking: one value in four",
        transitions=(
            "Answers are random given what was written (the facts are hidden), so even the optimal policy's "
            "Σ β log π*/π_ref of an episode is not its reward less the prompt's value: the luck of each answer, "
            "E[V*(s′)] − V*(s′), stands beside it (Zhong et al. 2024, Eq. 4.3), and a lucky guess wins a pair like "
            "a deserved box. What DPO learns from episodes is the ratio of what the model wrote; the environment's "
            "part cancels."
        ),
        prompt_rows=ask.prompt_rows,
        demonstrations=ask.demonstrations,
        vocabulary=ask.vocabulary,
    )


def _calculating() -> World:
    return World(
        name="calculator",
        title="Use a calculator",
        question=(
            "A product is asked for that a small model cannot compute, and a calculator costs a little. Do "
            "policies trained on the reward of whole episodes learn to call it, with the right numbers, and to "
            "trust it?"
        ),
        about=(
            "three digits times one; the product has four digits. Right answer 1, wrong 0, each turn before the "
            f"answer −{calculator.COST:g}"
        ),
        act="makes the right call",
        best=calculator.BEST,
        blind=calculator.blind(),
        best_why=(
            f"one call and its result copied: 1 − {calculator.COST:g} (whoever multiplies in the head would earn "
            "1); never calling: the likeliest product, given the second number and the last digit of the first"
        ),
        transitions=(
            "Answers are determined by what was written, so the implicit reward of the optimal policy telescopes "
            "as it does for one turn: Σ β log π*/π_ref of an episode is its reward less the prompt's value. What "
            "DPO learns from episodes is the ratio of what the model wrote; the environment's part cancels."
        ),
        prompt_rows=calculator.prompt_rows,
        demonstrations=calculator.demonstrations,
        vocabulary=calculator.vocabulary,
    )
