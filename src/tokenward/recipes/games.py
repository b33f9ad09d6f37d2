"""Methods that compare answers of several laws: the policy's own, the reference's, a mixture's, the greedy one.

lr(y) = Σ_t log π/π_ref over the response's tokens; Δ = lr(y) − lr(y′); P(y ≻ y′) what a judge says: σ((r − r′)/T) of
the scores, T = `label_temperature`, or a judge of pairs' own probability. The sampling has no gradient.
"""

from __future__ import annotations

from typing import Literal

from tokenward.errors import InputError, nearest
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.games import Judged, StreamBaseline, WinRate
from tokenward.objective.links import Hinge, Link, Logistic, NegativeLogLikelihood, ScoreFunction, SquareMargin
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import ReturnToGo
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage, NoTarget
from tokenward.objective.terms import Aggregation, LogRatio, PairTerm, RowTerm, TokenTerm

Labels = Literal["soft", "hard"]
PairLink = Literal["logistic", "ipo", "hinge"]


def online_dpo(
    *, beta: float = 0.1, labels: Labels = "soft", link: PairLink = "logistic", label_temperature: float = 1.0
) -> Recipe:
    """Online DPO: DPO on pairs of the policy's own answers, judged as they are written (Guo et al. 2024, OAIF).

    link "logistic": −p log σ(βΔ) − (1−p) log σ(−βΔ) · "ipo": p (Δ − 1/(2β))² + (1−p) (Δ + 1/(2β))² · "hinge": SLiC's,
    p max(0, 1 − βΔ) + (1−p) max(0, 1 + βΔ). labels "soft": p = P(y ≻ y′); "hard": 1 for the preferred answer, ½ for
    both of a tie (TRL: the first). All pairs of a group are compared.
    Rests at π_ref·exp(r/(βT))/Z for soft labels; "ipo" at the Nash policy π ∝ π_ref·exp(P(y ≻ π)/β) (derived here).
    """
    term = _pair_term("online_dpo", beta, link, Judged(_temperature(labels, label_temperature)), (0, 0))
    return Recipe("online_dpo", ("guo2024oaif", "rafailov2023dpo"), (Stream("rollouts", group=2),), (term,))


def xpo(*, beta: float = 0.1, alpha: float = 1e-5, labels: Labels = "soft", label_temperature: float = 1.0) -> Recipe:
    """XPO: online DPO on an answer of the policy and one of the reference, + α log π(y_ref) (Xie et al. 2024).

    The bonus is minimized along: optimism takes mass from answers that the reference would give. α = 0 rests at
    π_ref·exp(r/(βT))/Z for soft labels; α > 0 elsewhere, where no closed form is known.
    """
    pair = _pair_term("pair", beta, "logistic", Judged(_temperature(labels, label_temperature)), (0, 1))
    bonus = RowTerm("bonus", score=LogRatio(), link=NegativeLogLikelihood(), target=NoTarget(), coef=-alpha, stream=1)
    streams = (Stream("rollouts"), Stream("rollouts", sampler="reference"))
    return Recipe("xpo", ("xie2024xpo", "rafailov2023dpo"), streams, (pair, bonus) if alpha else (pair,))


def nash_md(
    *,
    beta_kl: float = 0.1,
    mixture: float = 0.5,
    label_temperature: float = 1.0,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_sum",
) -> Recipe:
    """Nash-MD: −A_t log π(y_t), A_t = P(y ≻ y′) − ½ − β_kl Σ_{i≥t} log π_old/π_ref (Munos et al. 2023).

    y′ of the law ∝ π^{1−c}·π_ref^c, c = `mixture`. Rests at π ∝ π_ref·exp(P(y ≻ mixture)/β_kl), the mixture that of π
    itself: at c = 0 the Nash policy of the game with a KL to the reference, at c > 0 another one (derived here). TRL's
    KL is each token's own, kl = "loss_k2" here: myopic on sequences.
    """
    steps = (WinRate(1, temperature=label_temperature), *kl_steps(kl, beta_kl=beta_kl), ReturnToGo())
    policy = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage(), aggregation=aggregation)
    streams = (Stream("rollouts"), Stream("rollouts", sampler="mixture", mixture=mixture))
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("nash_md", ("munos2023nash",), streams, terms, steps=steps)


def remax(*, beta_kl: float = 0.05, kl: KLPlace = "reward", aggregation: Aggregation = "token_mean") -> Recipe:
    """ReMax: −A_t log π(y_t), A_t = Σ_{i≥t} r_i less the score of the greedy answer (Li et al. 2023).

    r_i holds the KL, with all that follows (as in verl); the authors' code takes each token's own KL alone, which is
    kl = "loss_k2" here, and clips the score to ±5.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), ReturnToGo(), StreamBaseline())
    policy = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage(), aggregation=aggregation)
    streams = (Stream("rollouts"), Stream("rollouts", sampler="greedy"))
    terms = (policy, *kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation))
    return Recipe("remax", ("li2023remax", "williams1992"), streams, terms, steps=steps)


def _pair_term(name: str, beta: float, link: PairLink, target: Judged, streams: tuple[int, int]) -> PairTerm:
    """A pair term on log-ratios to the reference, scaled as the link takes them."""
    if link == "ipo":
        score, curve = LogRatio("ref_logp"), SquareMargin(margin=1 / (2 * beta))
        return PairTerm(name, score=score, link=curve, target=target, streams=streams)
    known: dict[str, Link] = {"logistic": Logistic(), "hinge": Hinge()}
    if link not in known:
        raise InputError(f"link must be 'logistic', 'ipo' or 'hinge', got {link!r}.{nearest(link, [*known, 'ipo'])}")
    return PairTerm(name, score=LogRatio("ref_logp", beta=beta), link=known[link], target=target, streams=streams)


def _temperature(labels: Labels, temperature: float) -> float:
    """The judge's temperature; 0 for hard labels."""
    if labels not in ("soft", "hard"):
        raise InputError(f"labels must be 'soft' or 'hard', got {labels!r}")
    return temperature if labels == "soft" else 0.0
