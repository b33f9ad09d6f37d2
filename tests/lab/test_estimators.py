"""Facts about k1, k2, k3 and about the four scenarios on their own samples, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, kl, random_law, tv
from tokenward.lab.theory.connection import connections, divergence_slope, preference_advantage
from tokenward.lab.theory.estimators import gaussian, rests, slopes, values

K = {"k1": lambda z: z, "k2": lambda z: z**2 / 2, "k3": lambda z: np.exp(-z) - 1 + z}
TREE = {"vocab": 3, "horizon": 3, "eos": 2, "prompts": 2, "tau": TAU, "seed": 11}


def laws(world, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([random_law(rng, world.tree.leaves) for _ in world.prompts])


# ------------------------------------------------------------------------------------------------ the Gaussian table


@pytest.mark.parametrize(("shift", "printed"), [(0.1, (20, 0.002, 1.42, 1.42)), (1.0, (2, 0.25, 1.73, 1.7))])
def test_schulmans_table(shift, printed):
    """Means and spreads by Gauss–Hermite quadrature; `printed` are the numbers of the blog, to its digits."""
    x, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    z = shift**2 / 2 - shift * x  # log q/p
    true = weight @ z
    assert true == pytest.approx({0.1: 0.005, 1.0: 0.5}[shift], abs=1e-14)
    found = gaussian(shift)
    for name, k in K.items():
        mean = weight @ k(z)
        assert found[name].bias == pytest.approx((mean - true) / true, abs=1e-10)
        assert found[name].std == pytest.approx(np.sqrt(weight @ (k(z) - mean) ** 2) / true, rel=1e-10)
    k1_std, k2_bias, k2_std, k3_std = printed
    assert found["k1"].std == pytest.approx(k1_std, rel=1e-12)
    assert found["k2"].bias == pytest.approx(k2_bias, abs=6e-4)
    assert found["k2"].std == pytest.approx(k2_std, abs=5e-3)
    assert found["k3"].std == pytest.approx(k3_std, abs=6e-3)


# --------------------------------------------------------------------------------------------------- as values


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    world = bandit()
    law = random_law(np.random.default_rng(1), 5, spread=2)
    found = values(world, torch.tensor(law)[None])
    z = np.log(law / REF)
    for name, k in K.items():
        mean = law @ k(z)
        assert found[name].kl == pytest.approx(kl(law, REF), abs=1e-15)
        assert found[name].mean == pytest.approx(mean, abs=1e-14)
        assert found[name].variance == pytest.approx(law @ (k(z) - mean) ** 2, abs=1e-14)
    assert abs(found["k1"].bias) < 1e-15
    assert abs(found["k3"].bias) < 1e-15
    assert abs(found["k2"].bias) > 1e-2
    assert found["k3"].variance < found["k1"].variance


def test_values_on_a_ragged_tree_are_sums_over_tokens():
    world = plain.tree_world(**TREE)
    law = laws(world)
    words = plain.sequences(3, 3, 2)
    found = values(world, torch.tensor(law))
    shares = (1 / 3, 2 / 3)
    for name, k in K.items():
        mean = second = 0.0
        for x, share in enumerate(shares):
            own, ref = plain.token_logs(words, law[x]), plain.token_logs(words, world.ref[x].numpy())
            total = np.array([sum(k(np.array(a) - np.array(b))) for a, b in zip(own, ref, strict=True)])
            mean += share * law[x] @ total
            second += share * law[x] @ total**2
        assert found[name].mean == pytest.approx(mean, abs=1e-13)
        assert found[name].variance == pytest.approx(second - mean**2, abs=1e-12)
    whole = sum(share * kl(law[x], world.ref[x].numpy()) for x, share in enumerate(shares))
    assert found["k1"].mean == pytest.approx(whole, abs=1e-13)
    assert found["k3"].mean == pytest.approx(whole, abs=1e-13)


# --------------------------------------------------------------------------------------------------- as losses


def test_as_losses_on_a_bandit():
    """Detached: k1 nothing, k2 the reverse KL, k3 the forward. With the ratio: k1 and k3 the reverse KL, k2 neither."""
    law = random_law(np.random.default_rng(2), 5)
    found = slopes(bandit(), torch.tensor(law)[None])
    ratio = np.log(law / REF)
    reverse, forward = law * (ratio - law @ ratio), law - REF
    one = {name: (s.detached[0, 0].numpy(), s.ratio[0, 0].numpy()) for name, s in found.items()}
    assert np.abs(one["k1"][0]).max() < 1e-15
    assert np.abs(one["k2"][0] - reverse).max() < 1e-15
    assert np.abs(one["k3"][0] - forward).max() < 1e-15
    assert np.abs(one["k1"][1] - reverse).max() < 1e-15
    assert np.abs(one["k3"][1] - reverse).max() < 1e-15
    assert min(np.abs(one["k2"][1] - other).max() for other in (reverse, forward)) > 1e-2
    assert np.abs(found["k1"].reverse[0, 0].numpy() - reverse).max() < 1e-15
    assert np.abs(found["k1"].forward[0, 0].numpy() - forward).max() < 1e-15


def numeric(function, theta, h=1e-6):
    slope = np.zeros_like(theta)
    for i in np.ndindex(theta.shape):
        up, down = theta.copy(), theta.copy()
        up[i] += h
        down[i] -= h
        slope[i] = (function(up) - function(down)) / (2 * h)
    return slope


def test_as_losses_on_a_ragged_tree():
    """Per token, a detached loss sees the states' divergences at fixed visits; the ratio brings back the whole KL."""
    world = plain.tree_world(**TREE)
    law = laws(world)
    found = slopes(world, torch.tensor(law))
    words = plain.sequences(3, 3, 2)
    states = sorted({w[:t] for w in words for t in range(len(w))})
    theta = np.stack([[[plain.through(words, row)[(*s, a)] for a in range(3)] for s in states] for row in law])
    theta = np.log(theta)

    def table(logits):
        return {s: plain.softmax(row) for s, row in zip(states, logits, strict=True)}

    def sequence_law(logits):
        step = table(logits)
        return np.array([np.prod([step[w[:t]][w[t]] for t in range(len(w))]) for w in words])

    def mean_over_prompts(function):
        return lambda both: sum(share * function(x, both[x]) for x, share in enumerate((1 / 3, 2 / 3)))

    whole = numeric(mean_over_prompts(lambda x, own: kl(sequence_law(own), world.ref[x].numpy())), theta)
    refs = [
        {s: np.array([mass[(*s, a)] / mass[s] for a in range(3)]) for s in states}
        for mass in (plain.through(words, ref.numpy()) for ref in world.ref)
    ]

    def at_states(direction):
        def summed(x, own):
            step, visits = table(own), plain.through(words, law[x])
            both = ((step[s], refs[x][s]) if direction == "reverse" else (refs[x][s], step[s]) for s in states)
            return sum(visits[s] * kl(*pair) for s, pair in zip(states, both, strict=True))

        return numeric(mean_over_prompts(summed), theta)

    order = [tuple(s) for s in _states_of(world)]
    place = [states.index(s) for s in order]
    for name, expected in (("k1", 0 * whole), ("k2", at_states("reverse")), ("k3", at_states("forward"))):
        assert np.abs(found[name].detached.numpy() - expected[:, place]).max() < 1e-8
    for name in ("k1", "k3"):
        assert np.abs(found[name].ratio.numpy() - whole[:, place]).max() < 1e-8
    assert np.abs(found["k2"].ratio.numpy() - whole[:, place]).max() > 1e-2
    assert np.abs(found["k2"].detached.numpy() - whole[:, place]).max() > 1e-2


def _states_of(world):
    """The prefix of each state, in the tree's order."""
    found: dict[int, tuple[int, ...]] = {}
    for tokens, states, length in zip(world.tree.tokens, world.tree.state, world.tree.length, strict=True):
        for t in range(int(length)):
            found[int(states[t])] = tuple(tokens[:t].tolist())
    return [found[s] for s in sorted(found)]


def test_rests_of_a_bandit_are_where_the_forces_vanish():
    """−F⁻¹g = r/τ less the pull of each estimator, constant over answers at rest; k1 detached does not pull at all."""
    found = {name: {rest.place: rest for rest in every} for name, every in rests(bandit()).items()}
    pull = {"k2": lambda u: np.log(u), "k3": lambda u: 1 - 1 / u}
    for name, force in pull.items():
        law = found[name]["loss"].law[0].numpy()
        assert law.sum() == pytest.approx(1, abs=1e-12)
        assert np.ptp(REWARD - TAU * force(law / REF)) < 1e-9
    assert tv(found["k2"]["loss"].law[0], gibbs(REF, REWARD, TAU)) < 1e-12
    assert tv(found["k3"]["loss"].law[0], gibbs(REF, REWARD, TAU)) > 1e-2
    assert found["k1"]["loss"].law is None
    for name, place in (("k1", "reward"), ("k1", "ratio"), ("k3", "ratio")):
        assert tv(found[name][place].law[0], gibbs(REF, REWARD, TAU)) < 1e-12
    target = gibbs(REF, REWARD, TAU)
    for name in ("k2", "k3"):  # as rewards these leave a force at π^τ
        assert np.ptp(REWARD - TAU * K[name](np.log(target / REF))) > 0.1


# ---------------------------------------------------------------------------------- the four scenarios on own samples


@pytest.mark.parametrize("shape", [(5, 1, None), (3, 3, 2)])
def test_on_policy_scenarios_are_multiples_of_one_gradient(shape):
    vocab, horizon, eos = shape
    world = plain.tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, tau=TAU, seed=1)
    law = torch.tensor(laws(world, 3))
    for group in (2, 3):
        found = connections(world, law, group=group)
        expected = {"ra": 2 * TAU**2, "rda": 4 * TAU**2, "rloo": TAU, "reinforce": TAU}
        for name, factor in expected.items():
            assert found[name].ratio == pytest.approx(factor, rel=1e-10)
            assert found[name].off < 1e-10
            assert found[name].cosine == pytest.approx(1, abs=1e-12)
        assert found["rloo"].ratio / found["rda"].ratio == pytest.approx(1 / (4 * TAU), rel=1e-10)
        assert found["pra"].off > 1e-2
        assert found["pra"].cosine > 0.9


def test_the_gradient_of_the_divergence_and_the_preference_advantage_by_hand():
    world = bandit()
    law = random_law(np.random.default_rng(4), 5)
    d = np.log(law / gibbs(REF, REWARD, TAU))
    row = torch.tensor(law)[None]
    assert np.abs(divergence_slope(world, row)[0, 0].numpy() - law * (d - law @ d)).max() < 1e-14
    z = TAU * np.log(law / REF)
    wins = plain.sigmoid(REWARD[:, None] - REWARD) - plain.sigmoid(z[:, None] - z)
    advantage = 2 * TAU * wins @ law
    assert np.abs(preference_advantage(world, row)[0].numpy() - advantage).max() < 1e-14
    assert law @ advantage == pytest.approx(0, abs=1e-14)
    assert np.abs(connections(world, row)["pra"].gradient[0, 0].numpy() + law * advantage).max() < 1e-13
