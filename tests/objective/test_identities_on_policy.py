"""Methods that are one another: exact equalities between recipes of the policy-gradient family, and where they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objective.cases import batch_of, stats_of
from tokenward.objective.capped import Capped
from tokenward.objective.links import Clipped, Ratio, ScoreFunction
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale, LastToken, ReturnToGo, Whiten
from tokenward.objective.signal.overlong import Overlong
from tokenward.objective.terms import LogRatio, TokenTerm
from tokenward.recipes import build
from tokenward.types import Batch, TokenStats, take

F = torch.float64
close = torch.testing.assert_close


def group_of(size: int, *, seed: int = 0, groups: int = 1, equal: bool = False) -> tuple[Batch, TokenStats]:
    """Groups of that many rows, of ragged lengths if not `equal`, and a policy that is not the one that sampled."""
    batch = batch_of(seed=seed, groups=2 * groups, per_group=size)
    batch = take(batch, torch.arange(groups * size), width=batch.mask.shape[1])
    batch = replace(batch, weight=torch.ones_like(batch.weight), pairs=None, pair_weight=None, pair_target=None)
    if equal:
        column = torch.arange(batch.mask.shape[1])
        batch = replace(batch, mask=((column >= 2) & (column < 6)).expand(batch.mask.shape))
    return batch, stats_of(batch)


def at_the_sampler(stats: TokenStats) -> TokenStats:
    return replace(stats, old_logp=stats.logp)


def one_token(batch: Batch) -> Batch:
    """The same rows with one trainable token each."""
    return replace(batch, mask=torch.arange(batch.mask.shape[1]).expand(batch.mask.shape) == 2)


def policy_alone(recipe: Recipe, **changes: object) -> Recipe:
    """Its policy term alone, with some of its parts changed."""
    (term,) = [term for term in recipe.terms if term.name == "policy"]
    return replace(recipe, terms=(replace(term, **changes),))  # type: ignore[type-var]


def advantages(recipe: Recipe, batch: Batch, stats: TokenStats, *, drop: type | None = None) -> torch.Tensor:
    steps = tuple(step for step in recipe.steps if drop is None or not isinstance(step, drop))
    found = replace(recipe, steps=steps).signal(batch, stats).advantage
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------ group baselines


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", range(2, 9))
def test_rloo_is_the_gradient_of_rda_on_all_pairs_of_a_group(size: int, weighted: bool) -> None:
    """Σ_{i<j} w_i w_j (β(lr_i − lr_j) − (r_i − r_j))² has gradient −2βW Σ w_i (A_i − Ā) ∇log π_i, A = r − β lr.

    W = Σ w and Ā is weighted; on any rows, sampled or not. Derived here.
    """
    batch, stats = group_of(size)
    batch = replace(batch, reward=None)
    if weighted:
        batch = replace(batch, weight=torch.rand(size, dtype=F, generator=torch.Generator().manual_seed(size)) + 0.2)
    pairs, weight, beta = torch.combinations(torch.arange(size)), batch.weight, 0.3
    both = weight[pairs[:, 0]] * weight[pairs[:, 1]]
    paired = replace(batch, pairs=pairs, pair_weight=both)
    rda = build("rda", beta=beta).token_weight(paired, stats) * both.sum()
    rloo = build("rloo", beta_kl=beta, aggregation="token_sum").token_weight(batch, at_the_sampler(stats))
    whole = weight.sum()
    close(rda, rloo * whole * (1 - 1 / size) * 2 * beta * whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_dr_grpo_is_rloo_times_one_less_than_g_over_g_and_its_budget_is_a_factor(size: int) -> None:
    batch, stats = group_of(size, groups=3)
    stats = at_the_sampler(stats)
    rloo = build("rloo", beta_kl=0.2, aggregation="token_sum").token_weight(batch, stats)
    for budget in (1.0, 50.0):
        dr_grpo = build("dr_grpo", beta_kl=0.2, budget=budget).token_weight(batch, stats)
        close(dr_grpo * budget * size / (size - 1), rloo, rtol=1e-10, atol=1e-13)


def test_dr_grpos_budget_divides_its_kl_along() -> None:
    batch, stats = group_of(4, groups=2)
    one = build("dr_grpo", beta_kl=0.2, kl="loss_k2", budget=1.0).value(batch, stats)
    close(build("dr_grpo", beta_kl=0.2, kl="loss_k2", budget=8.0).value(batch, stats) * 8, one)


def test_dapo_without_its_penalty_and_its_wider_clip_is_grpo_with_a_token_mean() -> None:
    batch, stats = group_of(4, groups=3)
    dapo = build("dapo", clip_high=0.2)
    grpo = build("grpo", beta_kl=0.0, aggregation="token_mean")
    close(dapo.token_weight(batch, stats), grpo.token_weight(batch, stats))
    short = build("dapo", clip_high=0.2, overlong_max=6.0, overlong_buffer=4.0)
    assert not torch.allclose(short.token_weight(batch, stats), grpo.token_weight(batch, stats))
    assert Overlong(max_tokens=6.0, buffer=4.0) in short.steps


# ------------------------------------------------------------------------------------------- whitening and credit


def test_ppo_with_a_value_of_zero_is_reinforce_pp() -> None:
    """γ = λ = 1: before whitening in every advantage, after it in the gradient of the policy term."""
    batch, stats = group_of(4, groups=3)
    zero = replace(stats, value=torch.zeros_like(stats.logp), old_value=torch.zeros_like(stats.logp))  # type: ignore[arg-type]
    ppo = build("ppo", beta_kl=0.1, gamma=1.0, lam=1.0)
    plus = build("reinforce_pp", beta_kl=0.1, aggregation="token_mean")
    close(advantages(ppo, batch, zero, drop=Whiten), advantages(plus, batch, zero, drop=Whiten), rtol=0, atol=1e-12)
    close(ppo.token_weight(batch, zero), plus.token_weight(batch, zero))


def test_reinforce_pp_with_baseline_on_one_group_is_grpo_up_to_eps() -> None:
    """One prompt, equal lengths: batch and group have one mean and one std. On ragged lengths tokens are weighed."""
    batch, stats = group_of(5, equal=True)
    batch = replace(batch, reward=None)
    assert batch.score is not None
    std = batch.score.std(correction=0)
    plus = advantages(build("reinforce_pp_baseline"), batch, stats) * (std + 1e-8)
    close(plus, advantages(build("grpo"), batch, stats) * (std + 1e-4), rtol=1e-10, atol=1e-12)
    two, _ = group_of(5, groups=2, equal=True)
    ragged, ragged_stats = group_of(5)
    for other, others in ((two, stats_of(two)), (ragged, ragged_stats)):
        apart = advantages(build("reinforce_pp_baseline"), other, others) - advantages(build("grpo"), other, others)
        assert apart.abs().max() > 0.05


def test_the_two_readings_of_reinforce_pp_differ_but_on_single_tokens() -> None:
    batch, stats = group_of(4, groups=2)
    go, last = build("reinforce_pp"), build("reinforce_pp", credit="last_token")
    assert ReturnToGo() in go.steps and LastToken() in last.steps
    raw = advantages(last, batch, stats, drop=Whiten)
    assert ((raw != 0).sum(-1) == 1).all()
    close(raw.sum(-1), advantages(go, batch, stats, drop=Whiten)[batch.mask.cumsum(-1).eq(1) & batch.mask])
    single = one_token(batch)
    close(advantages(last, single, stats), advantages(go, single, stats), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------- ratios and clips


@pytest.mark.parametrize("ratio", ["sequence", "token"])
def test_gspo_of_single_tokens_is_grpo(ratio: str) -> None:
    batch, stats = group_of(4, groups=3)
    batch = one_token(batch)
    gspo = build("gspo", ratio=ratio, clip_low=0.2, clip_high=0.2)
    grpo = build("grpo", beta_kl=0.0)
    close(gspo.value(batch, stats), grpo.value(batch, stats))
    close(gspo.token_weight(batch, stats), grpo.token_weight(batch, stats))


def test_gspos_two_forms_agree_on_answers_of_any_length_while_an_answer_has_one_advantage() -> None:
    batch, stats = group_of(4, groups=3)
    sequence, token = (
        build("gspo", clip_low=0.1, clip_high=0.1),
        build("gspo", ratio="token", clip_low=0.1, clip_high=0.1),
    )
    close(sequence.value(batch, stats), token.value(batch, stats))
    weight = sequence.token_weight(batch, stats)
    close(weight, token.token_weight(batch, stats))
    cut = (weight == 0).logical_or(~batch.mask).all(-1)
    assert cut.any() and not cut.all()
    to_go = tuple(ReturnToGo() if type(step).__name__ == "SequenceReturn" else step for step in token.steps)
    apart = replace(token, steps=to_go).value(batch, stats) - replace(sequence, steps=to_go).value(batch, stats)
    assert abs(float(apart)) > 1e-3


@pytest.mark.parametrize("link", [Clipped(), Clipped(dual=3.0), Ratio(), Capped()])
def test_at_the_sampler_every_ratio_is_reinforce_with_that_advantage(link: object) -> None:
    batch, stats = group_of(4, groups=3)
    stats, recipe = at_the_sampler(stats), build("cispo")
    plain = policy_alone(recipe, score=LogRatio(), link=ScoreFunction()).token_weight(batch, stats)
    close(policy_alone(recipe, link=link).token_weight(batch, stats), plain)


def test_away_from_it_cispo_weighs_by_the_ratio_up_to_the_cap_and_drops_no_token() -> None:
    batch, stats = group_of(4, groups=3)
    recipe = build("cispo", cap=1.2)
    assert stats.logp is not None and stats.old_logp is not None
    plain = policy_alone(recipe, score=LogRatio(), link=ScoreFunction()).token_weight(batch, stats)
    ratio = torch.exp(stats.logp - stats.old_logp)
    close(recipe.token_weight(batch, stats), plain * ratio.clamp(max=1.2))
    assert (recipe.token_weight(batch, stats)[batch.mask] != 0).all()
    assert (build("grpo", beta_kl=0.0).token_weight(batch, stats)[batch.mask] == 0).any()


def test_a_dual_clip_acts_on_bad_tokens_beyond_it_alone() -> None:
    z = torch.linspace(-3, 3, 61, dtype=F)
    for sign in (1.0, -1.0):
        target = torch.full_like(z, sign)
        plain, dual = Clipped()(z, target), Clipped(dual=3.0)(z, target)
        acts = plain != dual
        assert torch.equal(acts, (z.exp() > 3) & (target < 0))
        assert (dual[acts] == 3).all()


def test_group_scale_is_bounded_by_one_answer_apart_from_all_others() -> None:
    """|A| ≤ √(G−1) by the population std, (G−1)/√G by the unbiased one; both are reached."""
    for size in (2, 3, 8, 16):
        batch, stats = group_of(size)
        score = torch.zeros(size, dtype=F)
        score[0] = 1e6
        for std, most in (("population", (size - 1) ** 0.5), ("unbiased", (size - 1) / size**0.5)):
            recipe = build("grpo", std=std, beta_kl=0.0)
            assert GroupScale(std=std) in recipe.steps and GroupBaseline("mean") in recipe.steps  # type: ignore[arg-type]
            one = replace(batch, score=score, reward=None)
            close(advantages(recipe, one, stats).abs().max(), torch.tensor(most, dtype=F), rtol=1e-8, atol=0)
            many = [advantages(recipe, group_of(size, seed=s)[0], stats).abs().max() for s in range(5)]
            assert max(float(x) for x in many) < most


def test_the_policy_term_is_the_only_one_that_names_the_clip() -> None:
    """What a recipe is made of can be changed one part at a time: GRPO to Dr. GRPO in three moves."""
    batch, stats = group_of(4, groups=2)
    grpo = build("grpo", beta_kl=0.0)
    steps = tuple(step for step in grpo.steps if not isinstance(step, GroupScale))
    (term,) = grpo.terms
    assert isinstance(term, TokenTerm)
    moved = replace(grpo, steps=steps, terms=(replace(term, aggregation="token_sum", coef=1 / 64),))
    close(moved.value(batch, stats), build("dr_grpo").value(batch, stats))
