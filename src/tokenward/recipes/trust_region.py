"""Methods that bound how far one update moves the policy: TRPO's constraint, and mirror descent's KL to the old policy.

KL(π_old‖π) is TRPO's, KL(π‖π_old) mirror descent's; both are of the old policy, not of the reference, and neither
takes the place of the pull to the reference (`kl`, `beta_kl`): docs/trust_region.md.
"""

from __future__ import annotations

from typing import Literal

from tokenward.errors import InputError
from tokenward.objective.divergences import KLPlace, kl_steps, kl_terms
from tokenward.objective.links import Identity, Mirror, Ratio
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import GAE, GroupBaseline, SequenceReturn, Whiten
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage
from tokenward.objective.terms import Aggregation, LogRatio, RowTerm, Statistic, Term, TokenTerm
from tokenward.objective.updates import ConstrainedStep
from tokenward.recipes.policy_gradient import ROLLOUTS
from tokenward.recipes.ppo import RewardScale, clipped_with_critic, reward_steps


def trpo(
    *,
    beta_kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    damping: float = 0.1,
    backtracks: int = 10,
    shrink: float = 0.5,
    critic_updates: int = 10,
    value_clip: float | None = None,
    reward_scale: RewardScale = "none",
    reward_clip: float | None = None,
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """TRPO: −A ϱ on whitened GAE advantages, within `max_kl` nats per token of the old policy (Schulman et al. 2015).

    One step a batch, by conjugate gradient and a line search that measures the KL(π_old‖π) it realized (ConstrainedStep
    says how). TRPO+ of Engstrom et al. 2020 is reward_scale=std, reward_clip=10, value_clip=.2, with --schedule linear
    and --grad-clip for the critic. Needs a critic of its own: --critic own.
    """
    shaped = (*reward_steps(reward_scale, reward_clip), *kl_steps(kl, beta_kl=beta_kl))
    terms = clipped_with_critic(None, value_clip, 1.0, aggregation)
    terms += kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    update = ConstrainedStep(max_kl, cg_steps, damping, backtracks, shrink, critic_updates)
    sources = ("schulman2015trpo", "schulman2016gae", "engstrom2020")
    steps = (Outcome(), *shaped, GAE(gamma=gamma, lam=lam), Whiten())
    return Recipe("trpo", sources, ROLLOUTS, terms, steps=steps, update=update)


def mirror_descent(
    *,
    eta: float = 1.0,
    beta_kl: float = 0.05,
    ratio: Literal["sequence", "token"] = "sequence",
    kl_old: Literal["sampled", "exact"] = "sampled",
    kl: KLPlace = "reward",
    aggregation: Aggregation = "token_mean",
) -> Recipe:
    """Mirror descent policy optimization: −A ϱ + (1/η) KL(π‖π_old), no clip (Tomar et al. 2020, Eq. 7).

    ratio "sequence": ϱ of the whole response; one exact step gives π_old·exp(ηA). "token": ϱ_t of each token, as in the
    paper; one exact step gives π_old·exp(ηQ) at each state, Q the old policy's. kl_old "sampled": (1/η) ϱ log ϱ of the
    token written; "exact": over the vocabulary at each state, from the weights the batch began with. The KL has no
    gradient at π_old, so take several updates a batch (--epochs 5 to 10; the paper's m). `aggregation` is that of the
    per-token parts. The paper anneals η to 0 over the run; here it is constant. Iterated with β_kl, all rest at
    π_ref·exp(r/β_kl)/Z.
    """
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta_kl), SequenceReturn(), GroupBaseline("leave_one_out"))
    terms = _proximal(ratio, kl_old, eta, aggregation) + kl_terms(kl, beta_kl=beta_kl, aggregation=aggregation)
    return Recipe("mirror_descent", ("tomar2020mdpo",), (Stream("rollouts", group=2),), terms, steps=steps)


def _proximal(ratio: str, kl_old: str, eta: float, aggregation: Aggregation) -> tuple[Term, ...]:
    """The surrogate and its KL to the old policy: one term where both are sampled, two where the KL is exact."""
    score, target = LogRatio("old_logp"), Advantage()
    if kl_old == "exact":
        if ratio != "token":
            raise InputError(f"kl_old = exact is a KL at each state: give ratio=token, got ratio={ratio}")
        policy = TokenTerm("policy", score=score, link=Ratio(), target=target, aggregation=aggregation)
        near = Statistic("kl_old")
        return policy, TokenTerm("kl_old", score=near, link=Identity(), aggregation=aggregation, coef=1 / eta)
    if ratio == "sequence":
        return (RowTerm("policy", score=score, link=Mirror(eta=eta), target=target),)
    return (TokenTerm("policy", score=score, link=Mirror(eta=eta), target=target, aggregation=aggregation),)
