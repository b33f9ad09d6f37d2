"""RTO's theory (Zhong et al. 2024), line by line, on problems that can be listed; formulas a second time in numpy.

Names say which statement is meant; "N" marks what must not hold.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.lab.plain import gibbs, kl, random_law, sequences, sigmoid, softmax, through
from tokenward.errors import InputError
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.theory.chance import ChanceProcess, two_steps
from tokenward.lab.theory.pessimism import (
    compared_answers,
    estimate,
    guarantees,
    linear_rewards,
    most_likely,
    performance_difference,
    plan_of_policies,
    plan_of_tokens,
    token_pessimism,
)
from tokenward.lab.theory.queries import count, forced
from tokenward.lab.worlds.tree import grow

BOUND = 4.0


def a_problem(seed, *, number=None):
    """Every second tree ragged; few, some or many comparisons."""
    eos = 2 if seed % 2 else None
    problem = linear_rewards(grow(vocab=3, horizon=3, eos=eos), features=4, beta=0.5, seed=seed)
    gaps = compared_answers(problem, number=number or (5, 50, 500)[seed % 3], seed=seed + 1000)
    return problem, gaps, estimate(problem, gaps, bound=BOUND)


def words_of(tree):
    """Complete sequences, sorted; and the state of each prefix, read off the leaves."""
    words = sequences(tree.vocab, tree.horizon, tree.eos)
    assert [tuple(row[:n]) for row, n in zip(tree.tokens.tolist(), tree.length.tolist(), strict=True)] == words
    state = {w[:t]: int(tree.state[i, t]) for i, w in enumerate(words) for t in range(len(w))}
    return words, state


def sums(words, state, table):
    """Σ_t table[s_t, y_t] of each word."""
    return np.array([sum(table[state[w[:t]], w[t]] for t in range(len(w))) for w in words])


# ----------------------------------------------------------------------------------- Assumption 4.1, Algorithm 1


@pytest.mark.parametrize("seed", range(6))
def test_the_estimate_is_the_most_likely_reward_within_the_bound(seed):
    """Slope 0 inside the ball; on its edge the slope points outward: no θ of the ball is likelier."""
    problem, gaps, found = a_problem(seed)
    theta, rows = found.theta.numpy(), gaps.numpy()
    uphill = sigmoid(-(rows @ theta)) @ rows / len(rows)
    if np.linalg.norm(theta) < BOUND - 1e-6:
        assert np.abs(uphill).max() < 1e-8
    else:
        assert np.linalg.norm(theta) == pytest.approx(BOUND, abs=1e-9)
        assert uphill @ theta == pytest.approx(np.linalg.norm(uphill) * BOUND, rel=1e-6)
    covariance = np.eye(4) + sum(np.outer(row, row) for row in rows)
    error = theta - problem.theta.numpy()
    assert found.radius == pytest.approx(math.sqrt(error @ covariance @ error), rel=1e-10)


def test_comparisons_that_one_reward_separates_stop_at_the_bound():
    gaps = torch.tensor([[1.0, 0.0], [2.0, 0.1]], dtype=torch.float64)
    assert float(most_likely(gaps, bound=3.0).norm()) == pytest.approx(3.0)


def test_comparisons_follow_bradley_terry_on_sums_of_token_rewards():
    problem, gaps, _ = a_problem(3, number=40_000)
    margin = (gaps @ problem.theta).numpy()  # winner − loser; 0: an answer met itself
    small, large = (margin != 0) & (np.abs(margin) < 0.3), np.abs(margin) > 0.8
    for some in (small, large):
        won = (margin[some] > 0).mean()
        assert won == pytest.approx(sigmoid(np.abs(margin[some])).mean(), abs=4 * 0.5 / math.sqrt(some.sum()))


def test_eq_4_2_subtracts_what_the_comparisons_leave_in_doubt():
    problem, gaps, found = a_problem(4)
    inverse = np.linalg.inv(np.eye(4) + gaps.numpy().T @ gaps.numpy())
    phi = problem.features.numpy()
    doubt = np.sqrt(np.einsum("xsvf,fg,xsvg->xsv", phi, inverse, phi))
    expected = phi @ found.theta.numpy() - found.radius * doubt
    assert np.abs(token_pessimism(problem, found).numpy() - expected).max() < 1e-10
    below = expected <= phi @ problem.theta.numpy() + 1e-12  # pessimistic at every token, by Cauchy–Schwarz
    assert below.all()


# -------------------------------------------------------------------------- Theorem 4.2, Theorem B.1, Lemma A.2


def test_theorems_4_2_and_b_1_hold_on_200_random_problems_with_the_oracle_radius():
    tight = 0.0
    for seed in range(200):
        problem, _, found = a_problem(seed)
        got = guarantees(problem, found)
        assert -1e-12 <= got.tokens_lose <= got.tokens_bound + 1e-9
        assert -1e-12 <= got.policies_lose <= got.policies_bound + 1e-9
        assert got.policies_bound <= got.coverage + 1e-9  # Jensen: B.1 is at most the first term of 4.2
        tight = max(tight, got.tokens_lose / got.tokens_bound)
    assert tight > 0.03  # the bound is not so loose that nothing could break it


@pytest.mark.parametrize("seed", range(8))
def test_both_sides_of_theorem_4_2_in_numpy(seed):
    """Sub-optimality from values, coverage from visits, and the KL state by state, none of it by the lab's code."""
    problem, gaps, found = a_problem(seed)
    words, state = words_of(problem.tree)
    inverse = np.linalg.inv(np.eye(4) + gaps.numpy().T @ gaps.numpy())
    lose = coverage = gained = 0.0
    for x, share in enumerate(problem.weight.numpy()):
        ref, phi = problem.ref[x].numpy(), problem.features[x].numpy()
        true = sums(words, state, phi @ problem.theta.numpy())
        doubt = np.sqrt(np.einsum("svf,fg,svg->sv", phi, inverse, phi))
        best = gibbs(ref, true, 0.5)
        planned = gibbs(ref, sums(words, state, phi @ found.theta.numpy() - found.radius * doubt), 0.5)
        values = [law @ true - 0.5 * kl(law, ref) for law in (best, planned)]
        lose += share * (values[0] - values[1])
        coverage += share * 2 * found.radius * (best @ sums(words, state, doubt))
        visit, other = through(words, best), through(words, planned)
        for prefix in state:
            step = [(visit[*prefix, a] / visit[prefix], other[*prefix, a] / other[prefix]) for a in range(3)]
            gained += share * 0.5 * visit[prefix] * sum(p * math.log(p / q) for p, q in step)
    got = guarantees(problem, found)
    assert got.tokens_lose == pytest.approx(lose, abs=1e-10)
    assert (got.coverage, got.gained) == pytest.approx((coverage, gained), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_theorem_b_1_plans_with_the_worst_reward_of_the_ellipsoid(seed):
    """Its pessimistic value, in closed form E_πφ·θ_MLE − ϱ‖E_πφ‖ − βKL, is above that of 300 other policies."""
    problem, gaps, found = a_problem(seed)
    words, state = words_of(problem.tree)
    inverse = np.linalg.inv(np.eye(4) + gaps.numpy().T @ gaps.numpy())
    phi = [np.stack([sums(words, state, f) for f in np.moveaxis(p.numpy(), -1, 0)], -1) for p in problem.features]

    def pessimistic(laws):
        mean = sum(s * law @ p for s, law, p in zip(problem.weight.numpy(), laws, phi, strict=True))
        pull = sum(s * kl(law, r) for s, law, r in zip(problem.weight.numpy(), laws, problem.ref.numpy(), strict=True))
        return mean @ found.theta.numpy() - found.radius * math.sqrt(mean @ inverse @ mean) - 0.5 * pull

    laws = plan_of_policies(problem, found).numpy()
    top, rng = pessimistic(laws), np.random.default_rng(seed)
    others = [plan_of_tokens(problem, found).numpy(), problem.best(problem.theta).numpy(), problem.ref.numpy()]
    for spread in (1.0, 0.1, 0.01):
        others += [[softmax(np.log(law) + spread * rng.normal(size=len(law))) for law in laws] for _ in range(100)]
    assert all(pessimistic(other) < top + 1e-12 for other in others)
    mean = sum(s * law @ p for s, law, p in zip(problem.weight.numpy(), laws, phi, strict=True))
    if mean @ inverse @ mean > 1e-12:  # the worst θ; the policy is soft-optimal for it
        worst = found.theta.numpy() - found.radius * inverse @ mean / math.sqrt(mean @ inverse @ mean)
        for law, ref, p in zip(laws, problem.ref.numpy(), phi, strict=True):
            assert np.abs(law - gibbs(ref, p @ worst, 0.5)).max() < 1e-6


@pytest.mark.parametrize("eos", [None, 2])
def test_lemma_a_2_the_difference_of_two_values_is_an_advantage_under_the_first_policy(eos):
    tree, rng, beta = grow(vocab=3, horizon=3, eos=eos), np.random.default_rng(5), 0.7
    words, state = words_of(tree)
    law, other, ref = (random_law(rng, tree.leaves) for _ in range(3))
    table = rng.normal(size=(tree.states, 3))
    total = sums(words, state, table)
    values = [p @ total - beta * kl(p, ref) for p in (law, other)]
    forms = [policy_with(torch.tensor(p)[None], tree=tree).table() for p in (law, other, ref)]
    right = performance_difference(
        tree, forms[0], forms[1], ref_logp=forms[2], reward=torch.tensor(table)[None], beta=beta
    )
    assert float(right[0]) == pytest.approx(values[0] - values[1], abs=1e-12)
    assert abs(values[0] - values[1]) > 0.05


def test_theorem_4_2_falls_like_the_root_of_the_number_of_comparisons():
    """Slope of the bound in log |D|: −½; what is lost falls twice as fast, being β·KL(π̂‖π*)."""
    numbers = [200, 800, 3200, 12800]
    rows = [[guarantees(p, e) for p, _, e in (a_problem(s, number=n) for s in range(8))] for n in numbers]

    def slope(pick):
        return np.polyfit(np.log(numbers), [np.log(np.median([pick(one) for one in row])) for row in rows], 1)[0]

    assert slope(lambda g: g.coverage) == pytest.approx(-0.5, abs=0.12)
    assert slope(lambda g: g.policies_bound) == pytest.approx(-0.5, abs=0.15)
    assert slope(lambda g: g.tokens_lose) == pytest.approx(-1.0, abs=0.25)


# ----------------------------------------------------------------------------------------------------- Proposition 3.2


def test_proposition_3_2_n_its_count_is_broken_and_the_corrected_one_holds_on_300_random_trees():
    rng, broken = np.random.default_rng(0), 0
    for _ in range(300):
        vocab, horizon = [(2, 3), (2, 5), (2, 7), (3, 3), (3, 4), (4, 3)][rng.integers(6)]
        law = rng.dirichlet(np.full(vocab**horizon, 10.0 ** rng.uniform(-2.5, 0)))
        words = sequences(vocab, horizon, None)
        mass, least = through(words, law), law.max() * (1 - 1e-12)
        light = {p for p in mass if p and mass[p] < least and mass[p[:-1]] >= least}
        heavy_answers = [w for w in words if mass[w] >= least]
        by_length = [sum(mass[p] >= least for p in mass if len(p) == h) for h in range(horizon)]
        xi = -math.log(law.max()) / math.log(vocab)
        got = count(grow(vocab=vocab, horizon=horizon, eos=None), torch.tensor(law))
        assert got.revealed == len(light) + len(heavy_answers)
        assert got.revealed == got.corrected == 1 + (vocab - 1) * sum(by_length)
        assert got.corrected <= got.bound * (1 + 1e-9)
        assert got.bound == pytest.approx(1 + (vocab - 1) * horizon * vocab**xi)
        assert got.claimed == pytest.approx(vocab ** min(xi + 1, horizon))
        broken += got.revealed > got.claimed + 1e-9
    assert broken > 150  # N


@pytest.mark.parametrize(("vocab", "horizon"), [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_proposition_3_2_an_adversary_forces_one_answer_per_wrong_token(vocab, horizon):
    """A deterministic π*: (A−1)·H answers with token rewards, A^H − 1 with one reward of the answer; ξ = 0 claims A."""
    assert forced(vocab=vocab, horizon=horizon, shown="tokens") == (vocab - 1) * horizon
    assert forced(vocab=vocab, horizon=horizon, shown="answer") == vocab**horizon - 1
    one = torch.eye(vocab**horizon, dtype=torch.float64)[1]
    got = count(grow(vocab=vocab, horizon=horizon, eos=None), one)
    assert (got.claimed, got.revealed) == (vocab, 1 + (vocab - 1) * horizon)


def test_a_game_too_large_to_search_is_one_line():
    with pytest.raises(InputError, match="at most 9"):
        forced(vocab=2, horizon=4, shown="tokens")


# ----------------------------------------------------------------------------------------- chance in the environment


def test_proposition_c_2_a_fixed_answer_gets_half_of_what_a_policy_gets():
    assert (two_steps().open_loop(), two_steps().closed_loop()) == (0.5, 1.0)


def test_without_chance_a_fixed_answer_is_as_good_as_a_policy():
    rng = np.random.default_rng(1)
    for _ in range(20):
        move = torch.eye(4, dtype=torch.float64)[torch.tensor(rng.integers(0, 4, size=(4, 3)))]
        process = ChanceProcess(move, torch.tensor(rng.normal(size=(4, 3))), 3)
        assert process.open_loop() == pytest.approx(process.closed_loop(), abs=1e-12)
        assert process.telescoping_gap(beta=0.5) < 1e-12


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_eq_4_3_n_chance_breaks_the_sum_of_log_ratios(beta):
    """(★) of Eq. 4.3 by hand: E V*(s′) − V*(s′) = ±½(V₁ − V₂), V_i = β log((1 + e^{r_i/β})/2)."""
    values = [beta * math.log((1 + math.exp(r / beta)) / 2) for r in (1.0, 0.25)]
    assert two_steps(other=0.25).telescoping_gap(beta=beta) == pytest.approx((values[0] - values[1]) / 2, abs=1e-12)
    assert two_steps(other=0.25).telescoping_gap(beta=beta) > 0.1
    assert two_steps(other=1.0).telescoping_gap(beta=beta) < 1e-12  # equal values: nothing to break
