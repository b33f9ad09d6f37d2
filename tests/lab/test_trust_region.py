"""Trust regions in the lab: constrained steps against an exact solver in numpy, mirror descent's steps and iterates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import bandit, tree_world
from tokenward.lab import verify
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.constrained import constrained_step
from tokenward.lab.solving.policy import policy_with
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.solve import solve
from tokenward.lab.theory.mirror_descent import (
    boltzmann_step,
    iterates,
    off_policy_loss,
    soft_actor_critic_loss,
    uniform,
)
from tokenward.objective.updates import ConstrainedStep
from tokenward.recipes import build

SHAPES = {"bandit": (5, 1, None), "tree": (3, 3, None), "ragged": (3, 3, 2)}
TOKEN_FORMS = [{"ratio": "token"}, {"ratio": "token", "kl_old": "exact"}]


def a_world(shape: str, **fields):
    vocab, horizon, eos = SHAPES[shape]
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, seed=5, tau=0.4, **fields)


def states(world, law, reward):
    """{prefix: (d, π(·|prefix), Q(prefix, ·))} by recursion over prefixes: Q the policy's own, without any KL."""
    words = plain.sequences(world.tree.vocab, world.tree.horizon, world.tree.eos)
    mass, last, found = plain.through(words, law), plain.outcome(words, reward), {}

    def value(prefix) -> float:
        if prefix in set(words):
            return 0.0
        tokens = sorted({w[len(prefix)] for w in words if w[: len(prefix)] == prefix})
        q = np.array([last.get((prefix, a), 0.0) + value((*prefix, a)) for a in tokens])
        p = np.array([mass[(*prefix, a)] for a in tokens]) / mass[prefix]
        found[prefix] = (mass[prefix], p, q)
        return float(p @ q)

    value(())
    return words, found


def law_of(words, step) -> np.ndarray:
    return np.array([np.prod([step[w[:t]][w[t]] for t in range(len(w))]) for w in words])


def token_mean_kl(found, step) -> float:
    """Mean KL(π_old‖π) of a token that π_old writes."""
    total = sum(d * plain.kl(p, step[s]) for s, (d, p, _) in found.items())
    return total / sum(d for d, _, _ in found.values())


def best_within(found, delta: float) -> dict:
    """argmax Σ_s d π·A, mean KL(π_old‖π) ≤ δ: π = λ π_old/(ν − A), ν by Σπ = 1 at each state, λ by the bound."""

    def at_lambda(size: float) -> dict:
        step = {}
        for s, (_, p, q) in found.items():
            a = q - p @ q
            low, high = a.max() + size * p[a.argmax()], a.max() + size
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if (size * p / (middle - a)).sum() > 1 else (low, middle)
            step[s] = size * p / (high - a)
        return step

    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if token_mean_kl(found, at_lambda(middle)) > delta else (low, middle)
    return at_lambda(high)


# ------------------------------------------------------------------------------------------------ constrained steps


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_tends_to_the_exact_constrained_solution_as_the_bound_shrinks(shape: str) -> None:
    """The step is of size √δ, what it misses of size δ."""
    world, missed, moved = a_world(shape), [], []
    words, found = states(world, world.ref[0].numpy(), world.reward[0].numpy())
    for delta in (4e-4, 1e-4, 2.5e-5):
        problem = Problem(build("trpo", beta_kl=0.0), world, guide=None, old=None)
        taken = constrained_step(problem, ConstrainedStep(max_kl=delta, backtracks=60, shrink=0.99))
        law, exact = problem.policy().law()[0].detach().numpy(), law_of(words, best_within(found, delta))
        assert taken.kl <= delta and taken.share > 0.9
        missed.append(plain.tv(law, exact))
        moved.append(plain.tv(law, world.ref[0].numpy()))
    assert missed[1] < 0.1 * moved[1]
    for i in range(2):
        assert moved[i] / moved[i + 1] == pytest.approx(2, rel=0.1)
        assert missed[i] / missed[i + 1] > 3


def test_the_realized_kl_of_the_lab_is_what_numpy_says() -> None:
    world = a_world("ragged")
    problem = Problem(build("trpo"), world, guide=None, old=None)
    taken = constrained_step(problem, ConstrainedStep(max_kl=0.05))
    words, found = states(world, world.ref[0].numpy(), world.reward[0].numpy())
    _, new = states(world, problem.policy().law()[0].detach().numpy(), world.reward[0].numpy())
    assert taken.kl == pytest.approx(token_mean_kl(found, {s: p for s, (_, p, _) in new.items()}), rel=1e-9)
    assert len(words) == world.tree.leaves


@pytest.mark.parametrize("shape", ["bandit", "ragged"])
@pytest.mark.slow
def test_no_step_goes_beyond_the_bound_and_the_steps_circle_the_boltzmann_policy(shape: str) -> None:
    """With a constant δ they do not come to rest: they stay about δ around it, closer for a smaller δ."""
    world, ends = a_world(shape, prompts=2), []
    target = world.target
    for delta in (1e-2, 2.5e-3):
        problem = Problem(build("trpo", beta_kl=world.tau), world, guide=None, old=None)
        far, taken = [], []
        for _ in range(int(2.5 / delta**0.5) + 20):
            taken.append(constrained_step(problem, ConstrainedStep(max_kl=delta)))
            far.append(float((target * (target.log() - problem.policy().law().detach().log())).sum(-1).max()))
        assert all(one.kl <= delta and one.improvement > 0 for one in taken)
        assert all(one.kl > 0.1 * delta for one in taken[-10:])
        assert far[0] > 0.05
        ends.append(max(far[-10:]))
        assert ends[-1] < 3 * delta * world.tree.horizon
    assert ends[0] > 2 * ends[1]


def test_at_the_boltzmann_policy_and_only_there_the_surrogate_has_no_slope() -> None:
    world = a_world("tree")
    words = plain.sequences(3, 3, None)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    force = {}
    for name, law in {
        "boltzmann": plain.gibbs(ref, reward, world.tau),
        "reference": ref,
        "myopic": plain.myopic(words, ref, plain.outcome(words, reward), world.tau),
    }.items():
        recipe = replace(build("trpo", beta_kl=world.tau), steps=build("trpo", beta_kl=world.tau).steps[:-1])
        problem = Problem(recipe, world, guide=None, old=None)  # advantages as they are, not whitened
        with torch.no_grad():
            problem.logits.copy_(policy_with(torch.tensor(law)[None], tree=world.tree).logits)
        force[name] = float(torch.cat([part.flatten() for part in problem.gradient()]).abs().max())
    assert force["boltzmann"] < 1e-14
    assert min(force["reference"], force["myopic"]) > 1e-3


def test_a_trial_beyond_the_bound_is_shortened_and_if_none_is_left_it_stays() -> None:
    """Where mass leaves a likely answer, KL(π_old‖π) grows faster than its quadratic form says."""
    world = bandit(ref=[0.9, 0.025, 0.025, 0.025, 0.025], reward=[-1, 0, 0, 0, 1])
    problem = Problem(build("trpo", beta_kl=0.0), world, guide=None, old=None)
    taken = constrained_step(problem, ConstrainedStep(max_kl=0.5, shrink=0.7))
    assert taken.share in (0.7, 0.7**2, 0.7**3) and 0.1 < taken.kl <= 0.5
    problem = Problem(build("trpo", beta_kl=0.0), world, guide=None, old=None)
    assert constrained_step(problem, ConstrainedStep(max_kl=0.5, backtracks=1)).share == 0
    assert plain.tv(problem.policy().law()[0].detach().numpy(), world.ref[0].numpy()) < 1e-12


# --------------------------------------------------------------------------------------------------- mirror descent


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", TOKEN_FORMS, ids=["sampled", "exact"])
def test_a_step_on_tokens_tilts_each_state_by_the_old_policys_q(shape: str, form: dict[str, str]) -> None:
    world, recipe = a_world(shape), build("mirror_descent", eta=1.7, beta_kl=0.0, **form)
    words, found = states(world, world.ref[0].numpy(), world.reward[0].numpy())
    step = {s: plain.softmax(np.log(p) + 1.7 * q) for s, (_, p, q) in found.items()}
    expected = law_of(words, step)
    assert plain.tv(predict(recipe, world).law[0].numpy(), expected) < 1e-12
    assert plain.tv(solve(recipe, world).law[0].numpy(), expected) < 1e-7
    whole = plain.gibbs(world.ref[0].numpy(), 1.7 * world.reward[0].numpy(), 1.0)
    assert (plain.tv(expected, whole) < 1e-9) == (shape == "bandit")


@pytest.mark.parametrize("form", [{}, *TOKEN_FORMS], ids=["sequence", "sampled", "exact"])
def test_iterated_with_a_pull_every_form_rests_at_the_boltzmann_policy(form: dict[str, str]) -> None:
    world = a_world("tree")
    recipe = build("mirror_descent", eta=2.0, beta_kl=world.tau, **form)
    assert predict(recipe, world).target == "boltzmann"
    expected = plain.gibbs(world.ref[0].numpy(), world.reward[0].numpy(), world.tau)
    assert plain.tv(solve(recipe, world).law[0].numpy(), expected) < 1e-7


def test_where_lengths_differ_a_sequence_mean_has_no_closed_form_for_one_step() -> None:
    recipe = build("mirror_descent", eta=2.0, beta_kl=0.0, ratio="token", kl_old="exact", aggregation="sequence_mean")
    assert predict(recipe, a_world("ragged")).law is None
    assert predict(recipe, a_world("tree")).target == "per_state"


def test_the_lab_names_the_step() -> None:
    world = verify.with_guides(a_world("tree"))
    one = verify.answer("mirror_descent", world, overrides={"ratio": "token", "kl_old": "exact"})
    assert (one["target"], one["shares_pi_tau"]) == ("per_state", False) and one["tv"] < 1e-7
    one = verify.answer("trpo", world, overrides={})
    assert (one["target"], one["shares_pi_tau"]) == ("boltzmann", True) and one["tv"] < 1e-7


# ------------------------------------------------------------------------------------------------ off-policy, and SAC


@pytest.fixture
def tables():
    """(log π_k, Q) at three states of four tokens, and two laws of states."""
    gen = torch.Generator().manual_seed(0)
    anchor = torch.log_softmax(torch.randn(1, 3, 4, generator=gen, dtype=torch.float64), -1)
    q = torch.randn(1, 3, 4, generator=gen, dtype=torch.float64)
    return anchor, q, *(torch.tensor([one], dtype=torch.float64) for one in ([0.2, 0.3, 0.5], [0.8, 0.1, 0.1]))


def test_the_off_policy_loss_has_one_minimum_whatever_the_buffer(tables) -> None:
    anchor, q, *buffers = tables
    expected = anchor.exp().numpy() * np.exp(0.7 * q.numpy())
    normalizer = expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(boltzmann_step(anchor, q, t=0.7).exp().numpy(), expected / normalizer, rtol=1e-12)
    for visits in buffers:
        logits = torch.log(torch.tensor(expected)).requires_grad_()
        loss = off_policy_loss(torch.log_softmax(logits, -1), anchor, q, t=0.7, visits=visits)
        assert float(torch.autograd.grad(loss, logits)[0].abs().max()) < 1e-12
        lowest = -(visits.numpy() * np.log(normalizer[..., 0])).sum()
        assert float(loss.detach()) == pytest.approx(lowest, rel=1e-12)
        for seed in range(5):
            other = torch.randn(anchor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            assert float(off_policy_loss(other.log_softmax(-1), anchor, q, t=0.7, visits=visits)) > lowest


def test_from_the_uniform_policy_the_step_is_soft_actor_critics(tables) -> None:
    """α·(log π − log 1/V − Q/α) = α log π − Q + α log V: one loss but for a constant, one minimum softmax(Q/α)."""
    _, q, visits, _ = tables
    alpha, slopes = 0.3, []
    logits = torch.randn(q.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    logp = torch.log_softmax(logits, -1)
    mirror = alpha * off_policy_loss(logp, uniform(q), q, t=1 / alpha, visits=visits)
    soft = soft_actor_critic_loss(logp, q, alpha=alpha, visits=visits)
    assert float((mirror - soft).detach()) == pytest.approx(alpha * np.log(4), rel=1e-12)
    slopes = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (mirror, soft)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=1e-15)
    step = boltzmann_step(uniform(q), q, t=1 / alpha).exp().numpy()
    np.testing.assert_allclose(step[0, 1], plain.softmax(q[0, 1].numpy() / alpha), rtol=1e-12)


def test_iterates_are_greedy_without_a_pull_and_boltzmann_with_one() -> None:
    world = a_world("ragged")
    tree, ref, reward = world.tree, world.tree.conditional(world.ref), world.tree.outcome(world.reward)
    greedy = tree.leaf_sum(iterates(tree, ref, reward, t=3.0, steps=400)[-1]).exp()[0].numpy()
    assert greedy[int(world.reward[0].argmax())] > 1 - 1e-6
    pulled = iterates(tree, ref, reward, t=1.0, steps=60, ref=ref, beta=world.tau)[-1]
    expected = plain.gibbs(world.ref[0].numpy(), world.reward[0].numpy(), world.tau)
    assert plain.tv(tree.leaf_sum(pulled).exp()[0].numpy(), expected) < 1e-9


def test_on_single_tokens_the_way_to_the_boltzmann_policy_shrinks_by_one_minus_t_beta() -> None:
    world = bandit()
    tree, ref, reward = world.tree, world.tree.conditional(world.ref), world.tree.outcome(world.reward)
    found = iterates(tree, ref, reward, t=0.4, steps=4, ref=ref, beta=0.7)
    target = np.log(plain.gibbs(world.ref[0].numpy(), world.reward[0].numpy(), 0.7))
    gaps = [one[0, 0].numpy() - target for one in found]
    gaps = [gap - gap.mean() for gap in gaps]
    for before, after in pairwise(gaps):
        np.testing.assert_allclose(after, (1 - 0.4 * 0.7) * before, rtol=1e-9)
    summed = iterates(tree, ref, reward, t=0.4, steps=4)[-1][0, 0].exp().numpy()
    np.testing.assert_allclose(summed, plain.gibbs(world.ref[0].numpy(), 1.6 * world.reward[0].numpy(), 1.0), rtol=1e-9)
