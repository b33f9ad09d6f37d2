"""What each flag of `tokenward sample` becomes in its search; votes by log-ratio and virtual losses by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.search.test_search import Tree
from tokenward.lab.worlds.tree import grow
from tokenward.search import mcts, strategies
from tokenward.search.budget import Budget
from tokenward.search.strategies import Asked, search_of
from tokenward.search.tree import TreeProblem
from tokenward.search.vote import weighted_vote

LIMIT = {"budget_tokens": 90, "budget_seconds": 4.0}
SHARED = {"budget": Budget(90, 4.0), "tell": print}


@pytest.mark.parametrize(
    ("flags", "called", "received"),
    [
        ({"strategy": "best-of-n", "by": "implicit", "ref": "r", "n": 3, "beta": 0.3}, "best_of_n",
         {"n": 3, "by": "implicit", "beta": 0.3, "seed": 7}),
        ({"strategy": "vote", "by": "reward", "reward": "r", "answer": ".", "n": 5, "beta": 0.3}, "weighted_vote",
         {"n": 5, "extract": len, "weight": "reward", "beta": 0.3, "seed": 7}),
        ({"strategy": "beam", "by": "implicit", "ref": "r", "n": 3, "beta": 0.3, "length": "mean",
          "places": "refilled"}, "beam_search",
         {"width": 3, "by": "implicit", "beta": 0.3, "length": "mean", "places": "refilled"}),
        ({"strategy": "mcts", "by": "implicit", "ref": "r", "beta": 0.3, "simulations": 9, "c_puct": 0.5,
          "backup": "max", "leaves": 2, "take": "best"}, "tree_search",
         {"simulations": 9, "values": "implicit", "ends": "score", "c": 0.5, "backup": "max", "beta": 0.3, "leaves": 2,
          "take": "best", "seed": 7}),
        ({"strategy": "mcts", "by": "reward", "reward": "r", "moves": "sentence", "spans": 6}, "tree_search",
         {"simulations": 16, "values": "rollout", "ends": "score", "c": 1.25, "backup": "mean", "beta": 1.0,
          "leaves": 4, "take": "visited", "seed": 7, "spans": {"ends": frozenset({3}), "count": 6, "seed": 7}}),
        ({"strategy": "mcts", "critic": "c", "c_puct": 0.0}, "tree_search",
         {"simulations": 16, "values": "critic", "ends": "critic", "c": 0.0, "backup": "mean", "beta": 1.0, "leaves": 4,
          "take": "visited", "seed": 7}),
        ({"strategy": "guided", "by": "implicit", "ref": "r", "beta": 0.3, "eta": 0.2, "take": "sample",
          "reward": None}, "guided",
         {"by": "implicit", "take": "sample", "eta": 0.2, "beta": 0.3, "ends": "critic", "seed": 7}),
        ({"strategy": "guided", "critic": "c", "reward": "r", "take": "rerank"}, "guided",
         {"by": "critic", "take": "rerank", "eta": 1.0, "beta": 1.0, "ends": "score", "seed": 7}),
    ],
)  # fmt: skip
def test_a_flag_becomes_the_argument_of_its_search(flags, called, received, monkeypatch):
    seen = {}
    monkeypatch.setattr(strategies, "Spans", lambda problem, **more: seen.update(spans=more) or problem)
    monkeypatch.setattr(strategies, called, lambda problem, prompts, **more: (problem, prompts, more))
    tree = Tree()
    made = search_of(Asked(**flags, **LIMIT), tree, seed=7, extract=len, ends=frozenset({3}), tell=print)
    problem, prompts, more = made(["p"])
    assert (problem, prompts, more | seen) == (tree, ["p"], received | SHARED)


def test_votes_by_implicit_reward_estimate_the_policy_sharpened_against_its_reference():
    """Weights π/π_ref on samples of π make an answer's share that of π²/π_ref, normalized."""
    tree = Tree(seed=3)
    mass = {text: math.exp(2 * logp - ref) for text, (logp, ref) in tree.leaves().items()}
    share = {n: sum(m for text, m in mass.items() if len(text) == n) / sum(mass.values()) for n in range(1, 5)}
    (found,) = weighted_vote(
        tree, ["p"], n=6000, extract=lambda state: len(state[1]), weight="implicit", seed=1
    ).found  # fmt: skip
    best = max(share, key=share.get)
    assert len(found.path.tokens) == best and found.score == pytest.approx(share[best], abs=0.05)


def test_a_waiting_leaf_lowers_the_mean_of_its_move():
    """Values 0 to 3, priors ⅓, c = .3: (3 + 0)/2 of 3 is .5, and .5 + .1·2/3 = .57 < ⅔ + .1·2/2 = .77."""
    tree = grow(vocab=3, horizon=1, eos=None)
    problem = TreeProblem(tree, torch.zeros(1, 1, 3).double().log_softmax(-1))
    search = mcts.Tree(problem, 0, c=0.3, backup="mean")
    here = search.here
    here.open(problem.expand([here.path.state]), 0)
    here.value, search.low, search.high = 0.0, 0.0, 3.0
    here.visits, here.total = np.array([1.0, 1.0, 0.0]), np.array([3.0, 2.0, 0.0])
    assert search.best(here) == 0
    here.waiting[0] = 1
    assert search.best(here) == 1
