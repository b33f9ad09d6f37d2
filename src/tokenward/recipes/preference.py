"""Methods that learn from preferences, labels, demonstrations: offline, no sampling.

lr(y) = Σ_t log π/π_ref over the response's tokens; Δ = lr(y_w) − lr(y_l); σ the logistic function.
"""

from __future__ import annotations

from typing import Literal

from tokenward.objective.divergences import Divergence, DivergenceRatio
from tokenward.objective.links import Hinge, Logistic, NegativeLogLikelihood, Prospect, SquareMargin
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import ProbePoint
from tokenward.objective.targets import Label, LearnedValue, MinusPoint, Won
from tokenward.objective.terms import Aggregation, LogRatio, ModelScore, PairTerm, RowTerm, TokenTerm

PAIRS = (Stream("pairs"),)


def sft(*, aggregation: Aggregation = "token_mean") -> Recipe:
    """Supervised fine-tuning: −Σ_t log π(y_t|s_t) on demonstrations; optimum: their law (Ouyang et al. 2022, §3.5)."""
    term = TokenTerm("nll", score=LogRatio(), link=NegativeLogLikelihood(), aggregation=aggregation)
    return Recipe("sft", ("ouyang2022",), (Stream("demos"),), (term,))


def reward_model(*, margin: float = 0.0) -> Recipe:
    """Bradley–Terry reward model: −log σ(R(y_w) − R(y_l) − margin), R a head after the last token.

    Source: Bradley and Terry 1952; Ouyang et al. 2022, Eq. 1.
    """
    term = PairTerm("bradley_terry", score=ModelScore(), link=Logistic(margin=margin), target=Won())
    return Recipe("reward_model", ("bradley1952", "ouyang2022"), PAIRS, (term,))


def dpo(*, beta: float = 0.1) -> Recipe:
    """DPO: −log σ(β Δ); optimum π_ref·exp(r/β)/Z for Bradley–Terry labels on connected pairs.

    Source: Rafailov et al. 2023, Eq. 7; per token: Rafailov et al. 2024, §3.
    """
    term = PairTerm("dpo", score=LogRatio("ref_logp", beta=beta), link=Logistic(), target=Won())
    return Recipe("dpo", ("rafailov2023dpo", "rafailov2024q"), PAIRS, (term,))


def dpo_averaged(*, beta: float = 5.0) -> Recipe:
    """DPO on averaged log-ratios: −log σ(β (lr_w/|w| − lr_l/|l|)); Tülu 3's form (Lambert et al. 2024).

    Another target than `dpo` where lengths differ: the length stands in the exponent of its optimum.
    """
    term = PairTerm("dpo", score=LogRatio("ref_logp", beta=beta, pool="mean"), link=Logistic(), target=Won())
    return Recipe("dpo_averaged", ("lambert2024tulu", "rafailov2023dpo"), PAIRS, (term,))


def f_dpo(*, beta: float = 0.1, divergence: Divergence = "js") -> Recipe:
    """f-DPO: −log σ(β f′(u_w) − β f′(u_l)), u = π/π_ref of the whole response (Wang et al. 2023).

    Optimum f′(π/π_ref) = (r − λ)/β: the policy of most reward less β times the f-divergence. "reverse_kl" is DPO.
    """
    term = PairTerm("f_dpo", score=DivergenceRatio(divergence, beta=beta), link=Logistic(), target=Won())
    return Recipe("f_dpo", ("wang2023fdpo", "rafailov2023dpo"), PAIRS, (term,))


def cdpo(*, beta: float = 0.1, smoothing: float = 0.1) -> Recipe:
    """Conservative DPO: −(1−ε) log σ(βΔ) − ε log σ(−βΔ); margins stay below log((1−ε)/ε)/β (Mitchell 2023)."""
    term = PairTerm("cdpo", score=LogRatio("ref_logp", beta=beta), link=Logistic(), target=Won(smoothing=smoothing))
    return Recipe("cdpo", ("mitchell2023cdpo", "rafailov2023dpo"), PAIRS, (term,))


def ipo(*, beta: float = 0.1) -> Recipe:
    """IPO, summed log-ratios: (Δ − 1/(2β))²; β is the paper's τ (Azar et al. 2023, Eq. 17). Bounded for hard labels."""
    term = PairTerm("ipo", score=LogRatio("ref_logp"), link=SquareMargin(margin=1 / (2 * beta)), target=Won())
    return Recipe("ipo", ("azar2023ipo",), PAIRS, (term,))


def ipo_averaged(*, beta: float = 0.1) -> Recipe:
    """IPO on averaged log-ratios: (lr_w/|w| − lr_l/|l| − 1/(2β))².

    Another target than `ipo` where lengths differ. The form of TRL and HALOs; the length
    stands in the exponent of its optimum (Azar et al. 2023, Eq. 17, averaged).
    """
    score = LogRatio("ref_logp", pool="mean")
    term = PairTerm("ipo", score=score, link=SquareMargin(margin=1 / (2 * beta)), target=Won())
    return Recipe("ipo_averaged", ("azar2023ipo",), PAIRS, (term,))


def slic(*, delta: float = 1.0, nll_coef: float = 0.1) -> Recipe:
    """SLiC-HF: max(0, δ − log π(y_w) + log π(y_l)) − λ log π(y_w); no reference (Zhao et al. 2023, Eq. 2).

    The paper's second term is on an SFT target; the preferred answer stands for it here.
    """
    rank = PairTerm("hinge", score=LogRatio(), link=Hinge(margin=delta), target=Won())
    nll = PairTerm(
        "nll", score=LogRatio(), link=NegativeLogLikelihood(), target=Won(), compare="preferred", coef=nll_coef
    )
    return Recipe("slic", ("zhao2023slic",), PAIRS, (rank, nll))


def simpo(*, beta: float = 2.0, gamma: float = 1.0) -> Recipe:
    """SimPO: −log σ(β (log π(y_w)/|w| − log π(y_l)/|l|) − γ); no reference (Meng et al. 2024, Eq. 6)."""
    term = PairTerm("simpo", score=LogRatio(beta=beta, pool="mean"), link=Logistic(margin=gamma), target=Won())
    return Recipe("simpo", ("meng2024simpo",), PAIRS, (term,))


def kto(*, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Recipe:
    """KTO: λ_D (1 − σ(β(lr − z₀))) for desirable, λ_U (1 − σ(β(z₀ − lr))) for undesirable answers.

    Source: Ethayarajh et al. 2024, Eq. 8. z₀ = max(0, mean log-ratio of mismatched rows), without gradient.
    """
    link = Prospect(desirable=desirable, undesirable=undesirable)
    term = RowTerm("kto", score=LogRatio("ref_logp", beta=beta), link=link, target=Label(), offset=MinusPoint(beta))
    return Recipe("kto", ("ethayarajh2024kto",), (Stream("labels"),), (term,), steps=(ProbePoint(),))


def bco(*, beta: float = 0.1, point: Literal["learned", "zero"] = "learned") -> Recipe:
    """BCO: −log σ(β lr − δ) for desirable, −log σ(δ − β lr) for undesirable answers (Jung et al. 2024).

    point "learned": −δ is a critic's value of the prompt, trained along; optimum π_ref·(q/(1−q))^(1/β)/Z,
    q = P(desirable). "zero": δ = 0, a normalizer is missing. The paper's δ is a running mean of β lr: another method.
    """
    offset = LearnedValue() if point == "learned" else None
    term = RowTerm("bco", score=LogRatio("ref_logp", beta=beta), link=Logistic(), target=Label(), offset=offset)
    return Recipe("bco", ("jung2024bco",), (Stream("labels"),), (term,))
