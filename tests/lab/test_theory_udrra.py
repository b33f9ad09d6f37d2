"""The statements on UDRRA, by number, on the bandit fixture, against plain numpy.

Statements and proofs are ours, in the four-scenario organization of Su et al. (2025).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at, slope, value
from tests.lab.plain import PI_TAU, REF, REWARD, TAU, V_TAU, bandit, gibbs, kl, random_law, sigmoid, tv
from tokenward.lab.optima import exact
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.descent import iterate, minimize
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.tree import grow
from tokenward.objective.links import Logistic
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.targets import GivenNormalizer, Label
from tokenward.objective.terms import LogRatio, RowTerm
from tokenward.recipes import build

GAP = REWARD[:, None] - REWARD
PI = gibbs(REF, REWARD, TAU)


def listed(weight):
    """A weight matrix as a world's pairs."""
    return [[i, j, float(weight[i, j])] for i, j in itertools.product(range(len(weight)), repeat=2) if weight[i, j] > 0]


def reached(name, world, **settings):
    return solve(build(name, **settings), world).law[0].numpy()


def d(law):
    return np.log(law / PI)


def test_fixture_has_the_numbers_of_the_notes():
    assert np.abs(PI - PI_TAU).max() < 1e-6
    assert float(bandit().normalizer) == pytest.approx(V_TAU, abs=1e-6)
    assert np.abs(bandit().target[0].numpy() - PI).max() < 1e-15


def test_1_value_gap_is_tau_times_kl():
    rng = np.random.default_rng(0)
    world = bandit()
    for _ in range(20):
        law = random_law(rng, 5, spread=2)
        row = torch.tensor(law)[None]
        j = float(exact.regularized_value(row, ref=world.ref, reward=world.reward, tau=TAU))
        assert float(world.normalizer) - j == pytest.approx(TAU * kl(law, PI), abs=1e-12)


def test_2_tau_trades_reward_for_kl():
    best, gap, last = 3, 2.0 - 1.2, -1.0
    for tau in (2, 1, 0.5, 0.25, 0.1, 0.05):
        law = bandit(tau=tau).target[0].numpy()
        miss = 1 - law[best]
        assert miss <= (1 - REF[best]) / REF[best] * np.exp(-gap / tau) + 1e-15
        assert 0 <= REWARD[best] - law @ REWARD <= tau * np.log(1 / REF[best])
        assert tv(law, np.eye(5)[best]) == pytest.approx(miss, abs=1e-15)
        assert last < kl(law, REF) <= np.log(1 / REF[best])
        last = kl(law, REF)


def test_3_ra_is_tau_squared_mean_d_squared():
    rng = np.random.default_rng(1)
    for _ in range(5):
        mu, law = random_law(rng, 5), random_law(rng, 5)
        got = value("ra", bandit(sampler=mu.tolist()), law, beta=TAU, normalizer="given")
        assert got == pytest.approx(TAU**2 * mu @ d(law) ** 2, abs=1e-12)


@pytest.mark.parametrize(
    ("mu", "normalizer", "target"),
    [
        ([0.1, 0.2, 0.3, 0.2, 0.2], "given", "boltzmann"),
        ([0.1, 0.2, 0.3, 0.2, 0.2], "learned", "boltzmann"),
        ([0.3, 0.2, 0.3, 0.2, 0.0], "given", "boltzmann"),
        ([0.3, 0.2, 0.3, 0.2, 0.0], "learned", None),
        ([0.5, 0.2, 0.3, 0.0, 0.0], "given", None),
    ],
)
def test_3_ra_knows_the_target_where_at_most_one_response_is_missing(mu, normalizer, target):
    world = bandit(sampler=mu)
    recipe = build("ra", beta=TAU, normalizer=normalizer)
    assert predict(recipe, world).target == target
    if target:
        assert tv(reached("ra", world, beta=TAU, normalizer=normalizer), PI) < 1e-7


def test_3_with_two_responses_missing_only_their_sum_is_known():
    world = bandit(sampler=[0.5, 0.2, 0.3, 0.0, 0.0])
    law = reached("ra", world, beta=TAU, normalizer="given")
    assert np.abs(law[:3] - PI[:3]).max() < 1e-7
    assert law[3:].sum() == pytest.approx(PI[3:].sum(), abs=1e-7)
    assert abs(law[3] - PI[3]) > 1e-2


@pytest.mark.parametrize("normalizer", ["given", "learned"])
def test_3_what_samples_do_fix_is_said(normalizer):
    world = bandit(sampler=[0.5, 0.2, 0.3, 0.0, 0.0])
    prediction = predict(build("ra", beta=TAU, normalizer=normalizer), world)
    assert prediction.law is None
    ((part,),) = prediction.identified
    assert part.leaves == (0, 1, 2)
    assert tv(part.law, PI[:3] / PI[:3].sum()) < 1e-12
    law = reached("ra", world, beta=TAU, normalizer=normalizer)
    assert tv(law[:3] / law[:3].sum(), part.law) < 1e-7


def test_3_on_answers_of_the_policy_no_number_of_the_prompt_matters():
    for normalizer in ("given", "learned", "mean_reward", "monte_carlo"):
        world = bandit(sampler="policy")
        assert predict(build("ra", beta=TAU, normalizer=normalizer), world).shares
        assert tv(reached("ra", world, beta=TAU, normalizer=normalizer), PI) < 1e-7


def test_4_ra_with_a_free_value_is_half_of_rda():
    rng = np.random.default_rng(2)
    mu, law = random_law(rng, 5), random_law(rng, 5)
    world = bandit(sampler=mu.tolist(), pairs="sampler")
    problem = at("ra", world, law, beta=TAU)
    with torch.no_grad():
        problem.value.fill_(float(mu @ (REWARD - TAU * np.log(law / REF))))
        free = float(problem.loss())
    assert free == pytest.approx(0.5 * value("rda", world, law, beta=TAU), abs=1e-12)


def test_5_the_mean_reward_for_the_normalizer_is_another_target():
    """τ log ρ + λρ = r − E_ref r for ρ = π/π_ref: a Lambert-W law, solved here by two nested bisections."""
    advantage = REWARD - REF @ REWARD

    def rho(lam):
        low, high = np.full(5, 1e-12), np.full(5, 1e3)
        for _ in range(200):
            middle = (low + high) / 2
            over = TAU * np.log(middle) + lam * middle > advantage
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return low

    low, high = 1e-9, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if REF @ rho(middle) > 1 else (low, middle)
    law = REF * rho(low)
    assert tv(law, PI) == pytest.approx(0.126789, abs=1e-5)
    world = bandit()
    prediction = predict(build("ra", beta=TAU, normalizer="mean_reward"), world)
    assert (prediction.target, prediction.shares) == ("lambert", False)
    assert tv(prediction.law[0], law) < 1e-9
    assert tv(reached("ra", world, beta=TAU, normalizer="mean_reward"), law) < 1e-7


def test_5_of_k_answers_the_mean_takes_an_answers_own_reward_along():
    """Given an answer, the mean of its group of k has 1/k of its own reward: r − that is (1 − 1/k)(r − E r)."""
    whole, tiny = bandit(group=2), bandit(reward=0.5 * REWARD)
    recipe = build("ra", beta=TAU, normalizer="mean_reward")
    law = predict(recipe, whole).law[0]
    assert tv(law, predict(recipe, tiny).law[0]) < 1e-12
    assert tv(reached("ra", whole, beta=TAU, normalizer="mean_reward"), law) < 1e-7


def test_7_random_symmetric_pairs_and_a_path_reach_the_target():
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.05, 1, size=(5, 5))
    weight = weight + weight.T
    worlds = [bandit(pairs=listed(weight)), bandit(pairs=[[0, 1, 1], [2, 1, 2], [2, 3, 1], [4, 3, 1]])]
    for world, name in itertools.product(worlds, ("rda", "pra", "dpo")):
        recipe = build(name, beta=TAU)
        assert predict(recipe, world).shares
        assert tv(reached(name, world, beta=TAU), PI) < 1e-7
    law = random_law(rng, 5)
    total = weight.sum()
    expected = TAU**2 * d(law) @ plain.laplacian(2 * weight / total) @ d(law)
    assert value("rda", worlds[0], law, beta=TAU) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["rda", "pra", "dpo"])
def test_8_unconnected_pairs_keep_the_sum_of_logits_of_each_component(name):
    world = bandit(pairs=[[0, 1, 1], [1, 2, 1]])
    expected = (0.656836, 0.055668, 0.121056, 0.033288, 0.133152)
    prediction = predict(build(name, beta=TAU), world)
    assert (prediction.target, prediction.shares) == ("components", False)
    assert np.abs(prediction.law[0].numpy() - expected).max() < 1e-6
    assert np.abs(reached(name, world, beta=TAU) - expected).max() < 1e-6
    assert tv(expected, PI) == pytest.approx(0.254, abs=1e-3)


def test_8_pairs_of_a_sampler_that_misses_responses_leave_them_where_they_were():
    world = bandit(sampler=[0.5, 0.25, 0.25, 0, 0], pairs="sampler")
    prediction = predict(build("dpo", beta=TAU), world)
    assert prediction.target == "components"
    assert np.abs(prediction.law[0].numpy() - (0.656836, 0.055668, 0.121056, 0.033288, 0.133152)).max() < 1e-6
    assert tv(reached("dpo", world, beta=TAU), prediction.law[0]) < 1e-7


@pytest.mark.parametrize("name", ["dpo", "rda", "pra", "ipo"])
def test_8_on_a_tree_only_the_laws_within_components_are_predicted(name):
    """Logits of prefixes are not logits of leaves: which of the many minimizers is reached is not known."""
    world = plain.tree_world(vocab=2, horizon=2, eos=None, pairs=[[0, 1, 1], [2, 3, 1]])
    prediction = predict(build(name, beta=TAU), world)
    assert prediction.law is None
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    law = reached(name, world, beta=TAU)
    for part, leaves in zip(prediction.identified[0], ([0, 1], [2, 3]), strict=True):
        tilt = (
            reward[leaves]
            if name != "ipo"
            else np.array([1, -1]) * (sigmoid(reward[leaves[0]] - reward[leaves[1]]) - 0.5) / 2
        )
        expected = gibbs(ref[leaves], tilt, TAU)
        assert list(part.leaves) == leaves
        assert tv(part.law, expected) < 1e-12
        assert tv(law[leaves] / law[leaves].sum(), expected) < 1e-7


@pytest.mark.slow
def test_e9_adam_leaves_the_span_and_keeps_the_laws_within_components():
    split = {"pairs": [[0, 1, 1], [1, 2, 1]]}
    world = bandit(optimizer="adam", **split)
    prediction = predict(build("dpo", beta=TAU), world)
    assert (prediction.target, prediction.law) == (None, None)
    laws = [reached("dpo", bandit(optimizer=how, **split), beta=TAU) for how in ("adam", "gradient", "auto")]
    expected = PI[:3] / PI[:3].sum()
    for law in laws:
        assert tv(law[:3] / law[:3].sum(), expected) < 1e-6
    assert tv(laws[1], laws[2]) < 1e-6
    assert tv(laws[0], laws[2]) > 0.01


@pytest.mark.parametrize("name", ["rda", "pra"])
def test_9_mass_can_flow_from_seen_to_unseen(name):
    ref, reward = np.array([0.02, 0.02, 0.56, 0.2, 0.2]), np.array([2, 1, -3, 0, 0.0])
    law = reached(name, bandit(ref=ref, reward=reward, pairs=[[0, 1, 1], [1, 2, 1], [0, 2, 1]]), beta=TAU)
    assert law[:3].sum() == pytest.approx(0.523467, abs=1e-6)


def test_10_pra_hessian_is_a_laplacian_and_both_losses_are_convex():
    rng = np.random.default_rng(4)
    law = random_law(rng, 5)
    hessian = at("pra", bandit(), law, beta=TAU).gradient_and_hessian()[1].numpy()
    z = TAU * (np.log(law / REF)[:, None] - np.log(law / REF))
    curvature = sigmoid(z) * sigmoid(-z)
    assert np.abs(hessian - TAU**2 * plain.laplacian(2 / 25 * curvature)).max() < 1e-12
    for name in ("pra", "rda"):
        for _ in range(10):
            a, b = rng.normal(size=5), rng.normal(size=5)
            line = [value(name, bandit(), plain.softmax(a + t * (b - a)), beta=TAU) for t in (0.0, 0.3, 1.0)]
            assert line[1] <= 0.7 * line[0] + 0.3 * line[2] + 1e-12


def kl_slope(law):
    """∇KL(π‖π^τ) by the logits."""
    return law * (d(law) - law @ d(law))


def test_11_on_policy_the_scenarios_are_one_gradient():
    rng = np.random.default_rng(5)
    on_policy = bandit(sampler="policy", pairs="sampler")
    for _ in range(5):
        law = random_law(rng, 5)
        ra = slope("ra", on_policy, law, beta=TAU, normalizer="given")
        rda = slope("rda", on_policy, law, beta=TAU)
        rloo = slope("rloo", on_policy, law, beta_kl=TAU, aggregation="token_sum")
        assert np.abs(ra - 2 * TAU**2 * kl_slope(law)).max() < 1e-12
        assert np.abs(rda - 4 * TAU**2 * kl_slope(law)).max() < 1e-12
        assert np.abs(rloo - rda / (4 * TAU)).max() < 1e-12
        z = TAU * (np.log(law / REF)[:, None] - np.log(law / REF))
        advantage = 2 * TAU * (sigmoid(GAP) - sigmoid(z)) @ law
        assert np.abs(slope("pra", on_policy, law, beta=TAU) + law * advantage).max() < 1e-12
        assert law @ advantage == pytest.approx(0, abs=1e-12)


def test_12_detached_samplers_of_the_current_policy_reach_the_target():
    world = bandit(sampler="policy", pairs="sampler")
    for name in ("pra", "dpo", "rda", "ra"):
        assert predict(build(name, beta=TAU), world).shares
        assert tv(reached(name, world, beta=TAU), PI) < 1e-7
    assert predict(build("ipo", beta=TAU), world).law is None  # its optimum moves with the sampler


@pytest.mark.slow
def test_12_through_the_sampler_the_kl_form_rests_at_the_target_and_the_cross_entropy_does_not():
    world = bandit(sampler="policy-through", pairs="sampler")
    assert tv(reached("pra", world, beta=TAU), PI) < 1e-7
    assert tv(reached("rda", world, beta=TAU), PI) < 1e-7
    assert np.linalg.norm(slope("pra", world, PI, beta=TAU)) < 1e-12
    assert np.linalg.norm(slope("dpo", world, PI, beta=TAU)) == pytest.approx(0.0453, abs=1e-4)
    assert value("dpo", world, PI, beta=TAU) == pytest.approx(0.60973, abs=1e-5)
    assert tv(reached("dpo", world, beta=TAU), PI) > 0.2
    lowest = []
    rng = np.random.default_rng(0)
    for _ in range(7):
        problem = at("dpo", world, random_law(rng, 5, spread=2), beta=TAU)
        minimize(problem)
        lowest.append(float(problem.loss().detach()))
    assert min(lowest) <= 0.50464 + 1e-5


def test_12_nothing_is_predicted_through_the_sampler_as_faces_of_the_simplex_are_minima_too():
    world = bandit(sampler="policy-through", pairs="sampler")
    for name in ("pra", "dpo", "rda", "ra"):
        assert predict(build(name, beta=TAU), world).target is None
    face = np.where(np.arange(5) == 3, 1e-14, PI)
    assert value("pra", world, face / face.sum(), beta=TAU) < 1e-11


def oriented(joint):
    """A world of a joint law q(winner, loser)."""
    entries = [[i, j, float(joint[i, j])] for i, j in itertools.product(range(5), repeat=2)]
    return bandit(labels={"kind": "oriented", "joint": entries})


def forces(joint, law):
    """Σ_j (q_ij + q_ji)(p̃_ij − σ(z_ij)) of DPO's likelihood on the joint law."""
    z = TAU * (np.log(law / REF)[:, None] - np.log(law / REF))
    return (joint - (joint + joint.T) * sigmoid(z)).sum(1)


def test_13_independent_chosen_and_rejected_teach_their_density_ratio():
    rng = np.random.default_rng(6)
    chosen, rejected = random_law(rng, 5), random_law(rng, 5)
    world = oriented(np.outer(chosen, rejected))
    expected = REF * (chosen / rejected) ** (1 / TAU)
    expected /= expected.sum()
    prediction = predict(build("dpo", beta=TAU), world)
    assert (prediction.target, prediction.shares) == ("density_ratio", False)
    assert tv(prediction.law[0], expected) < 1e-9
    assert tv(reached("dpo", world, beta=TAU), expected) < 1e-7
    assert tv(expected, PI) > 0.2


def test_13_labels_that_bradley_and_terry_explain_are_no_density_ratio():
    rng = np.random.default_rng(16)
    both = rng.uniform(0.2, 1, size=(5, 5))
    score = rng.normal(size=5)
    joint = (both + both.T) * sigmoid(score[:, None] - score)
    prediction = predict(build("dpo", beta=TAU), oriented(joint))
    assert prediction.target == "soft_label"
    assert tv(prediction.law[0], gibbs(REF, score, TAU)) < 1e-9


def test_13_forces_that_balance_leave_the_target_where_it_is():
    """q = Bradley–Terry's plus an antisymmetric circulation along a cycle: no score explains it, and π^τ stays."""
    joint = sigmoid(GAP)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        joint[i, j] += 0.05
        joint[j, i] -= 0.05
    prediction = predict(build("dpo", beta=TAU), oriented(joint))
    assert prediction.shares
    assert tv(reached("dpo", oriented(joint), beta=TAU), PI) < 1e-7


def test_13_any_joint_law_balances_its_forces_where_nothing_is_predicted():
    joint = np.random.default_rng(26).uniform(0.1, 1, size=(5, 5))
    assert predict(build("dpo", beta=TAU), oriented(joint)).law is None
    assert np.abs(forces(joint, reached("dpo", oriented(joint), beta=TAU))).max() < 1e-9


def test_14_two_different_samplers_with_bradley_terry_labels_reach_the_target():
    rng = np.random.default_rng(7)
    world = bandit(pairs=listed(np.outer(random_law(rng, 5), random_law(rng, 5))))
    assert tv(reached("dpo", world, beta=TAU), PI) < 1e-7


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_15_a_label_temperature_multiplies_tau(temperature):
    world = bandit(labels={"kind": "bradley-terry", "temperature": temperature})
    expected = gibbs(REF, REWARD, TAU * temperature)
    prediction = predict(build("dpo", beta=TAU), world)
    assert (prediction.target, prediction.shares) == ("boltzmann", False)
    assert tv(prediction.law[0], expected) < 1e-12
    assert tv(reached("dpo", world, beta=TAU), expected) < 1e-7
    assert predict(build("dpo", beta=TAU / temperature), world).shares
    assert predict(build("rda", beta=TAU), world).shares  # it sees rewards, not labels


def test_16_ipo_reaches_the_tilted_win_rate():
    rng = np.random.default_rng(8)
    mu = random_law(rng, 5)
    world = bandit(sampler=mu.tolist(), pairs="sampler")
    expected = REF * np.exp(sigmoid(GAP) @ mu / TAU)
    expected /= expected.sum()
    assert tv(predict(build("ipo", beta=TAU), world).law[0], expected) < 1e-12
    assert tv(reached("ipo", world, beta=TAU), expected) < 1e-7


@pytest.mark.parametrize("sampler", ["target", "uniform", "reference"])
def test_16_ipo_depends_on_the_named_sampler(sampler):
    mu = {"target": PI, "uniform": np.full(5, 0.2), "reference": REF}[sampler]
    expected = REF * np.exp(sigmoid(GAP) @ mu / TAU)
    world = bandit(sampler=sampler, pairs="sampler")
    assert tv(predict(build("ipo", beta=TAU), world).law[0], expected / expected.sum()) < 1e-12


Q = np.array([0.9, 0.2, 0.5, 0.95, 0.1])  # P(desirable), no function of the reward


def test_16_unpaired_labels_with_a_free_offset_reach_their_odds():
    world = bandit(binary=Q.tolist(), sampler=[0.1, 0.2, 0.3, 0.2, 0.2])
    expected = REF * (Q / (1 - Q)) ** (1 / TAU)
    expected /= expected.sum()
    prediction = predict(build("bco", beta=TAU), world)
    assert (prediction.target, prediction.shares) == ("odds", False)
    assert tv(prediction.law[0], expected) < 1e-12
    assert tv(reached("bco", world, beta=TAU), expected) < 1e-7
    assert predict(build("bco", beta=TAU), bandit()).shares  # labels σ(r): the odds are e^r


def unpaired(offset):
    """BCE of σ(β lr + offset) against the label."""
    term = RowTerm("bce", score=LogRatio("ref_logp", beta=TAU), link=Logistic(), target=Label(), offset=offset)
    return Recipe("bce", (), (Stream("labels"),), (term,))


def test_e5_unpaired_labels_with_a_fixed_offset_are_predicted_only_where_it_is_right():
    """E5: with δ fixed, Σ π_ref (q/(1−q))^{1/β} e^{−δ/β} = 1 is what makes σ(β lr + δ) = q possible."""
    assert predict(unpaired(None), bandit(binary=Q.tolist())).target is None
    law = solve(unpaired(None), bandit(binary=Q.tolist())).law[0].numpy()
    assert tv(law, gibbs(REF, np.log(Q / (1 - Q)), TAU)) > 0.01
    right = np.log(Q / (1 - Q)) - TAU * np.log(REF @ (Q / (1 - Q)) ** (1 / TAU))
    world = bandit(binary=sigmoid(right).tolist())
    assert predict(unpaired(None), world).target == "odds"
    expected = gibbs(REF, np.log(Q / (1 - Q)), TAU)
    assert tv(predict(unpaired(None), world).law[0], expected) < 1e-9
    assert tv(solve(unpaired(None), world).law[0], expected) < 1e-7
    assert predict(unpaired(GivenNormalizer()), bandit()).shares


def test_17_grpos_temperature_and_collapse_in_the_limit_of_large_groups():
    """With an exact KL in the loss and group size → ∞; GroupScale's eps moves σ by 1e-4."""
    law = reached("grpo", bandit(tau=1.0), beta_kl=1.0, kl="exact")
    sigma = np.sqrt(law @ REWARD**2 - (law @ REWARD) ** 2)
    assert sigma == pytest.approx(0.65052, abs=1e-3)
    assert tv(law, gibbs(REF, REWARD, sigma + 1e-4)) < 1e-7
    collapsed = solve(build("grpo", beta_kl=0.5, kl="exact"), bandit(tau=0.5))
    assert not collapsed.converged
    assert tv(predict(build("grpo", beta_kl=1.0, kl="exact"), bandit(tau=1.0)).law[0], law) < 1e-7
    assert "collapses" in predict(build("grpo", beta_kl=0.5, kl="exact"), bandit(tau=0.5)).note
    for kind in ("exact", "loss_k2", "reward"):
        assert tv(reached("rloo", bandit(), beta_kl=TAU, kl=kind), PI) < 1e-7


@pytest.mark.parametrize("name", ["dpo", "pra"])
def test_18_deterministic_labels_end_at_the_best_response_whatever_tau(name):
    laws = []
    for tau in (0.5, 1.5):
        world = bandit(tau=tau, labels={"kind": "deterministic"})
        assert predict(build(name, beta=tau), world).law is None
        found = solve(build(name, beta=tau), world)
        assert not found.converged  # the loss has no minimum, however small the slopes
        laws.append(found.law[0].numpy())
        assert laws[-1][3] > 0.999
        spread = np.log(laws[-1] / REF)
        assert spread.max() - spread.min() > 8
    assert tv(*laws) < 1e-3


def test_18_plain_gradient_descent_goes_there_with_the_logarithm_of_its_steps():
    problem = at("dpo", bandit(labels={"kind": "deterministic"}), REF, beta=TAU)
    problem.freeze_batch()
    margins, k = [], 0
    for until in (20, 100, 500):
        while k < until:
            problem.move_to(problem.vector() - 20.0 * problem.gradient()[0].flatten())
            k += 1
        ratio = np.log(problem.policy().law()[0].detach().numpy() / REF)
        margins.append(TAU * (ratio.max() - ratio.min()))
    assert margins[2] - margins[1] == pytest.approx(margins[1] - margins[0], rel=0.25)  # + log 5 × a constant


def test_18_ipo_has_a_finite_minimum_on_deterministic_labels():
    world = bandit(labels={"kind": "deterministic"})
    rank = (np.sign(GAP) + 1) / 2
    expected = REF * np.exp(rank.mean(1) / TAU)
    prediction = predict(build("ipo", beta=TAU), world)
    assert prediction.target == "ipo"
    assert tv(prediction.law[0], expected / expected.sum()) < 1e-12
    found = solve(build("ipo", beta=TAU), world)
    assert found.converged
    assert tv(found.law[0], expected / expected.sum()) < 1e-7


def test_19_preferences_without_a_score_depend_on_how_pairs_are_drawn():
    cycle = {"kind": "matrix", "p": [[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]]}
    laws = []
    for pairs in ([[0, 1, 1], [1, 2, 1], [0, 2, 1]], [[0, 1, 8], [1, 2, 1], [0, 2, 1]]):
        world = bandit(ref=[0.3, 0.3, 0.4], reward=[0, 0, 0], labels=cycle, pairs=pairs)
        assert predict(build("dpo", beta=TAU), world).law is None
        laws.append(reached("dpo", world, beta=TAU))
        z = TAU * np.log(laws[-1] / [0.3, 0.3, 0.4])
        for i in range(3):
            force = sum(
                w * (np.array(cycle["p"])[a, b] - sigmoid(z[a] - z[b])) * ((i == a) - (i == b)) for a, b, w in pairs
            )
            assert force == pytest.approx(0, abs=1e-6)
    assert tv(*laws) > 0.05


RATES = {
    "pra": (0.997733, 0.990930, 0.963722),
    "rda": (0.951, 0.804, 0.216),
    "sft": (0.999786, 0.991716, 0.963966),
    "ra": (0.9755, 0.902, 0.608),
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_20_local_rates_of_gradient_descent(name, index):
    tau = (0.35, 0.7, 1.4)[index]
    settings = {} if name == "sft" else {"beta": tau}
    settings |= {"normalizer": "given"} if name == "ra" else {}
    world = bandit(tau=tau, sampler="uniform")
    hessian = at(name, world, gibbs(REF, REWARD, tau), **settings).gradient_and_hessian()[1].numpy()
    curvature = np.sort(np.linalg.eigvalsh(hessian))[1]  # the smallest but the gauge's 0
    assert 1 - 0.5 * curvature == pytest.approx(RATES[name][index], abs=5e-4 if name in ("rda", "ra") else 1e-6)


def descend(name, tau, *, rate, until, limit=20_000):
    """Steps of gradient descent on the recipe's own gradient until the total variation to π^τ is small."""
    world, goal = bandit(tau=tau), gibbs(REF, REWARD, tau)
    problem = at(name, world, REF, beta=tau)
    problem.freeze_batch()
    for step in range(limit):
        if tv(problem.policy().law()[0].detach().numpy(), goal) <= until:
            return step
        problem.move_to(problem.vector() - rate * problem.gradient()[0].flatten())
    return limit


def test_21_linear_rate_from_the_reference_and_range_that_never_grows():
    world, rate = bandit(), 1.0
    problem = at("pra", world, REF, beta=TAU)
    weight = plain.laplacian(np.full((5, 5), 2 / 25))
    connectivity = np.sort(np.linalg.eigvalsh(weight))[1]
    widest = 2 * np.abs(GAP).max()
    factor = 1 - rate * TAU**2 * sigmoid(widest) * sigmoid(-widest) * connectivity
    start = np.linalg.norm(REWARD - REWARD.mean()) / TAU
    before = np.inf
    for k in range(30):
        error = np.log(problem.policy().law()[0].detach().numpy() / PI)
        error = error - error.mean()
        assert np.linalg.norm(error) <= factor**k * start + 1e-12
        assert error.max() - error.min() <= before + 1e-12
        before = error.max() - error.min()
        problem.move_to(problem.vector() - rate * problem.gradient()[0].flatten())


def test_22_steps_of_rda_fall_with_tau_squared():
    steps = [descend("rda", tau, rate=0.25, until=1e-3) for tau in (0.7, 1.4, 2.8)]
    assert steps == [56, 12, 9]
    scaled = [descend("rda", tau, rate=0.25 * (0.7 / tau) ** 2, until=1e-3) for tau in (0.7, 1.4, 2.8)]
    assert scaled == [56, 54, 49]


def test_22_condition_number_is_free_of_tau_for_fixed_pairs_only():
    fixed, own = [], []
    for tau in (2.0, 0.5):
        goal = gibbs(REF, REWARD, tau)
        hessian = at("pra", bandit(tau=tau), goal, beta=tau).gradient_and_hessian()[1].numpy()
        eigen = np.sort(np.linalg.eigvalsh(hessian))
        fixed.append(eigen[-1] / eigen[1])
        eigen = np.sort(np.linalg.eigvalsh(at("sft", bandit(tau=tau), goal).gradient_and_hessian()[1].numpy()))
        own.append(eigen[-1] / eigen[1])
    assert fixed == pytest.approx([2.02, 2.02], abs=5e-3)
    assert own == pytest.approx([3.2, 110], rel=0.02)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_23_mirror_descent_contracts_by_one_minus_eta_tau(eta):
    """One exact step from π_k with the KL in the reward: d_{k+1} = (1 − ητ) d_k + c."""
    world, law = bandit(), REF
    for _ in range(3):
        problem = at("mirror_descent", world, law, old=law, eta=eta, beta_kl=TAU)
        problem.freeze_batch()
        residual, _ = iterate(problem, size=eta)
        assert residual < 1e-9
        ahead = problem.policy().law()[0].detach().numpy()
        left = d(ahead) - (1 - eta * TAU) * d(law)
        assert np.abs(left - left.mean()).max() < 1e-8
        law = ahead


def bernoulli_kl(law):
    """KL(Ber σ(Δ)‖Ber σ(z)) of every ordered pair."""
    p, q = sigmoid(GAP), sigmoid(TAU * (np.log(law / REF)[:, None] - np.log(law / REF)))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_24_losses_bound_the_distance_to_the_target():
    rng = np.random.default_rng(9)
    mu = random_law(rng, 5)
    offline, own = bandit(sampler=mu.tolist(), pairs="sampler"), bandit(sampler="policy", pairs="sampler")
    for k in range(1000):
        law = random_law(rng, 5, spread=2)
        square = 2 * TAU**2 * (mu @ d(law) ** 2 - (mu @ d(law)) ** 2)
        cross, on_policy = mu @ bernoulli_kl(law) @ mu, law @ bernoulli_kl(law) @ law
        if k < 5:
            assert value("rda", offline, law, beta=TAU) == pytest.approx(square, abs=1e-12)
            assert value("pra", offline, law, beta=TAU) == pytest.approx(cross, abs=1e-12)
            assert value("pra", own, law, beta=TAU) == pytest.approx(on_policy, abs=1e-12)
        z = TAU * np.log(law / REF)
        widest = max(np.abs(z[:, None] - z).max(), np.abs(GAP).max())
        distance = kl(law, PI)
        assert distance <= square / (4 * TAU**2 * mu.min()) + 1e-12
        assert distance <= cross / (2 * sigmoid(widest) * sigmoid(-widest) * TAU**2 * mu.min()) + 1e-12
        most = TAU**2 / 8 * (d(law).max() - d(law).min()) ** 2
        assert abs(on_policy - cross) <= 2 * most * tv(law, mu) + 1e-12
        assert 2 * most * tv(law, mu) <= most * np.sqrt(2 * kl(mu, law)) + 1e-12
        assert on_policy <= (law / mu).max() ** 2 * cross + 1e-12


def test_25_on_policy_preference_loss_at_the_reference():
    assert value("pra", bandit(sampler="policy", pairs="sampler"), REF, beta=TAU) == pytest.approx(0.14881, abs=1e-5)


PHI = np.random.default_rng(27).normal(size=(5, 2))


def log_linear(theta):
    return gibbs(REF, PHI @ theta, 1.0)


def best_of_class():
    """argmax of J_τ over π ∝ π_ref e^{φ·θ}, by gradient ascent from several starts."""
    found = []
    for start in ([0.0, 0.0], [2.0, -1.0], [-1.0, 2.0]):
        theta = np.array(start)
        for _ in range(20_000):
            law = log_linear(theta)
            gain = REWARD - TAU * np.log(law / REF)
            theta = theta + 0.2 * (law * (gain - law @ gain)) @ PHI
        law = log_linear(theta)
        found.append((law @ REWARD - TAU * kl(law, REF), law))
    return max(found, key=lambda one: one[0])[1]


@pytest.mark.slow
def test_27_in_a_log_linear_class_on_policy_rda_is_the_optimum_of_the_value_and_others_are_not():
    best = best_of_class()
    own = bandit(features=PHI.tolist(), sampler="policy", pairs="sampler")
    uniform = bandit(features=PHI.tolist())
    skewed = bandit(features=PHI.tolist(), sampler=[0.05, 0.05, 0.05, 0.05, 0.8], pairs="sampler")
    assert predict(build("rda", beta=TAU), own).law is None
    on_policy = solve(build("rda", beta=TAU), own)
    assert on_policy.converged
    assert tv(on_policy.law[0], best) < 1e-7
    assert tv(reached("rloo", own, beta_kl=TAU), best) < 1e-7
    assert tv(reached("ra", own, beta=TAU, normalizer="given"), best) < 1e-7
    others = [reached("pra", own, beta=TAU), reached("pra", uniform, beta=TAU), reached("pra", skewed, beta=TAU)]
    others += [reached("rda", uniform, beta=TAU), reached("dpo", skewed, beta=TAU)]
    values = [law @ REWARD - TAU * kl(law, REF) for law in others]
    assert all(tv(law, best) > 1e-3 for law in others)
    assert all(value < best @ REWARD - TAU * kl(best, REF) - 1e-6 for value in values)


def test_27_a_pair_loss_in_the_class_is_the_projection_that_its_weights_make():
    """Uniform pairs: Σ_ij (σ(Δ_ij) − σ(z_ij))(φ_i − φ_j) = 0."""
    law = reached("pra", bandit(features=PHI.tolist()), beta=TAU)
    z = TAU * (np.log(law / REF)[:, None] - np.log(law / REF))
    left = np.einsum("ij,ijf->f", sigmoid(GAP) - sigmoid(z), PHI[:, None] - PHI)
    assert np.abs(left).max() < 1e-7
    tilt = np.log(law / REF) - np.log(law / REF).mean()
    theta = np.linalg.lstsq(PHI - PHI.mean(0), tilt, rcond=None)[0]
    assert np.abs((PHI - PHI.mean(0)) @ theta - tilt).max() < 1e-9  # the law is one of the class


def test_27_a_class_that_holds_the_target_reaches_it():
    held = np.column_stack([REWARD + 3, PHI])
    world = bandit(features=held.tolist(), sampler="reference")
    for name in ("dpo", "rda", "ra", "rloo", "ppo", "bda"):
        settings = {"beta_kl" if name in ("rloo", "ppo") else "beta": TAU}
        assert predict(build(name, **settings), world).shares
        assert tv(reached(name, world, **settings), PI) < 1e-7


def test_28_token_log_ratios_sum_to_reward_less_value():
    rng = np.random.default_rng(10)
    tree = grow(vocab=3, horizon=3, eos=None)
    ref, reward = random_law(rng, 27), rng.normal(size=27)
    rows = torch.tensor(ref)[None], torch.tensor(reward)[None]
    soft = exact.soft_values(tree, tree.conditional(rows[0]), tree.outcome(rows[1]), tau=TAU)
    total = TAU * tree.leaf_sum(soft.logp - tree.conditional(rows[0]))[0].numpy()
    value_of_prompt = TAU * np.log(ref @ np.exp(reward / TAU))
    assert np.abs(total - (reward - value_of_prompt)).max() < 1e-12
    assert float(soft.v[0, 0]) == pytest.approx(value_of_prompt, abs=1e-12)
