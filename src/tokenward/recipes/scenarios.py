"""The four scenarios of UDRRA as constructions: what a loss may know of the reward, and who writes the answers.

Following the organization of Su et al. 2025 (arXiv 2502.03095); the formulas here are derived, with proof, by us.

    bda  the reward everywhere               KL(π‖π^β) or KL(π^β‖π), π^β = π_ref·exp(r/β)/Z
    ra   the reward of samples, and Z        E (β lr + β log Z − r)²
    rda  differences of rewards              E (β Δ − (r − r′))²
    pra  preferences alone                   E D(p, σ(β Δ))

lr(y) = Σ_t log π/π_ref, Δ = lr(y) − lr(y′). `sampler` says who writes the answers: "data" (the file, the lab's world),
"policy" (the current policy, without gradient through the sampling; trains on rollouts), and in the lab alone
"reference", "uniform", "old", "target" (π^β), "policy-through" (with the gradient through the sampling).

The paper has a second family with the suffix -P ("posterior"); no public text that we know defines it. Each reading of
it that we know is one call, here for pra (bda, ra and rda take the same `sampler`):

    pra(sampler="policy")                 A: the answers are those of the policy that learns
    pra(labels="draw")                    B: the labels are draws of the annotator's posterior, given the pair
    pra(sampler="target")                 C: the answers are those of π^β, the posterior of the prior π_ref
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from tokenward.errors import InputError, nearest
from tokenward.objective.groups import BoltzmannWeight, Drawn, MeanReward, MonteCarloNormalizer
from tokenward.objective.links import BernoulliKL, Difference, Link, Logistic, ScoreFunction, Square, SquashedSquare
from tokenward.objective.recipe import Recipe, Sampler, Stream
from tokenward.objective.signal.advantages import GroupBaseline, SequenceReturn
from tokenward.objective.signal.rewards import KLPenalty, Outcome, SignalStep
from tokenward.objective.targets import (
    Advantage,
    GivenNormalizer,
    LearnedValue,
    Majority,
    Offset,
    PairTarget,
    Probability,
    Score,
    ScoreGap,
    ScorePreference,
    Won,
)
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm

Labels = Literal["soft", "draw", "hard", "smoothed"]
PairLink = Literal["kl", "logistic", "brier"]
Normalizer = Literal["learned", "given", "monte_carlo", "mean_reward"]
Choice = TypeVar("Choice")
Parts = tuple[tuple[SignalStep, ...], RowTerm]


def bda(
    *, beta: float = 0.1, direction: Literal["reverse", "forward"] = "reverse", sampler: Sampler = "policy"
) -> Recipe:
    """Boltzmann distribution approximation: descent on KL(π‖π^β) ("reverse") or on KL(π^β‖π) ("forward").

    Scenario BDA in the organization of Su et al. 2025; formulas ours.

    reverse: −(R − mean of the others' R) log π(y), R = r − β Σ_t log π_old/π_ref, on answers of the policy: the exact
    direction of descent, times β; with sampler "policy-through" the loss E_π[β lr − r] itself. forward: −w log π(y) on
    answers of μ, w = (π_ref/μ) exp(r/β) ÷ its mean over the group; w = 1 on answers of "target".
    """
    steps, term = _choose("direction", direction, {"reverse": _reverse, "forward": _forward})(beta, sampler)
    return Recipe("bda", ("su2025udrra", "peters2007rwr"), _streams("scores", sampler, group=2), (term,), steps=steps)


def ra(*, beta: float = 0.1, normalizer: Normalizer = "learned", sampler: Sampler = "data") -> Recipe:
    """Reward approximation: (β lr + V(x) − r)², V in the place of β log Z(x).

    Scenario RA in the organization of Su et al. 2025; formula ours.

    "learned": V is a critic's value of the prompt, trained along; that is DRO (Richemond et al. 2024, Eq. 5, whose
    value head has its own gradient scale). "given": β log Z. "monte_carlo": β log of the group's mean of exp(r/β).
    "mean_reward": the group's mean reward, which is not β log Z.
    """
    offset: Offset = _choose("normalizer", normalizer, _normalizers(beta, sampler))
    term = RowTerm("ra", score=LogRatio("ref_logp", beta=beta), link=Square(), target=Score(), offset=offset)
    streams = _streams("scores", sampler, group=2 if term.scope == "group" else 1)
    return Recipe("ra", ("su2025udrra", "richemond2024dro"), streams, (term,))


def rda(*, beta: float = 0.1, sampler: Sampler = "data") -> Recipe:
    """Reward-difference approximation: (β Δ − (r_w − r_l))² on pairs with scores; the normalizer cancels.

    Scenario RDA in the organization of Su et al. 2025; formula ours.
    """
    term = PairTerm("rda", score=LogRatio("ref_logp", beta=beta), link=Square(), target=ScoreGap())
    return Recipe("rda", ("su2025udrra",), _streams("pairs", sampler, group=2), (term,))


def pra(
    *,
    beta: float = 0.1,
    labels: Labels = "soft",
    link: PairLink = "kl",
    smoothing: float = 0.1,
    label_temperature: float = 1.0,
    sampler: Sampler = "data",
) -> Recipe:
    """Preference-reward approximation: a strictly proper distance of the preference p from σ(β Δ).

    Scenario PRA in the organization of Su et al. 2025; formulas ours.

    labels: "soft" p as the data give it · "draw" who won, as data files have it (p = 1 where they say no more) · "hard"
    who wins more often · "smoothed" (1−ε)p + ε(1−p), ε = `smoothing`. With sampler "policy" the judge is
    p = σ((r − r′)/T), T = `label_temperature`. link: "kl" KL(Ber p‖Ber σ) · "logistic" its cross-entropy, which is DPO
    · "brier" (σ − p)².
    """
    judges = _judges(label_temperature, smoothing) if sampler == "policy" else _labels(smoothing)
    links: dict[str, Link] = {"kl": BernoulliKL(), "logistic": Logistic(), "brier": SquashedSquare()}
    score, target = LogRatio("ref_logp", beta=beta), _choose("labels", labels, judges)
    term = PairTerm("pra", score=score, link=_choose("link", link, links), target=target)
    return Recipe("pra", ("su2025udrra",), _streams("pairs", sampler, group=2), (term,))


def _streams(kind: Literal["scores", "pairs"], sampler: Sampler, *, group: int) -> tuple[Stream, ...]:
    """Rollouts where the policy writes the answers, else rows or pairs with the sampler's name."""
    if sampler == "policy":
        return (Stream("rollouts", group=group, sampler="policy"),)
    return (Stream(kind, sampler=sampler),)


def _reverse(beta: float, sampler: Sampler) -> Parts:
    if sampler == "policy":
        steps = (Outcome(), KLPenalty(beta), SequenceReturn(), GroupBaseline("leave_one_out"))
        return steps, RowTerm("bda", score=LogRatio(), link=ScoreFunction(), target=Advantage())
    if sampler != "policy-through":
        raise InputError(
            f"bda: direction 'reverse' is a mean over the policy's own answers, got sampler {sampler!r}: give 'policy' "
            "or 'policy-through', or direction 'forward'"
        )
    score = LogRatio("ref_logp", beta=beta)
    return (Outcome(), SequenceReturn()), RowTerm("bda", score=score, link=Difference(), target=Advantage())


def _forward(beta: float, sampler: Sampler) -> Parts:
    if sampler == "policy-through":
        raise InputError(
            "bda: direction 'forward' weighs given answers, got sampler 'policy-through': give 'policy', which has no "
            "gradient through the sampling"
        )
    drawn = "target" if sampler == "target" else _drawn(sampler)
    return (), RowTerm("bda", score=LogRatio(), link=ScoreFunction(), target=BoltzmannWeight(beta, drawn=drawn))


def _normalizers(beta: float, sampler: Sampler) -> dict[str, Offset]:
    return {
        "learned": LearnedValue(),
        "given": GivenNormalizer(),
        "monte_carlo": MonteCarloNormalizer(beta, drawn=_drawn(sampler)),
        "mean_reward": MeanReward(),
    }


def _drawn(sampler: Sampler) -> Drawn:
    """Where the log-probabilities of the answers under their own law stand."""
    return "ref_logp" if sampler == "reference" else "old_logp" if sampler == "policy" else "sampler_logp"


def _labels(smoothing: float) -> dict[str, PairTarget]:
    return {"soft": Probability(), "draw": Won(), "hard": Majority(), "smoothed": Won(smoothing=smoothing)}


def _judges(temperature: float, smoothing: float) -> dict[str, PairTarget]:
    """Labels of the policy's own answers; a draw of the judge has the judge's probability as its mean."""
    soft = ScorePreference(temperature)
    return {"soft": soft, "hard": ScorePreference(0.0), "smoothed": ScorePreference(temperature, smoothing)}


def _choose(keyword: str, value: str, known: Mapping[str, Choice]) -> Choice:
    if value not in known:
        raise InputError(f"{keyword} must be {' or '.join(map(repr, known))}, got {value!r}.{nearest(value, known)}")
    return known[value]
