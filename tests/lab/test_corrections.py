"""Where the usual statements are wrong: E1, E3, E6, E8, E11–E14.

E2, E4 (k3, GRPO's temperature and its groups) and E7 stand in test_fixed_points.py and test_groups.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab import plain
from tests.lab.at import at, slope
from tests.lab.plain import REF, REWARD, TAU, bandit, sigmoid, tree_world, tv
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.policy import Models, batch_of, policy_with, stats_of
from tokenward.lab.solving.problem import Problem
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world_file import parse_world
from tokenward.objective.links import Identity, Mirror
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.targets import Score
from tokenward.objective.terms import LogRatio, RowTerm, TokenTerm
from tokenward.recipes import build
from tokenward.types import Batch, TokenStats

RAGGED, EVEN = (3, 3, 2), (3, 3, None)


def a_world(shape=RAGGED, **fields):
    vocab, horizon, eos = shape
    return tree_world(vocab=vocab, horizon=horizon, eos=eos, prompts=2, tau=TAU, seed=11, **fields)


def laws_of(world):
    """(π^τ, myopic policy) of each prompt in plain numpy."""
    words = plain.sequences(world.tree.vocab, world.tree.horizon, world.tree.eos)
    both = []
    for ref, reward in zip(world.ref.numpy(), world.reward.numpy(), strict=True):
        both.append((plain.gibbs(ref, reward, TAU), plain.myopic(words, ref, plain.outcome(words, reward), TAU)))
    boltzmann, myopic = zip(*both, strict=True)
    return np.stack(boltzmann), np.stack(myopic)


# ---------------------------------------------------------------------------------------------------- E1


@pytest.mark.parametrize("shape", [RAGGED, EVEN])
def test_e1_a_kl_in_the_loss_rests_at_the_myopic_policy_and_one_in_the_reward_at_boltzmann(shape):
    world = a_world(shape)
    boltzmann, myopic = laws_of(world)
    for kl, here, there in (
        ("reward", boltzmann, myopic),
        ("loss_k2", myopic, boltzmann),
        ("exact", myopic, boltzmann),
    ):
        settings = {"beta_kl": TAU, "kl": kl, "aggregation": "token_sum"}
        assert np.abs(slope("rloo", world, here, **settings)).max() < 1e-12
        assert np.abs(slope("rloo", world, there, **settings)).max() > 1e-3
    assert min(tv(a, b) for a, b in zip(boltzmann, myopic, strict=True)) > 1e-2


def test_e1_half_the_squared_log_ratio_of_the_whole_sequence_gives_boltzmann():
    """½(Σ_t log-ratio)² on whole rows, on-policy: its gradient is that of the sequence KL."""
    world = a_world()
    rng = np.random.default_rng(0)
    law = np.stack([plain.random_law(rng, 15) for _ in range(2)])
    problem = at("rloo", world, law, beta_kl=TAU, aggregation="token_sum")
    logits = problem.logits
    from_reward = torch.autograd.grad(problem.loss(), logits)[0]
    own, ref = problem.policy().law(), world.ref
    ratio = own.log() - ref.log()
    weight = world.weight[:, None] * own.detach()
    squares = (weight * 0.5 * ratio**2).sum()
    gain = (weight * world.reward * own.log()).sum()
    assert float((torch.autograd.grad(TAU * squares - gain, logits)[0] - from_reward).abs().max()) < 1e-12


# ---------------------------------------------------------------------------------------------------- E3


def furthest(name, world, **settings):
    law = solve(build(name, beta_kl=TAU, **settings), world).law.numpy()
    return max(tv(a, b) for a, b in zip(law, laws_of(world)[0], strict=True))


def test_e3_sequence_means_move_the_fixed_point_of_return_to_go_on_ragged_trees():
    ragged, even = a_world(), a_world(EVEN)
    assert furthest("reinforce_pp", ragged) > 5e-3
    assert predict(build("reinforce_pp", beta_kl=TAU), ragged).law is None
    for aggregation in ("token_sum", "token_mean"):
        assert furthest("reinforce_pp", ragged, aggregation=aggregation) < 1e-7
    assert furthest("reinforce_pp", even) < 1e-7
    assert predict(build("reinforce_pp", beta_kl=TAU), even).shares


def test_e3_one_advantage_per_sequence_with_a_baseline_is_safe():
    ragged = a_world()
    assert furthest("rloo", ragged, aggregation="sequence_mean") < 1e-7
    assert furthest("grpo", ragged, kl="reward") < 1e-7


# ---------------------------------------------------------------------------------------------------- E6


def test_e6_token_weight_of_dpo_is_constant_along_a_response_and_is_not_credit():
    """−∂loss/∂logp = ±w·β·σ(−z) at every token of a pair's answers; credit is β log π/π_ref, and differs by token."""
    world = a_world(pairs=[[2, 9, 1]])
    rng = np.random.default_rng(1)
    law = np.stack([plain.random_law(rng, 15) for _ in range(2)])
    recipe = build("dpo", beta=TAU)
    batch = replace(batch_of(recipe, world, world.ref), pair_target=None)
    policy = at("dpo", world, law, beta=TAU).policy()
    stats = stats_of(recipe, world, batch, Models(policy, policy))
    weight = recipe.token_weight(batch, stats).numpy()
    for x, share in enumerate((1 / 3, 2 / 3)):
        ref = world.ref[x].numpy()
        z = TAU * (np.log(law[x, 2] / ref[2]) - np.log(law[x, 9] / ref[9]))
        for leaf, sign in ((2, 1), (9, -1)):
            row = weight[x * 15 + leaf][batch.mask[x * 15 + leaf].numpy()]
            assert np.abs(row - sign * share * TAU * sigmoid(-z)).max() < 1e-14
    credit = TAU * (stats.logp - stats.ref_logp).detach().numpy()
    assert np.ptp(credit[2][batch.mask[2].numpy()]) > 1e-2


# ---------------------------------------------------------------------------------------------------- E8


def k1_loss():
    term = TokenTerm("k1", score=LogRatio("ref_logp"), link=Identity(), aggregation="token_sum")
    return Recipe("k1", ("schulman2020kl",), (Stream("rollouts"),), (term,))


def kl_slope(law, ref):
    """∇KL(π‖π_ref) by bandit logits."""
    ratio = np.log(law / ref)
    return law * (ratio - law @ ratio)


def test_e8_k1_as_a_loss_has_no_expected_gradient_on_its_own_samples():
    world = a_world()
    problem = Problem(k1_loss(), world, guide=None, old=None)
    rng = np.random.default_rng(2)
    problem.move_to(torch.tensor(rng.normal(size=problem.logits.numel())))
    assert float(problem.gradient()[0].abs().max()) < 1e-14
    assert float(problem.loss().detach()) > 1e-2


def test_e8_from_the_second_mini_batch_on_k1_pushes_away_from_the_sampler():
    """With samples of π_old, ∇E[k1] = −∇KL(π_old‖π), whatever the reference."""
    rng = np.random.default_rng(3)
    old, law = plain.random_law(rng, 5), plain.random_law(rng, 5)
    world = bandit()
    problem = Problem(k1_loss(), world, guide=None, old=policy_with(torch.tensor(old)[None], tree=world.tree))
    problem.move_to(torch.tensor(np.log(law)))
    toward_the_sampler = law - old  # ∇KL(π_old‖π) by bandit logits
    assert np.abs(problem.gradient()[0].numpy()[0, 0] + toward_the_sampler).max() < 1e-14
    assert np.abs(toward_the_sampler).max() > 1e-2


def test_e8_with_a_differentiable_ratio_it_is_the_kl_to_the_reference():
    """ρ·k1 = ϱ log ϱ on samples of the reference: exactly ∇KL(π‖π_ref)."""
    world = bandit(reward=np.zeros(5))
    term = RowTerm("rho_k1", score=LogRatio("old_logp"), link=Mirror(eta=1.0), target=Score())
    recipe = Recipe("rho_k1", ("schulman2020kl",), (Stream("rollouts"),), (term,))
    law = plain.random_law(np.random.default_rng(4), 5)
    problem = Problem(recipe, world, guide=None, old=policy_with(world.ref, tree=world.tree))
    problem.move_to(torch.tensor(np.log(law)))
    assert np.abs(problem.gradient()[0].numpy()[0, 0] - kl_slope(law, REF)).max() < 1e-14


# --------------------------------------------------------------------------------------------------- E11


def twice(batch, row):
    """(the batch with the row written twice, the batch with the row's weight doubled), both without `group_size`."""
    fields = {name: value for name, value in vars(batch).items() if value is not None and name != "group_size"}
    rows = torch.cat([torch.arange(batch.rows), torch.tensor([row])])
    heavy = {**fields, "weight": fields["weight"].clone()}
    heavy["weight"][row] *= 2
    return Batch(**{name: value[rows] for name, value in fields.items()}), Batch(**heavy)


def four_answers(score=(1.0, -0.5, 0.2, 2.0)):
    return Batch(
        tokens=torch.zeros(4, 1, dtype=torch.long),
        length=torch.ones(4, dtype=torch.long),
        mask=torch.ones(4, 1, dtype=torch.bool),
        group=torch.zeros(4, dtype=torch.long),
        weight=torch.ones(4, dtype=torch.float64),
        score=torch.tensor(score, dtype=torch.float64),
    )


def loss_of(recipe, batch, logp):
    stats = dict.fromkeys(("logp", "old_logp", "ref_logp"), logp)
    return float(recipe.value(batch, TokenStats(**stats)))


@pytest.mark.parametrize(("name", "holds"), [("grpo", True), ("reinforce_pp", True), ("rloo", False)])
def test_e11_weight_two_is_the_row_twice_except_for_leave_one_out(name, holds):
    """A leave-one-out baseline divides by the number of *other* rows: two rows are not one row of weight 2."""
    logp = torch.tensor([[-0.3], [-0.8], [-1.1], [-0.1]], dtype=torch.float64)
    recipe = build(name, beta_kl=0.0)
    copied, heavy = twice(four_answers(), 3)
    gap = abs(loss_of(recipe, copied, torch.cat([logp, logp[3:]])) - loss_of(recipe, heavy, logp))
    assert (gap < 1e-12) == holds
    if not holds:
        assert gap > 1e-2


def test_e11_leave_one_out_is_right_again_once_the_weights_are_counts_of_a_group_of_known_size():
    logp = torch.tensor([[-0.3], [-0.8], [-1.1], [-0.1]], dtype=torch.float64)
    copied, heavy = twice(four_answers(), 3)
    told = replace(heavy, group_size=torch.full((4,), 5.0, dtype=torch.float64))
    recipe = build("rloo", beta_kl=0.0)
    expected = loss_of(recipe, copied, torch.cat([logp, logp[3:]]))
    assert loss_of(recipe, told, logp) == pytest.approx(expected, abs=1e-12)


# --------------------------------------------------------------------------------------------------- E12


def test_e12_the_scenario_is_access_to_the_reward_alone_and_says_nothing_of_the_target():
    world = a_world()
    access = {
        "PRA": ("dpo", "ipo", "kto", "cdpo", "simpo", "slic", "pra", "ipo_averaged"),
        "RDA": ("rda", "rebel"),
        "RA": ("ra", "una"),
        "BDA": ("ppo", "rloo", "reinforce", "grpo", "rto"),
    }
    for scenario, names in access.items():
        for name in names:
            assert build(name).scenario == scenario
    for name in ("ipo", "kto", "una", "grpo"):  # not the target π^τ, in whichever scenario
        assert not predict(build(name), world).shares
    for name in ("dpo", "rda", "ra", "rloo"):
        keyword = "beta_kl" if name == "rloo" else "beta"
        assert predict(build(name, **{keyword: TAU}), world).shares


# --------------------------------------------------------------------------------------------------- E13


def ipo_by_hand(ref, weight, p, tau):
    off = weight + weight.T
    np.fill_diagonal(off, 0)
    push = (off * (p - 0.5)).sum(-1) / tau
    law = ref * np.exp(np.linalg.pinv(plain.laplacian(off)) @ push)
    return law / law.sum()


@pytest.mark.parametrize("kind", ["bradley-terry", "matrix"])
def test_e13_ipo_for_pairs_of_any_weights(kind):
    rng = np.random.default_rng(5)
    weight = rng.uniform(0, 1, size=(5, 5)) * (rng.uniform(size=(5, 5)) > 0.3)
    weight[0, :] += 0.01  # connected
    p = sigmoid(REWARD[:, None] - REWARD)
    labels = {"kind": "bradley-terry"}
    if kind == "matrix":
        upper = np.triu(rng.uniform(0.1, 0.9, size=(5, 5)), 1)
        p = upper + np.tril(1 - upper.T, -1)
        np.fill_diagonal(p, 0.5)
        labels = {"kind": "matrix", "p": p.tolist()}
    pairs = [[i, j, float(weight[i, j])] for i in range(5) for j in range(5) if weight[i, j] > 0]
    world = bandit(pairs=pairs, labels=labels)
    expected = ipo_by_hand(REF, weight / weight.sum(), p, TAU)
    recipe = build("ipo", beta=TAU)
    assert tv(predict(recipe, world).law[0], expected) < 1e-12
    assert tv(solve(recipe, world).law[0], expected) < 1e-8


def test_e13_is_exp_of_the_win_rate_for_pairs_of_one_law_only():
    rng = np.random.default_rng(6)
    mu, nu = plain.random_law(rng, 5), plain.random_law(rng, 5)
    p = sigmoid(REWARD[:, None] - REWARD)
    win_rate = REF * np.exp(p @ mu / TAU)
    win_rate /= win_rate.sum()
    assert tv(ipo_by_hand(REF, np.outer(mu, mu), p, TAU), win_rate) < 1e-12
    assert tv(ipo_by_hand(REF, np.outer(mu, nu), p, TAU), win_rate) > 1e-3


def test_e13_holds_on_a_ragged_tree_with_several_prompts():
    world = a_world()
    law = solve(build("ipo", beta=TAU), world).law.numpy()
    for x in range(2):
        reward = world.reward[x].numpy()
        p = sigmoid(reward[:, None] - reward)
        assert tv(law[x], ipo_by_hand(world.ref[x].numpy(), np.full((15, 15), 1 / 225), p, TAU)) < 1e-8


# --------------------------------------------------------------------------------------------------- E14


def compared_laws(mu, reward):
    """The laws of chosen and of rejected answers: two draws of μ, the label a Bradley–Terry draw."""
    wins = sigmoid(reward[:, None] - reward)
    return 2 * mu * (wins @ mu), 2 * mu * (wins.T @ mu)


@pytest.mark.parametrize("shape", [(5, 1, None), (3, 3, None), (3, 3, 2)])
@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 3.0])
def test_e14_the_chosen_likelihood_falls_iff_the_policy_is_further_from_the_chosen_than_the_reference(shape, beta):
    """E_D[log π/π_ref] = KL(D‖π_ref) − KL(D‖π), with π where DPO really ends; the sign patterns follow from it."""
    vocab, horizon, eos = shape
    signs = set()
    for seed in range(3):
        base = tree_world(vocab=vocab, horizon=horizon, eos=eos, tau=beta, seed=seed)
        reward, mu = base.reward[0].numpy(), base.ref[0].numpy()
        chosen, rejected = compared_laws(mu, reward)
        assert chosen.sum() == pytest.approx(1, abs=1e-12)
        for ref in (mu, chosen):  # fine-tuned on all answers, or on the chosen ones
            pairs = {"sampler": mu.tolist(), "pairs": "sampler"}
            prompt = {"ref": ref.tolist(), "reward": reward.tolist()}
            world = parse_world(
                {"tau": beta, "vocab": vocab, "horizon": horizon, "eos": eos, "prompts": [prompt], **pairs}
            )
            found = predict(build("dpo", beta=beta), world)
            assert found.shares
            law = found.law[0].numpy()
            rise = {name: d @ np.log(law / ref) for name, d in (("chosen", chosen), ("rejected", rejected), ("mu", mu))}
            for name, d in (("chosen", chosen), ("rejected", rejected), ("mu", mu)):
                assert rise[name] == pytest.approx(plain.kl(d, ref) - plain.kl(d, law), abs=1e-10)
            assert (rise["chosen"] < 0) == (plain.kl(chosen, law) > plain.kl(chosen, ref))
            assert rise["rejected"] < rise["chosen"]
            if ref is chosen:  # the reference is the law of the chosen: guaranteed to fall
                assert beta * rise["chosen"] == pytest.approx(-beta * plain.kl(chosen, law), abs=1e-10)
                assert rise["chosen"] < 0
            else:
                assert beta * rise["mu"] == pytest.approx(-beta * plain.kl(mu, law), abs=1e-10)
                signs.add(bool(rise["chosen"] > 0))
    if beta == 3.0:
        assert True in signs  # without fine-tuning on the chosen it can rise
    if beta == 0.1:
        assert signs == {False}


def test_e14_dpo_itself_ends_there():
    base = tree_world(vocab=3, horizon=2, eos=2, tau=3.0, seed=0)
    reward, mu = base.reward[0].numpy(), base.ref[0].numpy()
    world = tree_world(vocab=3, horizon=2, eos=2, tau=3.0, seed=0, sampler=mu.tolist(), pairs="sampler")
    chosen, rejected = compared_laws(mu, reward)
    law = solve(build("dpo", beta=3.0), world).law[0].numpy()
    assert chosen @ np.log(law / mu) > 0 > rejected @ np.log(law / mu)
