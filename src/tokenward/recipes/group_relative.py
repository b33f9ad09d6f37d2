"""Clipped methods on groups of answers, after GRPO: what each leaves out, or puts in its place.

A is one number for the whole answer, from the rewards of its group; s = ϱ of the answer, ϱ_t of token t, both π/π_old.
None of the papers has a KL: without one there is no interior optimum. β_kl > 0 puts it back, in the reward if not said
otherwise (`kl`, see policy_gradient.py); then all of them rest at π_ref·exp(r/β_kl)/Z.
"""

from __future__ import annotations

from typing import Literal

from tokenward.objective.capped import Capped
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Clipped
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.sequence_ratio import SequenceRatio
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale, SequenceReturn
from tokenward.objective.signal.overlong import Overlong
from tokenward.objective.signal.rewards import Outcome, SignalStep
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import Aggregation, LogRatio, RowTerm, TokenTerm

GROUPS = (Stream("rollouts", group=2),)
MIXED = (Stream("rollouts", group=2, keep="mixed"),)
OLD = LogRatio("old_logp")


def dr_grpo(*, budget: float = 64.0, beta_kl: float = 0.0, clip: float = 0.2, kl: KLPlace = "reward") -> Recipe:
    """Dr. GRPO: GRPO with A = r − group mean, not divided, and a token sum over a constant, not over |y|.

    `budget` is that constant, the longest completion in tokens: a plain factor on both terms. It moves no optimum; it
    says how large gradients are to a gradient clip. TRL's "dr_grpo" divides by rows × max_completion_length, as we do;
    verl's "seq-mean-token-sum-norm" by the padded width of each micro-batch, if not told a number: there the loss
    depends on how a batch is split. Source: Liu et al. 2025, §3.2.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"))
    link, share = Clipped(low=clip, high=clip), 1 / budget
    policy = TokenTerm("policy", score=OLD, link=link, target=Advantage(), aggregation="token_sum", coef=share)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl * share, aggregation="token_sum"))
    return Recipe("dr_grpo", ("liu2025drgrpo", "shao2024grpo"), GROUPS, terms, steps=steps)


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    overlong_max: float = 20480.0,
    overlong_buffer: float = 4096.0,
    overlong_coef: float = 1.0,
    beta_kl: float = 0.0,
    kl: KLPlace = "reward",
) -> Recipe:
    """DAPO: GRPO with a wider upper clip, a mean over all tokens, a soft penalty of long answers, and no KL.

    Groups whose rewards are all equal teach nothing: its stream asks for mixed ones, and others are drawn anew. An
    answer pays from overlong_max − overlong_buffer trainable tokens on. Source: Yu et al. 2025, §3.1–3.4.
    """
    overlong = Overlong(max_tokens=overlong_max, buffer=overlong_buffer, coef=overlong_coef)
    before: tuple[SignalStep, ...] = (Outcome(), overlong, *kl_steps(kl, beta_kl=beta_kl), SequenceReturn())
    link = Clipped(low=clip_low, high=clip_high)
    policy = TokenTerm("policy", score=OLD, link=link, target=Advantage())
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation="token_mean"))
    steps = (*before, GroupBaseline("mean"), GroupScale())
    return Recipe("dapo", ("yu2025dapo", "shao2024grpo"), MIXED, terms, steps=steps)


def gspo(
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    ratio: Literal["sequence", "token"] = "sequence",
    beta_kl: float = 0.0,
    kl: KLPlace = "reward",
) -> Recipe:
    """GSPO: max(−A s, −A clip(s)) of whole answers, s = (π/π_old)^(1/|y|), the geometric mean of the token ratios.

    ratio "token": s_t = sg[s]·π_t/sg[π_t] at each token, a mean over |y|; the same value and gradient as long as A is
    one number for the answer. TRL's rloo clips the product of the ratios, not their mean: another method. Source: Zheng
    et al. 2025, Eq. 5, 7 and 14.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"), GroupScale())
    link, target = Clipped(low=clip_low, high=clip_high), Advantage()
    row = RowTerm("policy", score=LogRatio("old_logp", pool="mean"), link=link, target=target)
    token = TokenTerm("policy", score=SequenceRatio(), link=link, target=target, aggregation="sequence_mean")
    terms = (row if ratio == "sequence" else token, *kl_terms(kl, beta_kl=beta_kl, aggregation="sequence_mean"))
    return Recipe("gspo", ("zheng2025gspo", "shao2024grpo"), GROUPS, terms, steps=steps)


def cispo(
    *, cap: float = 5.0, beta_kl: float = 0.0, kl: KLPlace = "reward", aggregation: Aggregation = "token_mean"
) -> Recipe:
    """CISPO: −sg[min(ϱ_t, cap)] A log π(y_t): no token's gradient is cut to 0, its weight is capped.

    `cap` is a value of the ratio (TRL's epsilon_high for this loss; 1 + ε_high in the paper and in verl, which has a
    lower bound too). Advantages are GRPO's. Source: MiniMax 2025, where the number is not given; cap: Khatri et
    al. 2025 (ScaleRL), who divide by the batch's std.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("mean"), GroupScale())
    policy = TokenTerm("policy", score=OLD, link=Capped(cap), target=Advantage(), aggregation=aggregation)
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("cispo", ("minimax2025m1", "khatri2025scalerl"), GROUPS, terms, steps=steps)
