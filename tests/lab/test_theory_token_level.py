"""The token-level statements: 1–6 on "from r to Q*" (a) and 1–5 on RTO (b), on enumerated trees.

"N" in a name marks a negative control: what must not hold.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at
from tests.lab.plain import sigmoid, tree_world, tv
from tokenward.lab.optima import exact
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import Models, batch_of, policy_with, stats_of
from tokenward.lab.solving.solve import solve
from tokenward.masking import keep
from tokenward.recipes import build
from tokenward.types import Batch, TokenStats

TAU = 0.6
SHAPES = [(3, 3, None), (3, 3, 2)]


def a_world(shape, **fields):
    vocab, horizon, eos = shape
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, tau=TAU, **fields)


def token_rewards(tree, seed=0):
    """A random reward at every token of every state, for two prompts."""
    return torch.tensor(np.random.default_rng(seed).normal(size=(2, tree.states, tree.vocab)))


def gibbs_of(world, reward):
    """π_ref·exp(R/τ)/Z over whole sequences, R the sum of token rewards, in plain numpy."""
    total = world.tree.leaf_sum(reward).numpy()
    return np.stack([plain.gibbs(r, s, TAU) for r, s in zip(world.ref.numpy(), total, strict=True)]), total


# ------------------------------------------------------------------------------------------- (a) from r to Q*


@pytest.mark.parametrize("shape", SHAPES)
def test_a1_soft_value_iteration_is_gibbs_on_sequences(shape):
    world = a_world(shape)
    reward = token_rewards(world.tree)
    soft = exact.soft_values(world.tree, world.tree.conditional(world.ref), reward, tau=TAU)
    law, total = gibbs_of(world, reward)
    assert np.abs(world.tree.leaf_sum(soft.logp).exp().numpy() - law).max() < 1e-12
    z = TAU * np.log((world.ref.numpy() * np.exp(total / TAU)).sum(-1))
    assert np.abs(soft.v[:, 0].numpy() - z).max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_a2_log_ratios_are_the_optimal_advantage(shape):
    tree = a_world(shape).tree
    ref, reward = tree.conditional(a_world(shape).ref), token_rewards(tree)
    soft = exact.soft_values(tree, ref, reward, tau=TAU)
    expected = reward + tree.ahead(soft.v) - soft.v[..., None]
    assert float((TAU * (soft.logp - ref) - expected).abs().max()) < 1e-12
    assert float(((ref + soft.advantage / TAU).exp().sum(-1) - 1).abs().max()) < 1e-12
    assert float((soft.logp.exp().sum(-1) - 1).abs().max()) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_a3_every_policy_is_the_optimum_of_its_own_log_ratio_with_value_zero(shape):
    world = a_world(shape)
    tree, ref = world.tree, world.tree.conditional(world.ref)
    rng = np.random.default_rng(1)
    law = torch.tensor(np.stack([plain.random_law(rng, tree.leaves) for _ in range(2)]))
    own = tree.conditional(law)
    soft = exact.soft_values(tree, ref, TAU * (own - ref), tau=TAU)
    assert float((soft.logp - own).abs().max()) < 1e-12
    assert float(soft.v.abs().max()) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_a3_reward_and_optimal_q_determine_each_other(shape):
    world = a_world(shape)
    tree, ref, reward = world.tree, world.tree.conditional(world.ref), token_rewards(world.tree)
    soft = exact.soft_values(tree, ref, reward, tau=TAU)
    v = TAU * torch.logsumexp(ref + soft.q / TAU, dim=-1)
    assert float((soft.q - tree.ahead(v) - reward).abs().max()) < 1e-12
    other = token_rewards(tree, seed=2)  # Q chosen freely is optimal for the reward that it implies
    implied = other - tree.ahead(TAU * torch.logsumexp(ref + other / TAU, dim=-1))
    assert float((exact.soft_values(tree, ref, implied, tau=TAU).q - other).abs().max()) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_a4_shaping_that_is_zero_at_the_end_changes_neither_policy_nor_preferences(shape):
    world = a_world(shape)
    tree, ref, reward = world.tree, world.tree.conditional(world.ref), token_rewards(world.tree)
    potential = torch.tensor(np.random.default_rng(3).normal(size=(2, tree.states)))
    shaped = reward + tree.ahead(potential) - potential[..., None]
    plainly, soft = (exact.soft_values(tree, ref, r, tau=TAU) for r in (reward, shaped))
    assert float((plainly.logp - soft.logp).abs().max()) < 1e-12
    before, after = tree.leaf_sum(reward), tree.leaf_sum(shaped)
    gap = exact.bradley_terry(before) - exact.bradley_terry(after)
    assert float(gap.abs().max()) < 1e-12  # within a prompt
    across = sigmoid((before[0, 0] - before[1, 0]).numpy()) - sigmoid((after[0, 0] - after[1, 0]).numpy())
    assert abs(across) > 1e-3  # N: across prompts the shift V(x) − V(x′) shows
    at_end = shaped + tree.outcome(torch.tensor(np.random.default_rng(4).normal(size=(2, tree.leaves))))
    other = exact.soft_values(tree, ref, at_end, tau=TAU)
    assert float((plainly.logp - other.logp).abs().max()) > 0.1  # N: a potential of the leaves is another reward


@pytest.mark.parametrize("shape", SHAPES)
def test_a5_population_dpo_finds_the_optimal_advantage_of_every_token(shape):
    """Labels from Bradley–Terry on the sums of token rewards; the log-ratio of a token is A*, not its reward."""
    base = a_world(shape)
    tree, reward = base.tree, token_rewards(base.tree)
    total = tree.leaf_sum(reward)
    world = replace(base, prompts=tuple(replace(p, reward=r) for p, r in zip(base.prompts, total, strict=True)))
    problem_law = solve(build("dpo", beta=TAU), world).law
    ref = tree.conditional(world.ref)
    soft = exact.soft_values(tree, ref, reward, tau=TAU)
    credit = TAU * (tree.conditional(problem_law) - ref)
    assert float((credit - soft.advantage).abs().max()) < 1e-6
    assert np.abs(problem_law.numpy() - gibbs_of(world, reward)[0]).max() < 1e-8
    assert float((credit - reward).abs().max()) > 0.1  # N
    gap = total - tree.leaf_sum(credit)
    assert float((gap - soft.v[:, :1]).abs().max()) < 1e-6  # the sums differ by V of the prompt


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a6_search_on_likelihood_is_search_on_reward_with_the_optimal_value(depth):
    world = a_world((3, 3, None))
    tree, ref, reward = world.tree, world.tree.conditional(world.ref), token_rewards(world.tree)
    soft = exact.soft_values(tree, ref, reward, tau=TAU)
    for x in range(2):
        found = []
        for word in itertools.product(range(3), repeat=depth):
            state, by_reward, by_likelihood = 0, 0.0, float(soft.v[x, 0])
            for a in word:
                by_reward += float(reward[x, state, a] + TAU * ref[x, state, a])
                by_likelihood += TAU * float(soft.logp[x, state, a])
                state = int(tree.child[state, a])
            by_reward += float(soft.v[x, state]) if state >= 0 else 0.0
            assert by_reward == pytest.approx(by_likelihood, abs=1e-12)
            found.append((by_reward, by_likelihood))
        assert int(np.argmax([a for a, _ in found])) == int(np.argmax([b for _, b in found]))


def test_a6_the_likeliest_sequence_maximizes_reward_plus_log_reference_not_reward():
    differs = 0
    for seed in range(20):
        world = a_world((3, 3, 2), seed=seed)
        likeliest = world.target.argmax(-1)
        assert torch.equal(likeliest, (world.reward + TAU * world.ref.log()).argmax(-1))
        differs += int((likeliest != world.reward.argmax(-1)).sum())
    assert differs > 5  # N


# --------------------------------------------------------------------------------------------------- (b) RTO

B1, B2 = 0.3, 0.5  # β_guide, β_kl


def rto(where="token", *, lam=0.95, clip=None):
    return build("rto", beta_guide=B1, beta_kl=B2, lam=lam, placement=where, guide_clip=clip)


@pytest.fixture
def world():
    base = a_world((3, 3, 2), seed=4)
    rng = np.random.default_rng(5)
    return replace(base, prompts=tuple(replace(p, guide=torch.tensor(plain.random_law(rng, 15))) for p in base.prompts))


def guides(world):
    return torch.stack([p.guide for p in world.prompts])


def optimum(recipe, world):
    return solve(recipe, world, guide=guides(world)).law.numpy()


def rto_law(world):
    return np.stack(
        [
            plain.gibbs(p.ref.numpy(), B1 * np.log(p.guide.numpy() / p.ref.numpy()) + p.reward.numpy(), B2)
            for p in world.prompts
        ]
    )


def ppo_law(world):
    return np.stack([plain.gibbs(p.ref.numpy(), p.reward.numpy(), B2) for p in world.prompts])


@pytest.mark.parametrize("where", ["token", "sentence", "end"])
def test_b1_every_placement_has_rtos_optimum(world, where):
    assert np.abs(optimum(rto(where), world) - rto_law(world)).max() < 1e-8
    prediction = predict(rto(where), world, guide=guides(world))
    assert prediction.target == "extrapolated" and not prediction.shares
    assert np.abs(prediction.law.numpy() - rto_law(world)).max() < 1e-12


def test_b1_what_is_taken_back_at_the_end_leaves_ppos_optimum(world):
    assert np.abs(optimum(rto("residual"), world) - ppo_law(world)).max() < 1e-8
    assert predict(rto("residual"), world, guide=guides(world)).target == "boltzmann"
    assert max(tv(a, b) for a, b in zip(rto_law(world), ppo_law(world), strict=True)) > 0.05


def setting(recipe, world, seed=6):
    """A random policy that has just sampled: batch, stats with the exact critic, and the policy."""
    rng = np.random.default_rng(seed)
    law = torch.tensor(np.stack([plain.random_law(rng, world.tree.leaves) for _ in range(2)]))
    policy = policy_with(law, tree=world.tree)
    policy.logits.requires_grad_()
    batch = batch_of(recipe, world, law)
    return batch, stats_of(recipe, world, batch, Models(policy, policy, guides(world))), policy


def gradient(recipe, world, *, critic):
    batch, stats, policy = setting(recipe, world)
    if critic is not None:
        rows = world.tree.rows(critic[..., None].expand(-1, -1, world.tree.vocab))
        stats = replace(stats, old_value=rows, value=rows)
    value = recipe.value(batch, replace(stats, value=stats.value.detach()))
    return torch.autograd.grad(value, policy.logits)[0]


def unwhitened(recipe):
    return replace(recipe, steps=recipe.steps[:-1])


def test_b2_expected_gradients_do_not_see_the_placement_with_lambda_one(world):
    critic = torch.tensor(np.random.default_rng(7).normal(size=(2, world.tree.states)))
    for baseline in (None, critic, torch.zeros_like(critic)):
        token, sentence, end = (
            gradient(unwhitened(rto(where, lam=1.0)), world, critic=baseline) for where in ("token", "sentence", "end")
        )
        assert float((token - sentence).abs().max()) < 1e-12
        assert float((token - end).abs().max()) < 1e-12
        taken = gradient(unwhitened(rto("residual", lam=1.0)), world, critic=baseline)
        ppo = gradient(unwhitened(build("ppo", beta_kl=B2, lam=1.0)), world, critic=baseline)
        assert float((taken - ppo).abs().max()) < 1e-12
        assert float((token - ppo).abs().max()) > 1e-3
    ragged = [gradient(unwhitened(rto(where, lam=0.9)), world, critic=critic) for where in ("token", "end")]
    assert float((ragged[0] - ragged[1]).abs().max()) > 1e-4  # N: λ < 1 with an imperfect critic


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_b2_exact_critics_make_advantages_equal_path_by_path(world, lam):
    def advantage(recipe):
        batch, stats, _ = setting(recipe, world)
        return unwhitened(recipe).signal(batch, stats).advantage

    token, sentence, end = (advantage(rto(where, lam=lam)) for where in ("token", "sentence", "end"))
    assert float((token - sentence).abs().max()) < 1e-12
    assert float((token - end).abs().max()) < 1e-12
    ppo = build("ppo", beta_kl=B2, lam=lam)
    assert float((advantage(rto("residual", lam=lam)) - advantage(ppo)).abs().max()) < 1e-12
    assert float((token - advantage(ppo)).abs().max()) > 1e-3


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_b2_taking_back_is_ppo_with_a_shifted_critic(world, lam):
    """GAE(r_RS, V) = GAE(r_PPO, V + Φ), Φ_t = β_guide Σ_{i<t} log π_guide/π_ref, for any V."""
    taken, ppo = unwhitened(rto("residual", lam=lam)), unwhitened(build("ppo", beta_kl=B2, lam=lam))
    batch, stats, _ = setting(taken, world)
    value = torch.tensor(np.random.default_rng(8).normal(size=tuple(stats.logp.shape)))
    step = keep(B1 * (stats.guide_logp - stats.guide_ref_logp), batch.mask)
    before = step.cumsum(-1) - step
    with_v = taken.signal(batch, replace(stats, old_value=value)).advantage
    shifted = ppo.signal(batch, replace(stats, old_value=value + before)).advantage
    assert float((with_v - shifted).abs().max()) < 1e-12


def test_b3_a_dense_perfect_reward_needs_no_look_ahead(world):
    """γ = 0 and β_guide = β_kl with π_guide = π*: each token's own reward already is the optimal advantage."""
    own = replace(world, prompts=tuple(replace(p, guide=g) for p, g in zip(world.prompts, world.target, strict=True)))
    law = optimum(build("distill", beta_kl=TAU, gamma=0.0), own)
    assert np.abs(law - world.target.numpy()).max() < 1e-8
    sparse = optimum(build("ppo", beta_kl=TAU, gamma=0.0), own)
    assert max(tv(a, b) for a, b in zip(sparse, world.target.numpy(), strict=True)) > 0.05  # N


def test_b4_a_clip_moves_the_optimum_unless_the_clipped_sum_is_taken_back(world):
    clip = 0.1
    clipped = optimum(build("rto", beta_guide=B1, beta_kl=B2, guide_clip=clip), world)
    assert max(tv(a, b) for a, b in zip(clipped, rto_law(world), strict=True)) > 0.01
    prediction = predict(build("rto", beta_guide=B1, beta_kl=B2, guide_clip=clip), world, guide=guides(world))
    assert np.abs(prediction.law.numpy() - clipped).max() < 1e-8
    words = plain.sequences(3, 3, 2)
    for x, p in enumerate(world.prompts):
        logs = zip(plain.token_logs(words, p.guide.numpy()), plain.token_logs(words, p.ref.numpy()), strict=True)
        total = [np.clip(B1 * (np.array(g) - np.array(r)), -clip, clip).sum() for g, r in logs]
        assert np.abs(clipped[x] - plain.gibbs(p.ref.numpy(), total + p.reward.numpy(), B2)).max() < 1e-8
    assert np.abs(optimum(rto("residual", clip=clip), world) - ppo_law(world)).max() < 1e-8


def test_b5_the_reward_of_rto_token_by_token_on_a_batch_by_hand():
    """Rows of two prompt tokens (one in the second row), three and two response tokens, padding of NaN.

    r_t = β_guide (guide − guide_ref) − β_kl (old − ref), and the score 2 (−1) at the last response token:
    row 0: .1·(.5) − .2·(.3) = −.01;  .1·(−1) − .2·(.0) = −.1;  .1·(.2) − .2·(−.5) + 2 = 2.12
    row 1: .1·(.0) − .2·(1) = −.2;  .1·(.4) − .2·(.1) − 1 = −.98
    """
    nan = float("nan")

    def rows(first, second):
        return torch.tensor([[nan, nan, *first], [nan, *second, nan, nan]], dtype=torch.float64)

    mask = torch.tensor([[False, False, True, True, True], [False, True, True, False, False]])
    batch = Batch(
        tokens=torch.zeros(2, 5, dtype=torch.long),
        length=torch.tensor([5, 3]),
        mask=mask,
        group=torch.tensor([0, 1]),
        weight=torch.ones(2, dtype=torch.float64),
        score=torch.tensor([2.0, -1.0], dtype=torch.float64),
    )
    zero = torch.zeros(2, 5, dtype=torch.float64)
    stats = TokenStats(
        old_logp=rows([-0.7, -1.0, -1.5], [-1.0, -0.4]),
        ref_logp=rows([-1.0, -1.0, -1.0], [-2.0, -0.5]),
        guide_logp=rows([-0.5, -2.0, -0.8], [-1.0, -0.6]),
        guide_ref_logp=rows([-1.0, -1.0, -1.0], [-1.0, -1.0]),
        old_value=zero,
    )

    def reward(**settings):
        found = build("rto", **{"beta_guide": 0.1, "beta_kl": 0.2, **settings}).signal(batch, stats).reward
        assert bool((found[~mask] == 0).all())
        return found[mask].tolist()

    assert reward() == pytest.approx([-0.01, -0.1, 2.12, -0.2, -0.98])
    assert reward(beta_guide=0.0) == pytest.approx([-0.06, 0.0, 2.1, -0.2, -1.02])  # off, not 1
    assert reward(guide_clip=0.03) == pytest.approx([-0.03, -0.03, 2.12, -0.2, -0.99])
    assert reward(beta_kl=0.0) == pytest.approx([0.05, -0.1, 2.02, 0.0, -0.96])


def test_b_exact_critic_advantage_at_the_optimum_is_zero_on_every_path(world):
    """At π_RTO nothing is left to learn: GAE with the exact critic is 0 token by token, for every λ."""
    recipe = unwhitened(rto(lam=0.7))
    problem = at("rto", world, rto_law(world), guide=guides(world).numpy(), beta_guide=B1, beta_kl=B2)
    batch = batch_of(recipe, world, problem.policy().law().detach())
    stats = stats_of(recipe, world, batch, Models(problem.policy(), problem.policy(), guides(world)))
    with torch.no_grad():
        assert float(recipe.signal(batch, stats).advantage.abs().max()) < 1e-12
