"""From the flags of `tokenward sample` to one search: which strategy reads which flag, and what it does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, final

from tokenward.errors import InputError
from tokenward.search.beam import Length, Places, beam_search
from tokenward.search.best_of_n import Best, best_of_n
from tokenward.search.budget import Budget, Progress
from tokenward.search.guided import By as GuideBy
from tokenward.search.guided import Take as GuideTake
from tokenward.search.guided import guided
from tokenward.search.leaves import Ends, Values
from tokenward.search.mcts import Backup, tree_search
from tokenward.search.mcts import Take as TreeTake
from tokenward.search.moves import Spans
from tokenward.search.problem import Answer, By, Problem, scale
from tokenward.search.telling import Show
from tokenward.search.vote import Extract, Weight, weighted_vote

Strategy = Literal["sample", "best-of-n", "vote", "beam", "mcts", "guided"]
Rank = Literal["reward", "likelihood", "implicit", "critic", "count"]
T = TypeVar("T")
Search = Callable[[Sequence[Any]], Answer[Any]]

ALL = ("best-of-n", "vote", "beam", "mcts", "guided")
READS: dict[str, tuple[str, ...]] = {  # who reads a flag; flags that all read are not named
    "n": ("sample", "best-of-n", "vote", "beam"),
    "by": ALL, "ref": ALL, "beta": ALL, "budget_tokens": ALL, "budget_seconds": ALL, "alternatives": ALL,
    "progress": ALL,
    "reward": ("sample", "best-of-n", "vote", "mcts", "guided"),
    "critic": ("mcts", "guided"), "branch": ("beam", "mcts", "guided"), "take": ("mcts", "guided"),
    "answer": ("vote",), "length": ("beam",), "places": ("beam",), "eta": ("guided",),
    "simulations": ("mcts",), "c_puct": ("mcts",), "backup": ("mcts",), "leaves": ("mcts",),
    "moves": ("mcts",), "spans": ("mcts",), "sentence_ends": ("mcts",),
    "temperature": ("sample",), "top_k": ("sample",), "top_p": ("sample",),
}  # fmt: skip
RANKS: dict[str, tuple[Rank, ...]] = {  # what each may rank by, the first unless another is given
    "best-of-n": ("reward", "likelihood", "implicit"),
    "vote": ("count", "reward", "implicit"),
    "beam": ("likelihood", "implicit"),
    "mcts": ("critic", "implicit", "reward"),
    "guided": ("critic", "implicit"),
}


@final
@dataclass(frozen=True)
class Asked:
    """What the flags say of a search; None: not given."""

    strategy: Strategy = "sample"
    n: int | None = None
    by: Rank | None = None
    reward: str | None = None
    ref: str | None = None
    critic: str | None = None
    proxy: str | None = None
    proxy_ref: str | None = None
    proxy_beta: float | None = None
    beta: float | None = None
    budget_tokens: int | None = None
    budget_seconds: float | None = None
    branch: int | None = None
    take: str | None = None
    answer: str | None = None
    length: Length | None = None
    places: Places | None = None
    eta: float | None = None
    simulations: int | None = None
    c_puct: float | None = None
    backup: Backup | None = None
    leaves: int | None = None
    moves: Literal["token", "sentence"] | None = None
    spans: int | None = None
    sentence_ends: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    alternatives: int | None = None
    progress: Show | None = None

    def __post_init__(self) -> None:
        """One line for every flag that the strategy would not read, or lacks."""
        wrong = [
            f"--{name.replace('_', '-')} belongs to {' and '.join(READS[name])}; {self.strategy} does not read it: "
            "leave it out"
            for name in (one.name for one in fields(self))
            if name in READS and getattr(self, name) is not None and self.strategy not in READS[name]
        ]
        if self.strategy == "guided" and self.take == "rerank" and self.eta is not None:
            wrong.append("--eta weighs the value against the policy; --take rerank does not read it: leave it out")
        wrong += list(self._ranked()) if self.strategy != "sample" else []
        if (self.proxy is None) != (self.proxy_ref is None) or (self.proxy is None and self.proxy_beta is not None):
            wrong.append("proxy tuning needs both models: give --proxy and --proxy-ref (and --proxy-beta)")
        if self.proxy is not None and self.strategy == "sample":
            wrong.append("a combination of models is drawn from by --strategy best-of-n --by likelihood --n 1")
        if wrong:
            raise InputError("\n".join(wrong))
        if self.beta is not None:
            scale(self.beta)

    @property
    def rank(self) -> Rank:
        """What the strategy ranks by."""
        return self.by or RANKS[self.strategy][0]

    def _ranked(self) -> list[str]:
        """What the criterion lacks, or leaves unread."""
        known, name = RANKS[self.strategy], self.strategy
        if self.rank not in known:
            more = (
                ": unfinished texts have no reward"
                if (name, self.rank) in {("beam", "reward"), ("guided", "reward")}
                else ""
            )
            return [f"{name} ranks by {', '.join(known)}, got --by {self.rank}{more}"]
        wrong = []
        if self.rank == "implicit" and self.ref is None and self.proxy is None:
            wrong.append(f"{name} by implicit reward compares with a reference: give --ref")
        if self.rank == "implicit" and self.ref is not None and self.proxy is not None:
            wrong.append("--ref is not read with --proxy: a combination is compared with its base; leave it out")
        if self.rank != "implicit" and self.ref is not None:
            wrong.append(
                f"--ref is read by --by implicit; {name} by {self.rank} does not compare with it: leave it out"
            )
        if self.rank == "reward" and self.reward is None:
            others = " or ".join(one for one in known if one != "reward")
            wrong.append(f"{name} by reward needs one: give --reward, or --by {others}")
        if self.reward is not None and self.rank not in ("reward", "critic"):
            wrong.append(f"--reward is not read by {name} by {self.rank}: leave it out")
        if name in READS["critic"] and self.rank == "critic" and self.critic is None:
            others = " or ".join(f"--by {one}" for one in known if one != "critic")
            wrong.append(f"{name} by critic needs --critic; or give {others}")
        if name in READS["critic"] and self.rank != "critic" and self.critic is not None:
            wrong.append(f"--critic is read by --by critic; {name} by {self.rank} does not read it: leave it out")
        if name == "vote" and self.answer is None:
            wrong.append(
                "vote compares final answers: give --answer REGEX (its first group, or its match) or FILE.py:function"
            )
        if self.beta is not None and (name, self.rank) == ("vote", "implicit"):
            wrong.append("vote by implicit reward weighs by π/π_ref, whatever --beta is: leave it out")
        elif self.beta is not None and self.rank != "implicit" and (name, self.rank) != ("vote", "reward"):
            wrong.append(f"--beta scales the implicit reward; {name} by {self.rank} does not read it: leave it out")
        if name == "mcts" and self.moves != "sentence" and self.spans is not None:
            wrong.append("--spans counts the sentences tried at each step: give --moves sentence too")
        if name == "mcts" and self.moves != "sentence" and self.sentence_ends is not None:
            wrong.append("--sentence-ends names what ends a sentence that is a move: give --moves sentence too")
        return wrong

    @property
    def limit(self) -> Budget | None:
        """The budget of each prompt."""
        if self.budget_tokens is None and self.budget_seconds is None:
            return None
        return Budget(self.budget_tokens, self.budget_seconds)


def search_of(
    asked: Asked,
    problem: Problem[Any, Any],
    *,
    seed: int,
    extract: Extract | None,
    ends: frozenset[int],
    tell: Progress,
) -> Search:
    """The search that was asked for, of one list of prompts; `ends`: tokens that end a sentence."""
    makers = {"best-of-n": _best_of_n, "vote": _vote, "beam": _beam, "mcts": _mcts, "guided": _guided}
    return makers[asked.strategy](asked, problem, {"budget": asked.limit, "tell": tell}, seed, extract, ends)


def _best_of_n(asked: Asked, problem: Any, shared: dict[str, Any], seed: int, *_: Any) -> Search:
    by: Best = asked.rank  # type: ignore[assignment]  # Asked has checked it
    beta, n = _given(asked.beta, 1.0), _given(asked.n, 8)
    return lambda prompts: best_of_n(problem, prompts, n=n, by=by, beta=beta, seed=seed, **shared)


def _vote(asked: Asked, problem: Any, shared: dict[str, Any], seed: int, extract: Extract | None, _: Any) -> Search:
    assert extract is not None  # Asked has checked it
    weight: Weight = asked.rank  # type: ignore[assignment]
    beta, n = _given(asked.beta, 1.0), _given(asked.n, 8)
    return lambda prompts: weighted_vote(
        problem, prompts, n=n, extract=extract, weight=weight, beta=beta, seed=seed, **shared
    )


def _beam(asked: Asked, problem: Any, shared: dict[str, Any], *_: Any) -> Search:
    by: By = asked.rank  # type: ignore[assignment]
    beta, width = _given(asked.beta, 1.0), _given(asked.n, 4)
    length, places = asked.length or "sum", asked.places or "shared"
    return lambda prompts: beam_search(
        problem, prompts, width=width, by=by, beta=beta, length=length, places=places, **shared
    )


def _mcts(asked: Asked, problem: Any, shared: dict[str, Any], seed: int, _: Any, ends: frozenset[int]) -> Search:
    values: Values = {"critic": "critic", "implicit": "implicit", "reward": "rollout"}[asked.rank]  # type: ignore[assignment]
    known: tuple[TreeTake, ...] = ("visited", "best")
    take: TreeTake = _one_of(known, asked.take, "mcts")
    end: Ends = "critic" if values == "critic" and asked.reward is None else "score"
    if asked.moves == "sentence":
        problem = Spans(problem, ends=ends, count=_given(asked.spans, 4), seed=seed)
    return lambda prompts: tree_search(
        problem, prompts, simulations=_given(asked.simulations, 16), values=values, ends=end,
        c=_given(asked.c_puct, 1.25), backup=asked.backup or "mean", beta=_given(asked.beta, 1.0),
        leaves=_given(asked.leaves, 4), take=take, seed=seed, **shared,
    )  # fmt: skip


def _guided(asked: Asked, problem: Any, shared: dict[str, Any], seed: int, *_: Any) -> Search:
    by: GuideBy = asked.rank  # type: ignore[assignment]
    known: tuple[GuideTake, ...] = ("argmax", "sample", "rerank")
    take: GuideTake = _one_of(known, asked.take, "guided")
    end: Ends = "critic" if asked.reward is None else "score"
    eta, beta = _given(asked.eta, 1.0), _given(asked.beta, 1.0)
    return lambda prompts: guided(problem, prompts, by=by, take=take, eta=eta, beta=beta, ends=end, seed=seed, **shared)


def _given(value: T | None, default: T) -> T:
    """What was given, 0 too: it is refused where it is used."""
    return default if value is None else value


def _one_of(known: tuple[Any, ...], given: str | None, name: str) -> Any:
    if given is not None and given not in known:
        raise InputError(f"--take of {name} is {', '.join(known)}, got {given}")
    return given or known[0]
