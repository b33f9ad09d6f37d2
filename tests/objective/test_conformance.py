"""Other implementations' formulas, written anew in numpy from their source: where they agree with ours, and where not.

Read on 2026-11-21:
    TRL 1.16.0 (the wheel)       trl/trainer/grpo_trainer.py, trl/trainer/rloo_trainer.py
    OpenRLHF/OpenRLHF            openrlhf/models/loss.py at f5b3f08, trainer/ppo_utils/experience_maker.py at 89308a0
    verl-project/verl            verl/trainer/ppo/core_algos.py at 018f23b, verl/utils/torch_functional.py at 0db1343

Stored versions of the two repositories, not the newest. No line is copied. Agreement is to 1e-9.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenward.objective.capped import Capped
from tokenward.objective.divergences import kl_terms
from tokenward.objective.links import Clipped
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.signal.overlong import Overlong
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import LogRatio, RowTerm, TokenTerm
from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats

F = torch.float64
G, PROMPTS, WIDTH = 4, 3, 6
ROWS = G * PROMPTS
RNG = np.random.default_rng(7)
LENGTH = RNG.integers(2, WIDTH + 1, size=ROWS)
MASK = (np.arange(WIDTH) < LENGTH[:, None]).astype(float)
OLD = -np.abs(RNG.normal(size=(ROWS, WIDTH)))
LOGP = OLD + 0.3 * RNG.normal(size=(ROWS, WIDTH))
REF = OLD + 0.3 * RNG.normal(size=(ROWS, WIDTH))
REWARD = RNG.normal(size=ROWS)
INDEX = np.repeat(np.arange(PROMPTS), G)
ADVANTAGE = RNG.normal(size=ROWS)


def batch(**fields: object) -> Batch:
    base: dict[str, object] = {
        "tokens": torch.zeros(ROWS, WIDTH, dtype=torch.long),
        "length": torch.tensor(LENGTH),
        "mask": torch.tensor(MASK > 0),
        "group": torch.tensor(INDEX),
        "weight": torch.ones(ROWS, dtype=F),
        "score": torch.tensor(REWARD),
    }
    return Batch(**{**base, **fields})  # type: ignore[arg-type]


def stats() -> TokenStats:
    return TokenStats(logp=torch.tensor(LOGP), old_logp=torch.tensor(OLD), ref_logp=torch.tensor(REF))


def ours(*terms: object, advantage: np.ndarray = ADVANTAGE) -> tuple[float, np.ndarray]:
    """The value of terms for one advantage per row, and its derivative by log π."""
    signal = Signal(advantage=torch.tensor(advantage[:, None] * MASK if advantage.ndim == 1 else advantage))
    recipe = Recipe("ours", (), (Stream("rollouts"),), terms, steps=(Outcome(), SequenceReturn()))  # type: ignore[arg-type]
    logp = torch.tensor(LOGP, requires_grad=True)
    value = recipe.loss(recipe.sums(batch(), replace(stats(), logp=logp), signal), recipe.weights(batch()))
    return float(value.detach()), torch.autograd.grad(value, logp)[0].numpy()


def policy(*, link: object = None, aggregation: str = "token_mean", coef: float = 1.0) -> TokenTerm:
    score, given = LogRatio("old_logp"), link or Clipped()
    return TokenTerm("policy", score=score, link=given, target=Advantage(), aggregation=aggregation, coef=coef)  # type: ignore[arg-type]


def advantage_of(*steps: object, score: np.ndarray = REWARD) -> np.ndarray:
    """The advantage of each row by our steps."""
    signal = Signal(reward=torch.tensor(score[:, None] * (np.arange(WIDTH) == LENGTH[:, None] - 1)))
    for step in steps:
        signal = step(batch(), TokenStats(), signal)  # type: ignore[operator]
    assert signal.advantage is not None
    return signal.advantage.numpy()


def near(left: object, right: object) -> None:
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def grouped(x: np.ndarray) -> np.ndarray:
    return x.reshape(PROMPTS, G)


def slope(formula: object, *, entries: int = 12) -> list[tuple[tuple[int, int], float]]:
    """Central differences of a numpy formula of log π at some trainable tokens."""
    found = []
    for b, t in np.argwhere(MASK > 0)[:: max(1, int(MASK.sum()) // entries)]:
        step = np.zeros_like(LOGP)
        step[b, t] = 1e-6
        found.append(((int(b), int(t)), (formula(LOGP + step) - formula(LOGP - step)) / 2e-6))  # type: ignore[operator]
    return found


# ---------------------------------------------------------------------------------------------------- TRL 1.16.0


def trl_k3(logp: np.ndarray) -> np.ndarray:
    """grpo_trainer.py: per_token_kl."""
    return np.exp(REF - logp) - (REF - logp) - 1


def trl_clipped(logp: np.ndarray, *, low: float = 0.2, high: float = 0.2) -> np.ndarray:
    """grpo_trainer.py, loss types grpo, bnpo, dr_grpo, dapo: −min(ϱA, clip(ϱ)A) of each token."""
    ratio = np.exp(logp - OLD)
    return -np.minimum(ratio * ADVANTAGE[:, None], np.clip(ratio, 1 - low, 1 + high) * ADVANTAGE[:, None])


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_trl_grpo_loss_types(loss_type: str) -> None:
    """One micro-batch, one process; β·k3 inside the same aggregation, as `kl_terms` has it."""
    beta, longest = 0.05, 9

    def formula(logp: np.ndarray) -> float:
        loss = trl_clipped(logp) + beta * trl_k3(logp)
        rows = (loss * MASK).sum(-1)
        return float(
            {
                "grpo": (rows / MASK.sum(-1)).mean(),
                "bnpo": rows.sum() / MASK.sum(),
                "dr_grpo": rows.sum() / (ROWS * longest),
                "dapo": rows.sum() / MASK.sum(),  # num_items_in_batch of the whole batch
            }[loss_type]
        )

    unit = {"grpo": "sequence_mean", "dr_grpo": "token_sum"}.get(loss_type, "token_mean")
    share = 1 / longest if loss_type == "dr_grpo" else 1.0
    kl = kl_terms("loss_k3", beta_kl=beta * share, aggregation=unit)  # type: ignore[arg-type]
    value, gradient = ours(policy(aggregation=unit, coef=share), *kl)
    near(value, formula(LOGP))
    for (b, t), expected in slope(formula):
        assert gradient[b, t] == pytest.approx(expected, abs=1e-7)


def test_trl_bnpo_depends_on_the_split_and_dapo_does_not() -> None:
    """bnpo: the mean over micro-batches of token means. Ours has one divisor, as dapo."""
    loss, halves = trl_clipped(LOGP) * MASK, (slice(0, 3), slice(3, ROWS))
    split = np.mean([loss[h].sum() / MASK[h].sum() for h in halves])
    value, _ = ours(policy())
    near(value, loss.sum() / MASK.sum())
    assert abs(value - split) > 1e-3


def test_trl_cispo() -> None:
    """−sg[min(ϱ, ε_high)] A log π, ε_high a value of the ratio. Ours has log π/π_old: another value, one gradient."""
    cap = 1.1
    weight = np.minimum(np.exp(LOGP - OLD), cap) * ADVANTAGE[:, None] * MASK
    value, gradient = ours(policy(link=Capped(cap)))
    near(gradient, -weight / MASK.sum())
    near(value, -(weight * LOGP).sum() / MASK.sum() + (weight * OLD).sum() / MASK.sum())


def test_trl_group_advantages_have_the_unbiased_std_and_eps_1e_4() -> None:
    r = grouped(REWARD)
    centered = r - r.mean(1, keepdims=True)
    trl = (centered / (r.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    steps = (SequenceReturn(), GroupBaseline("mean"))
    near(advantage_of(*steps, GroupScale(std="unbiased"))[:, 0], trl)
    population = advantage_of(*steps, GroupScale())[:, 0]
    near(population * np.repeat(r.std(1) + 1e-4, G), trl * np.repeat(r.std(1, ddof=1) + 1e-4, G))
    assert np.abs(population / trl - np.sqrt(G / (G - 1))).max() < 1e-3
    near(advantage_of(*steps)[:, 0], centered.ravel())  # scale_rewards="none"


def test_trl_rloo_advantages_have_the_summed_kl_in_the_reward() -> None:
    beta = 0.05
    r = grouped(REWARD - beta * ((OLD - REF) * MASK).sum(-1))
    trl = (r - (r.sum(1, keepdims=True) - r) / (G - 1)).ravel()
    found = build("rloo", beta_kl=beta).signal(batch(), replace(stats(), logp=None)).advantage
    assert found is not None
    near(found[:, 0].numpy(), trl)


def test_trl_rloo_clips_the_product_of_the_ratios_and_ours_has_no_ratio() -> None:
    """rloo_trainer.py: −min(ϱA, clip(ϱ, ±.2)A) of whole answers, ϱ = Π_t ϱ_t. As a term of ours it is a row term."""
    ratio = np.exp(((LOGP - OLD) * MASK).sum(-1))
    trl = -np.minimum(ratio * ADVANTAGE, np.clip(ratio, 0.8, 1.2) * ADVANTAGE).mean()
    product = RowTerm("policy", score=LogRatio("old_logp"), link=Clipped(), target=Advantage())
    value, gradient = ours(product)
    near(value, trl)
    cut = ((ratio > 1.2) & (ADVANTAGE > 0)) | ((ratio < 0.8) & (ADVANTAGE < 0))
    near(gradient, -(np.where(cut, 0, ratio * ADVANTAGE) / ROWS)[:, None] * MASK)
    (term,) = build("rloo", aggregation="token_sum").terms
    _, plain = ours(term)
    near(plain, -(ADVANTAGE / ROWS)[:, None] * MASK)  # as published: no ratio, so none to clip
    assert cut.any() and np.abs(plain - gradient).max() > 1e-2


# ------------------------------------------------------------------------------------- OpenRLHF f5b3f08, 89308a0


def test_openrlhf_dual_clip() -> None:
    """loss.py, PolicyLoss: for A < 0, −max(min(ϱA, clip(ϱ)A), c A); the mean over all tokens."""
    far = 3 * (LOGP - OLD)
    ratio, a = np.exp(far), ADVANTAGE[:, None]
    first = np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a)
    loss = -np.where(a < 0, np.maximum(first, 1.5 * a), first)
    link, z = Clipped(dual=1.5), torch.tensor(far)
    near(link(z, torch.tensor(np.broadcast_to(a, z.shape).copy())).numpy(), loss)
    assert (np.where(a < 0, first < 1.5 * a, False) & (MASK > 0)).any()


def test_openrlhf_gspo_is_a_sequence_ratio_with_a_mean_over_answers() -> None:
    ratio = np.exp(((LOGP - OLD) * MASK).sum(-1) / MASK.sum(-1))
    loss = -np.minimum(ratio * ADVANTAGE, np.clip(ratio, 1 - 3e-4, 1 + 4e-4) * ADVANTAGE).mean()
    (term,) = build("gspo").terms
    near(ours(term)[0], loss)


def test_openrlhf_returns_to_go_and_its_whitening() -> None:
    """experience_maker.py: k1 at each token, returns to go, (A − mean)/√max(var, 1e-8) over tokens, var by n."""
    beta = 0.02
    reward = -beta * (OLD - REF) * MASK + REWARD[:, None] * (np.arange(WIDTH) == LENGTH[:, None] - 1)
    returns = np.cumsum(reward[:, ::-1], -1)[:, ::-1] * MASK
    mean = returns.sum() / MASK.sum()
    var = (((returns - mean) * MASK) ** 2).sum() / MASK.sum()
    found = build("reinforce_pp", beta_kl=beta).signal(batch(), replace(stats(), logp=None)).advantage
    assert found is not None
    near(found.numpy(), (returns - mean) * MASK / np.sqrt(max(var, 1e-8)) * np.sqrt(var) / (np.sqrt(var) + 1e-8))
    flat = advantage_of(ReturnToGo(), Whiten(), score=np.full(ROWS, 2.0))
    near(flat, 0)


def test_openrlhf_rloo_leaves_the_kl_out_of_the_baseline() -> None:
    """There leave-one-out acts on the raw reward, then k1 comes per token, to go; ours has both in one number."""
    beta, r = 0.05, grouped(REWARD)
    raw = (r - (r.sum(1, keepdims=True) - r) / (G - 1)).ravel()
    near(advantage_of(SequenceReturn(), GroupBaseline("leave_one_out"))[:, 0], raw)
    k1 = (OLD - REF) * MASK
    to_go = raw[:, None] - beta * np.cumsum(k1[:, ::-1], -1)[:, ::-1]
    found = build("rloo", beta_kl=beta).signal(batch(), replace(stats(), logp=None)).advantage
    assert found is not None
    whole = grouped(k1.sum(-1))
    others = (whole.sum(1, keepdims=True) - whole) / (G - 1)
    near(found[:, 0].numpy() - to_go[:, 0], beta * others.ravel())
    assert np.abs(found.numpy() - to_go * MASK).max() > 1e-2


def test_openrlhf_group_norm_has_eps_1e_9() -> None:
    r = grouped(REWARD)
    theirs = ((r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-9)).ravel()
    steps = (SequenceReturn(), GroupBaseline("mean"))
    near(advantage_of(*steps, GroupScale(eps=1e-9, std="unbiased"))[:, 0], theirs)
    gap = np.abs(advantage_of(*steps, GroupScale(std="unbiased"))[:, 0] - theirs).max()
    assert 1e-6 < gap < 1e-3


def test_openrlhf_overlong_penalty() -> None:
    """−factor·min(|y| − (max − buffer), buffer)/buffer where that is negative."""
    step, longest, buffer, factor = Overlong(max_tokens=6.0, buffer=3.0, coef=0.7), 6, 3, 0.7
    over = np.minimum(LENGTH - (longest - buffer), buffer)
    theirs = np.where(over > 0, -over / buffer * factor, 0.0)
    found = step(batch(), TokenStats(), Signal()).reward
    assert found is not None and len(set(theirs)) >= 3
    near(found.sum(-1).numpy(), theirs)


# --------------------------------------------------------------------------------------- verl 018f23b, 0db1343


def verl_whiten(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """torch_functional.py, masked_whiten: variance by n − 1, 1e-8 inside the root."""
    n = mask.sum()
    mean = (x * mask).sum() / (n + 1e-8)
    var = ((x - mean) ** 2 * mask).sum() / (n + 1e-8) * n / (n - 1)
    return (x - mean) / np.sqrt(var + 1e-8)


def verl_returns(reward: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """core_algos.py, reinforce_plus_plus: the running return is multiplied by the mask."""
    found, running = np.zeros_like(reward), np.zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        running = reward[:, t] + running
        found[:, t] = running
        running = running * mask[:, t]
    return found


def test_verl_whitens_by_the_unbiased_variance() -> None:
    steps = (SequenceReturn(), GroupBaseline("mean"))
    raw, n = advantage_of(*steps), MASK.sum()
    found = advantage_of(*steps, Whiten())
    std = np.sqrt((((raw - (raw * MASK).sum() / n) * MASK) ** 2).sum() / n)
    near(found * (std + 1e-8), verl_whiten(raw, MASK) * MASK * np.sqrt(std**2 * n / (n - 1) + 1e-8))
    assert np.abs(found - verl_whiten(raw, MASK) * MASK).max() > 1e-3
    near(build("reinforce_pp_baseline").signal(batch(), replace(stats(), logp=None)).advantage.numpy(), found)  # type: ignore[union-attr]


def test_verl_returns_start_anew_at_every_token_of_the_environment() -> None:
    """Reward 1 behind the mask 1 1 0 1 1: there only the last turn is credited, here all the model wrote."""
    mask, reward = np.array([[1.0, 1, 0, 1, 1]]), np.array([[0.0, 0, 0, 0, 1]])
    near(verl_returns(reward, mask), [[0, 0, 1, 1, 1]])
    rows = Batch(
        tokens=torch.zeros(1, 5, dtype=torch.long),
        length=torch.tensor([5]),
        mask=torch.tensor(mask > 0),
        group=torch.zeros(1, dtype=torch.long),
        weight=torch.ones(1, dtype=F),
    )
    found = ReturnToGo()(rows, TokenStats(), Signal(reward=torch.tensor(reward))).advantage
    assert found is not None
    near(found.numpy(), [[1, 1, 0, 1, 1]])
    whole = REWARD[:, None] * (np.arange(WIDTH) == LENGTH[:, None] - 1)
    near(verl_returns(whole, MASK) * MASK, advantage_of(ReturnToGo()))  # without holes they agree


def verl_grouped(reward: np.ndarray, index: np.ndarray) -> np.ndarray:
    """core_algos.py, grpo: (r − mean)/(std + 1e-6), std by n − 1; of a single answer mean 0 and std 1."""
    found = np.zeros_like(reward)
    for one in set(index):
        mine = reward[index == one]
        mean, std = (mine.mean(), mine.std(ddof=1)) if len(mine) > 1 else (0.0, 1.0)
        found[index == one] = (mine - mean) / (std + 1e-6)
    return found


def test_verl_group_advantages_and_prompts_with_one_answer() -> None:
    """One answer keeps its raw reward there, and has advantage 0 here."""
    theirs = verl_grouped(REWARD, INDEX)
    steps = (SequenceReturn(), GroupBaseline("mean"))
    near(advantage_of(*steps, GroupScale(eps=1e-6, std="unbiased"))[:, 0], theirs)
    alone, signal = (
        batch(group=torch.arange(ROWS)),
        Signal(reward=torch.tensor(REWARD[:, None] * MASK / LENGTH[:, None])),
    )
    for step in (*steps, GroupScale(eps=1e-6, std="unbiased")):
        signal = step(alone, TokenStats(), signal)
    assert signal.advantage is not None and float(signal.advantage.abs().max()) == 0
    near(verl_grouped(REWARD, np.arange(ROWS)), REWARD / (1 + 1e-6))


def test_verl_rloo_is_leave_one_out_in_another_form() -> None:
    r = grouped(REWARD)
    theirs = (r * G / (G - 1) - r.mean(1, keepdims=True) * G / (G - 1)).ravel()
    near(advantage_of(SequenceReturn(), GroupBaseline("leave_one_out"))[:, 0], theirs)


def test_verl_dual_clip_is_on_by_default() -> None:
    """compute_policy_loss_vanilla with clip_ratio_c = 3; TRL and our default have none."""
    z = np.linspace(-3, 3, 25)
    ratio, a = np.exp(z), -0.7
    first = np.maximum(-a * ratio, -a * np.clip(ratio, 0.8, 1.28))
    theirs, bad = np.minimum(first, -a * 3.0), torch.full((25,), a, dtype=F)
    near(Clipped(high=0.28, dual=3.0)(torch.tensor(z), bad).numpy(), theirs)
    assert np.abs(Clipped(high=0.28)(torch.tensor(z), bad).numpy() - theirs).max() > 1


def test_verl_gspo_is_the_token_variant() -> None:
    """seq-mean-token-mean of max(−A s_t, −A clip(s_t)): GSPO's value and gradient for one advantage per answer."""
    s = np.exp(((LOGP - OLD) * MASK).sum(-1) / LENGTH)[:, None] * np.ones_like(LOGP)
    loss = np.maximum(-ADVANTAGE[:, None] * s, -ADVANTAGE[:, None] * np.clip(s, 1 - 3e-4, 1 + 4e-4))
    for ratio in ("token", "sequence"):
        (term,) = build("gspo", ratio=ratio).terms
        near(ours(term)[0], ((loss * MASK).sum(-1) / LENGTH).mean())


def test_verl_cispo_has_two_sides() -> None:
    """clip(ϱ, 1 − ε_low, 1 + ε_high): ours where ϱ is above 1 − ε_low, with cap = 1 + ε_high; heavier weights below."""
    low, high, ratio = 0.3, 0.2, np.exp(LOGP - OLD)
    theirs = -np.clip(ratio, 1 - low, 1 + high) * ADVANTAGE[:, None] * MASK / MASK.sum()
    _, gradient = ours(policy(link=Capped(1 + high)))
    above = ratio >= 1 - low
    near(gradient[above], theirs[above])
    below = ~above & (MASK > 0)
    assert below.any() and (np.abs(gradient[below]) < np.abs(theirs[below])).all()


def test_verl_token_sum_norm_divides_by_the_width_of_the_padding() -> None:
    """seq-mean-token-sum-norm without a scale factor; with the budget given it is Dr. GRPO's."""
    sums = (trl_clipped(LOGP) * MASK).sum(-1)
    (term,) = build("dr_grpo", budget=float(WIDTH)).terms
    value, _ = ours(term)
    near(value, sums.mean() / WIDTH)
    wider = sums.mean() / (WIDTH + 3)  # the same rows, three columns of padding more
    assert abs(value - wider) > 1e-3
    halves = np.mean([sums[h].mean() / LENGTH[h].max() for h in (slice(0, 2), slice(2, ROWS))])
    assert abs(value - halves) > 1e-4  # or split into micro-batches of their own widths
