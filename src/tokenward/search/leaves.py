"""What a state is worth to a tree search: a critic's word, the implicit reward so far, or the end of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, final, runtime_checkable

from tokenward.errors import InputError
from tokenward.search.best_of_n import sample
from tokenward.search.budget import Meter
from tokenward.search.moves import Spanned, Spans, onward
from tokenward.search.problem import Moves, Path, Problem, own_seed, scale

T = TypeVar("T")
Values = Literal["critic", "implicit", "rollout"]
Ends = Literal["score", "critic"]


@runtime_checkable
class Judged(Protocol):
    """A state with its path, that is to have a value."""

    path: Path[Any]
    ended: bool
    value: float | None


@final
@dataclass
class Leaf:
    """How leaves are judged.

    `values` of unfinished texts: "critic" V(s), what the text is expected to score in the end, less what its KL will
    cost if the critic was trained with one · "implicit" β Σ_{t<|s|} log π/π_ref = V*(s) − V*(s₀) where π is optimal
    and the reward comes at the end (Rafailov et al. 2024, Eq. 10 summed) · "rollout" the score of one text that the
    policy writes on from there, with the tokens that the problem offers. `ends`, of finished texts (not read under
    "implicit", which goes on to the last token): "score" the problem's reward, "critic" V of the state before the last
    token. Values are in reward units.
    """

    values: Values
    ends: Ends
    beta: float
    seed: int
    drawn: int = 0

    def __post_init__(self) -> None:
        if self.values == "implicit":
            scale(self.beta)
        if self.values == "rollout" and self.ends == "critic":
            raise InputError("rollouts end in texts that are scored: give a reward, or values by critic or implicit")


def worth(
    problem: Problem[Any, Any],
    nodes: Sequence[tuple[Judged, Judged | None]],
    moves: Moves | None,
    how: Leaf,
    meter: Meter,
) -> None:
    """Set the value of each (node, its parent); `moves` are those of the unfinished ones, in their order."""
    if how.values == "implicit":
        for node, _ in nodes:
            node.value = node.path.total(by="implicit", beta=how.beta)
        return
    done = [(node, parent) for node, parent in nodes if node.ended]
    if how.ends == "score" and done:
        scores = problem.score([node.path.state for node, _ in done])
        for (node, _), score in zip(done, scores, strict=True):
            node.value = score
    elif how.ends == "critic":
        for node, parent in done:
            node.value = before_the_end(node.path.state, None if parent is None else parent.value)
    going = [node for node, _ in nodes if not node.ended]
    if not going:
        return
    if how.values == "critic":
        given = critic_values(moves)
    else:
        how.drawn += 1
        states = [node.path.state for node in going]
        given, forwarded = rollout_values(problem, states, seed=own_seed(how.seed, "rollouts", how.drawn))
        meter.read(forwarded)
    for node, value in zip(going, given, strict=True):
        node.value = value


def before_the_end(state: Any, parent: T) -> float | T:
    """V of the state before a finished text's last token: its parent's, or that within its last span."""
    return state.before if isinstance(state, Spanned) and state.before is not None else parent


def critic_values(moves: Moves | None) -> list[float]:
    """V of each state that was read, or one line where nothing gives one."""
    if moves is None or moves.value is None:
        raise InputError("values by critic need one; give --critic, or values by implicit or rollout")
    return [float(value) for value in moves.value.tolist()]


def rollout_values(problem: Problem[Any, Any], states: Sequence[Any], *, seed: int) -> tuple[list[float], int]:
    """The score of one text written on from each state by the policy, token by token, and the tokens read for it."""
    if isinstance(problem, Spans):
        problem, states = problem.problem, [state.path.state for state in states]
    paths, forwarded = sample(onward(problem), states, seed=seed)
    return problem.score([path.state.inner for path in paths]), forwarded
