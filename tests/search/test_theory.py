"""Likelihood search is value-guided search: what the theorem says of 500 random trees, and what it does not say.

Laws, soft values and sums are computed here a second time, leaf by leaf in numpy.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tokenward.lab.optima import exact
from tokenward.lab.optima.best_of_n import best_of_n_law
from tokenward.lab.theory.beams import beam_leaf, lookahead, prefix_sums
from tokenward.lab.worlds.tree import grow
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import best_of_n, kl_bound
from tokenward.search.combined import Both, Combined
from tokenward.search.guided import guided, guided_law
from tokenward.search.problem import Path, ranked
from tokenward.search.tree import TreeProblem, leaf_of

SHAPES = [(2, 5, None), (2, 6, 0), (3, 3, None), (3, 4, 1), (4, 3, 3)]  # vocabulary, horizon, end token
EACH = 100


class Trees:
    """100 random trees of one shape: token rewards, a reference, τ, and everything optimal by enumeration in numpy."""

    def __init__(self, shape, seed):
        vocab, horizon, eos = shape
        self.tree, rng = grow(vocab=vocab, horizon=horizon, eos=eos), np.random.default_rng(seed)
        size = (EACH, self.tree.states, vocab)
        self.tau = 0.6
        self.reward, logits = rng.normal(size=size), rng.normal(size=size)
        self.ref = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        self.states, self.tokens = self.tree.state.numpy(), self.tree.tokens.numpy()
        self.length = self.tree.length.numpy()
        self.total = self.summed(self.reward)
        self.conservative = self.total + self.tau * self.summed(self.ref)
        self.mass = np.exp(self.conservative / self.tau)  # of each leaf, under π* and before Z

    def summed(self, table):
        """Σ_t of each leaf [X L]."""
        found = np.zeros((EACH, len(self.length)))
        for leaf, n in enumerate(self.length):
            found[:, leaf] = table[:, self.states[leaf, :n], self.tokens[leaf, :n]].sum(-1)
        return found

    def prefixes(self, depth):
        """{tokens of a prefix: leaves that begin with it}, of all prefixes of this length, ended texts too."""
        found = {}
        for leaf, n in enumerate(self.length):
            found.setdefault(tuple(self.tokens[leaf, : min(depth, n)]), []).append(leaf)
        return found

    def soft(self):
        as_torch = (torch.tensor(x) for x in (self.ref, self.reward))
        return exact.soft_values(self.tree, *as_torch, tau=self.tau)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def trees(request):
    return Trees(request.param, seed=SHAPES.index(request.param))


def test_depth_k_search_with_values_is_likelihood_search_for_every_k(trees):
    """Eq. 12 = Eq. 13 with +V*(s₀), prefix by prefix; the printed −V*(s₀) is another number with the same argmax."""
    soft = trees.soft()
    root = trees.tau * np.log(trees.mass.sum(-1))  # V*(s₀) = τ log Z
    searched = lookahead(trees.tree, torch.tensor(trees.reward), torch.tensor(trees.ref), soft.v, tau=trees.tau).numpy()
    for depth in range(1, trees.tree.horizon + 1):
        prefixes = trees.prefixes(depth)
        ours, theirs = [], []
        for prefix, leaves in prefixes.items():
            first, n = leaves[0], len(prefix)
            ours.append(searched[:, trees.states[first, n - 1], trees.tokens[first, n - 1]])
            likelihood = np.log(trees.mass[:, leaves].sum(-1) / trees.mass.sum(-1))
            theirs.append(root + trees.tau * likelihood)
        ours, theirs = np.stack(ours, 1), np.stack(theirs, 1)
        assert np.abs(ours - theirs).max() < 1e-10
        assert (ours.argmax(1) == theirs.argmax(1)).all()
        assert np.abs(ours - (theirs - 2 * root[:, None])).max() > 0.5  # the printed sign


def test_an_exhaustive_beam_is_the_map_text_of_the_optimum_and_not_the_best_reward(trees):
    soft = trees.soft()
    best = trees.conservative.argmax(1)
    fast = beam_leaf(trees.tree, soft.logp, width=trees.tree.leaves)
    assert (fast.numpy() == best).all()
    problem = TreeProblem(trees.tree, soft.logp)
    answer = beam_search(problem, list(range(EACH)), width=trees.tree.leaves)
    assert [leaf_of(found.path.state) for found in answer.found] == best.tolist()
    root = trees.tau * np.log(trees.mass.sum(-1))
    scores = np.array([found.score for found in answer.found])
    assert np.abs(trees.tau * scores + root - trees.conservative.max(1)).max() < 1e-9
    assert 0.05 < (trees.total.argmax(1) != best).mean() < 0.95  # negative control: argmax R is often another text


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_the_two_beams_are_one(trees, width):
    logp = trees.soft().logp
    answer = beam_search(TreeProblem(trees.tree, logp), list(range(EACH)), width=width)
    assert [leaf_of(f.path.state) for f in answer.found] == beam_leaf(trees.tree, logp, width=width).tolist()


def test_of_equal_leaves_both_beams_take_the_one_that_ends_first():
    tree = grow(vocab=2, horizon=2, eos=0)
    gain = torch.tensor([[[-1.0, -0.5], [-0.5, -2.0]]], dtype=torch.float64)  # the end at once: -1, and later: -1
    first = int(tree.leaf[0, 0])
    assert beam_leaf(tree, gain, width=4).tolist() == [first]
    assert leaf_of(beam_search(TreeProblem(tree, gain), [0], width=4).found[0].path.state) == first


def test_prefix_sums_of_leaves_are_leaf_sums(trees):
    sums = prefix_sums(trees.tree, torch.tensor(trees.reward)).numpy()
    last = trees.length - 1
    at = np.arange(len(last))
    assert np.abs(sums[:, trees.states[at, last], trees.tokens[at, last]] - trees.total).max() < 1e-12


def test_guidance_by_the_soft_value_draws_from_the_optimum():
    """With π = π_ref, V = V*, η = τ and the reward at the end, π·exp(V/η) is π^τ token by token; not at another η."""
    tree, random = grow(vocab=3, horizon=3, eos=0), torch.Generator().manual_seed(3)
    reward, logits = torch.randn(2, 50, tree.leaves, generator=random, dtype=torch.float64)
    ref = tree.conditional(logits.softmax(-1))
    soft = exact.soft_values(tree, ref, tree.outcome(reward), tau=0.5)
    q = torch.where(tree.leaf >= 0, reward[:, tree.leaf.clamp(min=0)], soft.v[:, tree.child.clamp(min=0)])
    law = guided_law(ref.flatten(0, 1), q.flatten(0, 1), eta=0.5).view_as(ref)
    masses = np.exp(logits.log_softmax(-1).numpy() + reward.numpy() / 0.5)
    leaf_law = tree.leaf_sum(law).exp().numpy()
    assert np.abs(leaf_law - masses / masses.sum(-1, keepdims=True)).max() < 1e-10
    other = guided_law(ref.flatten(0, 1), q.flatten(0, 1), eta=1.0).view_as(ref)
    assert np.abs(tree.leaf_sum(other).exp().numpy() - leaf_law).max() > 0.1
    # the search itself takes that law's likeliest token at each step, and its samples follow it
    problem = TreeProblem(tree, ref, reward=reward, value=soft.v)
    for found, prompt in zip(guided(problem, list(range(50)), by="critic", eta=0.5).found, range(50), strict=True):
        state = 0
        while state >= 0:
            token = int(law[prompt, state].argmax())
            leaf, state = int(tree.leaf[state, token]), int(tree.child[state, token])
        assert leaf_of(found.path.state) == leaf
    drawn = guided(problem, [7] * 1000, by="critic", eta=0.5, take="sample", seed=1).found
    counts = np.bincount([leaf_of(found.path.state) for found in drawn], minlength=tree.leaves) / 1000
    assert (np.abs(counts - leaf_law[7]) < 4.5 * np.sqrt(leaf_law[7] / 1000) + 1e-3).all()


# --- proxy tuning as a statement about advantages ------------------------------------------------------------------


def test_the_ratio_of_proxy_and_reference_is_the_exponentiated_advantage(trees):
    """(π*/π_ref)^β = e^{A*}, A* = Q − V with Q of r and V alone; the printed (15), with β log π_ref in Q, is not it."""
    soft, ref = trees.soft(), torch.tensor(trees.ref)
    ratio = (soft.logp - ref).numpy() * trees.tau
    ahead = soft.v.numpy()[:, trees.tree.child.clamp(min=0).numpy()] * (trees.tree.child.numpy() >= 0)
    advantage = trees.reward + ahead - soft.v.numpy()[..., None]
    assert np.abs(np.exp(ratio) - np.exp(advantage)).max() < 1e-9
    printed = trees.tau * (advantage + trees.tau * trees.ref)  # β(Q* − V*), Q* with β log π_ref in it
    assert np.abs(np.exp(ratio) - np.exp(printed)).max() > 0.05


def test_with_base_equal_to_the_reference_the_combination_is_the_proxy_at_one_and_not_the_sequence_law_elsewhere(trees):
    """β = 1: π*, text by text. β = 2: normalized at each token it is another law than π_ref·(π*/π_ref)²/Z."""
    soft, ref = trees.soft(), torch.tensor(trees.ref)
    for beta in (1.0, 2.0):
        both = Combined(TreeProblem(trees.tree, ref), TreeProblem(trees.tree, soft.logp, ref), beta=beta)
        found = np.zeros((3, trees.tree.states, trees.tree.vocab))
        for state in range(trees.tree.states):
            found[:, state] = both.expand([Both((prompt, state), (prompt, state)) for prompt in range(3)]).logp.numpy()
        leaves = np.exp(trees.tree.leaf_sum(torch.tensor(found)).numpy())
        masses = np.exp(trees.summed(trees.ref) + beta * trees.total / trees.tau)[:3]
        gap = np.abs(leaves - masses / masses.sum(-1, keepdims=True)).max()
        assert gap < 1e-10 if beta == 1.0 else gap > 1e-3
    answer = beam_search(both, [0, 1, 2], width=4)
    assert [leaf_of(one.path.state.base) for one in answer.found] == [
        leaf_of(one.path.state)
        for one in beam_search(TreeProblem(trees.tree, torch.tensor(found)), [0, 1, 2], width=4).found
    ]


# --- best of n, ties included --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_law_of_the_best_of_n_is_that_of_every_tuple_that_could_be_drawn(n):
    law, score = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([1.0, 0.5, 1.0, 0.5, 2.0])
    found = np.zeros(5)
    for drawn in itertools.product(range(5), repeat=n):
        best = ranked([Path(text) for text in drawn], [float(score[text]) for text in drawn]).path.state
        found[best] += math.prod(law[list(drawn)])
    exactly = best_of_n_law(torch.tensor(law)[None], torch.tensor(score)[None], n=n)[0].numpy()
    assert np.abs(exactly - found).max() < 1e-12 and abs(found.sum() - 1) < 1e-12
    assert (found * np.log(found / law)).sum() <= kl_bound(n) + 1e-12


def test_the_bound_on_the_divergence_is_reached_without_ties_and_kept_with_them():
    law = torch.full((1, 2000), 1 / 2000, dtype=torch.float64)
    for n in (2, 8, 32):
        kls = []
        for score in (torch.arange(2000.0)[None].double(), (torch.arange(2000) % 5)[None].double()):
            best = best_of_n_law(law, score, n=n)
            kls.append(float((torch.xlogy(best, best) - torch.xlogy(best, law)).sum()))
        assert kls[0] == pytest.approx(kl_bound(n), abs=0.02) and kls[0] <= kl_bound(n)
        assert kls[1] < min(kls[0], math.log(5) + 1e-9)


def test_the_search_draws_from_that_law():
    tree = grow(vocab=3, horizon=1, eos=None)
    law = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    problem = TreeProblem(tree, law.log()[:, None], reward=torch.tensor([[0.0, 1.0, 1.0]]).double())
    found = best_of_n(problem, [0] * 2000, n=3, seed=2).found
    counts = np.bincount([leaf_of(one.path.state) for one in found], minlength=3) / 2000
    exactly = best_of_n_law(law, problem.reward, n=3)[0].numpy()
    assert (np.abs(counts - exactly) < 4.5 * np.sqrt(exactly * (1 - exactly) / 2000)).all()


# --- imperfect policies: wider is not always better ----------------------------------------------------------------


def test_wider_beams_lose_reward_where_texts_may_end_early_and_gain_where_they_may_not():
    """The study's two findings about exact policies, on trees of another seed and shape, with beams of 1 and all."""
    gains = {}
    for eos in (None, 0):
        tree, rng = grow(vocab=3, horizon=4, eos=eos), np.random.default_rng(11)
        size = (500, tree.states, 3)
        reward, ref = torch.tensor(rng.normal(size=size)), torch.tensor(rng.normal(size=size)).log_softmax(-1)
        logp = exact.soft_values(tree, ref, reward, tau=1.0).logp
        one, every = (tree.leaf_sum(reward).gather(1, beam_leaf(tree, logp, width=w)[:, None]) for w in (1, 81))
        gap = (every - one).squeeze(1)
        gains[eos] = (float(gap.mean()), 3 * float(gap.std()) / 500**0.5)
    assert gains[0][0] + gains[0][1] < 0 < gains[None][0]
