"""Monte-Carlo tree search over a problem's moves (PUCT), many prompts in step, leaves read together.

At each state on the way down the move with the largest

    Q̄(s,a) + c·P(a|s)·√N(s) / (1 + N(s,a)),    N(s) = 1 + Σ_a N(s,a)

is taken (AlphaZero: Silver et al. 2018, with a constant c; the visit that opened a state counts in N(s), so the prior
decides from the first step on). P is the policy over the moves on offer. Q̄ is the mean of the values backed up through
the move (or the largest: where nothing is left to chance, a text once found can be had), put on [0, 1] by the least and
largest value met in this prompt's tree (MuZero: Schrittwieser et al. 2020, Eq. 5), as rewards have no fixed range; a
move not yet tried has the value of its state. A leaf that waits to be read counts as a visit of the least value
(virtual loss), so that several leaves of one tree can be read in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from tokenward.errors import InputError
from tokenward.search.budget import Budget, Meter, Progress
from tokenward.search.leaves import Ends, Leaf, Values, worth
from tokenward.search.problem import Answer, Found, Moves, Path, Problem, double, offered

Take = Literal["visited", "best"]
Backup = Literal["mean", "max"]
Numbers = NDArray[np.float64]


@final
@dataclass(eq=False)
class Node:
    """A state of the tree. `logp` None: not read yet. `value` None: not judged yet; `ended`: a finished text."""

    path: Path[Any]
    ended: bool
    value: float | None = None
    tokens: list[int] = field(default_factory=list)
    logp: Numbers | None = None
    ref: Numbers | None = None
    prior: Numbers = field(default_factory=lambda: np.zeros(0))
    visits: Numbers = field(default_factory=lambda: np.zeros(0))
    total: Numbers = field(default_factory=lambda: np.zeros(0))
    most: Numbers = field(default_factory=lambda: np.zeros(0))
    waiting: Numbers = field(default_factory=lambda: np.zeros(0))
    children: dict[int, Node] = field(default_factory=dict)

    def open(self, moves: Moves, row: int) -> None:
        """Take in what was read: the moves and their prior."""
        logp = double(moves.logp[row]).numpy()
        real = np.isfinite(logp)
        self.tokens = np.asarray(moves.tokens[row].cpu())[real].tolist()
        self.logp = logp[real]
        self.ref = None if moves.ref_logp is None else double(moves.ref_logp[row]).numpy()[real]
        law = np.exp(self.logp - self.logp.max())
        self.prior = law / law.sum()
        self.visits, self.total, self.waiting = (np.zeros(len(self.tokens)) for _ in range(3))
        self.most = np.full(len(self.tokens), -np.inf)

    def backed(self, backup: Backup) -> Numbers:
        """What came back through each move: the mean, or the largest; 0 where nothing did."""
        if backup == "max":
            return np.where(self.visits > 0, self.most, 0.0)
        return self.total / np.maximum(self.visits, 1)


Step = tuple[Node, int]  # a state and the number of the move taken there


@final
class Tree:
    """The search of one prompt: where its text stands, and the values met."""

    def __init__(self, problem: Problem[Any, Any], prompt: Any, *, c: float, backup: Backup) -> None:
        self.problem, self.c, self.backup = problem, c, backup
        self.here = Node(Path(problem.root(prompt)), ended=False)
        self.before: Node | None = None
        self.low, self.high = float("inf"), -float("inf")
        self.finished: dict[tuple[int, ...], Node] = {}

    def descend(self) -> tuple[list[Step], Node]:
        """From where the text stands to a state that is not read yet, or to an end; every move waits."""
        node, trail = self.here, []
        while node.logp is not None:
            move = self.best(node)
            trail.append((node, move))
            node.waiting[move] += 1
            node = self.child(node, move)
        return trail, node

    def best(self, node: Node) -> int:
        """The move of the largest Q̄ + U; of equal ones the likelier, then the earlier."""
        tried = node.visits + node.waiting
        mean = self._scaled(node.backed(self.backup))
        q = np.where(
            tried > 0, mean * node.visits / np.maximum(tried, 1), self._scaled(np.full(len(mean), node.value or 0.0))
        )
        u = self.c * node.prior * np.sqrt(1 + tried.sum()) / (1 + tried)
        return int(np.lexsort((-node.prior, -(q + u)))[0])

    def child(self, node: Node, move: int) -> Node:
        """The state after a move."""
        if move not in node.children and node.logp is not None:
            state = self.problem.child(node.path.state, node.tokens[move])
            ref = None if node.ref is None else float(node.ref[move])
            path = node.path.step(state, token=node.tokens[move], logp=float(node.logp[move]), ref_logp=ref)
            node.children[move] = Node(path, self.problem.terminal(state))
        return node.children[move]

    def back_up(self, trail: Sequence[Step], leaf: Node) -> None:
        """Give a leaf's value to every move that led to it."""
        value = float(leaf.value or 0.0)
        self.low, self.high = min(self.low, value), max(self.high, value)
        if leaf.ended:
            self.finished[leaf.path.tokens] = leaf
        self.release(trail)
        for node, move in trail:
            node.visits[move] += 1
            node.total[move] += value
            node.most[move] = max(node.most[move], value)

    def release(self, trail: Sequence[Step]) -> None:
        """The moves wait no more."""
        for node, move in trail:
            node.waiting[move] -= 1

    def wants(self, simulations: int) -> int:
        """How many more simulations the state where the text stands should have; none where there is no choice."""
        if self.here.ended or len(self.here.tokens) == 1:
            return 0
        return simulations - (0 if self.here.logp is None else 1 + int(self.here.visits.sum()))

    def advance(self) -> None:
        """Write on by the most visited move; of equal ones that of the higher value, then the likelier."""
        here = self.before = self.here
        self.here = self.child(here, int(np.lexsort((-here.prior, -here.backed(self.backup), -here.visits))[0]))

    def _scaled(self, value: Numbers) -> Numbers:
        return (value - self.low) / (self.high - self.low) if self.high > self.low else np.zeros_like(value)


def tree_search(
    problem: Problem[Any, Any],
    prompts: Sequence[Any],
    *,
    simulations: int,
    values: Values,
    ends: Ends = "score",
    c: float = 1.25,
    backup: Backup = "mean",
    beta: float = 1.0,
    leaves: int = 4,
    take: Take = "visited",
    budget: Budget | None = None,
    seed: int = 0,
    tell: Progress | None = None,
) -> Answer[Any]:
    """A text for each prompt, written move by move, each chosen after `simulations` visits of the state it leaves.

    `values`, `ends`: what unfinished and finished texts are worth (leaves.py). What lies below the chosen move is
    kept, and its visits count. `leaves` of one prompt are read together; 1 is the plain algorithm. `take`: the text of
    the most visited moves, or the best finished text met on the way. `compared` holds every finished text met.
    Deterministic given `seed`, which decides rollouts alone, unless the budget has seconds.
    """
    if simulations < 1 or leaves < 1 or not (math.isfinite(c) and c >= 0):
        raise InputError(
            "mcts needs simulations and leaves of 1 or more and a finite c of 0 or more, "
            f"got {simulations}, {leaves} and {c}"
        )
    meter = Meter(budget or Budget(), tell)
    trees = [Tree(problem, prompt, c=c, backup=backup) for prompt in prompts]
    how = Leaf(values=values, ends=ends, beta=beta, seed=seed)
    while active := [tree for tree in trees if not tree.here.ended]:
        while not meter.spent and (growing := [tree for tree in active if tree.wants(simulations) > 0]):
            _simulate(problem, growing, how, meter, most=leaves, simulations=simulations)
        unread = [(tree.here, None) for tree in active if tree.here.logp is None]
        moves = _open(problem, [node for node, _ in unread], how, meter)
        if values != "rollout":  # its values were read with the moves; a rollout would read more
            worth(problem, unread, moves, how, meter)
        for tree in active:
            tree.advance()
    worth(problem, [(tree.here, tree.before) for tree in trees if tree.here.value is None], None, how, meter)
    return Answer(tuple(_found(tree, take) for tree in trees), meter.forwarded)


def _simulate(
    problem: Problem[Any, Any], trees: Sequence[Tree], how: Leaf, meter: Meter, *, most: int, simulations: int
) -> None:
    """Up to `most` leaves of each tree: chosen one after another, read and judged together, backed up in order."""
    batch: list[tuple[Tree, list[Step], Node]] = []
    for tree in trees:
        chosen: set[int] = set()
        for _ in range(min(most, tree.wants(simulations))):
            trail, leaf = tree.descend()
            if id(leaf) in chosen:  # virtual loss did not lead elsewhere: the batch of this tree is full
                tree.release(trail)
                break
            if leaf.value is not None:  # an end that is known
                tree.back_up(trail, leaf)
                continue
            chosen.add(id(leaf))
            batch.append((tree, trail, leaf))
    fresh = [leaf for _, _, leaf in batch if not leaf.ended]
    moves = _open(problem, fresh, how, meter)
    worth(problem, [(leaf, trail[-1][0] if trail else None) for _, trail, leaf in batch], moves, how, meter)
    for tree, trail, leaf in batch:
        tree.back_up(trail, leaf)


def _open(problem: Problem[Any, Any], nodes: Sequence[Node], how: Leaf, meter: Meter) -> Moves | None:
    """Read states together."""
    if not nodes:
        return None
    moves = offered(problem.expand([node.path.state for node in nodes]), by=how.values)
    meter.read(moves.forwarded)
    for row, node in enumerate(nodes):
        node.open(moves, row)
    return moves


def _found(tree: Tree, take: Take) -> Found[Any]:
    tree.finished[tree.here.path.tokens] = tree.here
    ranked = sorted(tree.finished.values(), key=lambda node: -float(node.value or 0.0))
    best = tree.here if take == "visited" else ranked[0]
    compared = tuple((node.path, float(node.value or 0.0)) for node in ranked)
    return Found(best.path, float(best.value or 0.0), compared)
