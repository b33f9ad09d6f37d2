"""Recipes put together at random from parts: the lab predicts a policy that is reached, or says that it knows none.

Hypothesis draws the parts, not the methods: most of these compositions have no name.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.lab.plain import random_law
from tokenward.errors import InputError
from tokenward.lab import verify
from tokenward.lab.optima.exact import total_variation
from tokenward.lab.optima.targets import predict
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.tree import grow
from tokenward.lab.worlds.world import Labels, Listed, Prompt, World
from tokenward.objective.divergences import DivergenceRatio, kl_steps, kl_terms
from tokenward.objective.groups import BoltzmannWeight, MeanReward, MonteCarloNormalizer
from tokenward.objective.links import (
    BernoulliKL,
    Clipped,
    Hinge,
    Logistic,
    Mirror,
    NegativeLogLikelihood,
    Prospect,
    ScoreFunction,
    Square,
    SquareMargin,
    SquashedSquare,
)
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import GAE, GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.signal.rewards import Guide, Outcome
from tokenward.objective.targets import (
    Advantage,
    GivenNormalizer,
    Label,
    LearnedValue,
    Majority,
    Probability,
    Score,
    ScoreGap,
    Won,
)
from tokenward.objective.terms import LogRatio, PairTerm, RowTerm, TokenTerm

DRAWS = 200
PAIR_LINKS = (
    Logistic(),
    Logistic(margin=0.5),
    BernoulliKL(),
    SquashedSquare(),
    Square(),
    SquareMargin(margin=1.0),
    Hinge(),
)
BETAS = st.sampled_from([0.5, 0.7, 1.3])


@st.composite
def worlds(draw) -> World:
    """A bandit or a small tree, one prompt or two, with data of any kind."""
    vocab, horizon, eos = draw(st.sampled_from([(3, 1, None), (4, 1, None), (2, 2, None), (2, 2, 1), (2, 3, 0)]))
    tree = grow(vocab=vocab, horizon=horizon, eos=eos)
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = tree.leaves

    def law() -> torch.Tensor:
        return torch.tensor(random_law(generator, n))

    labels = draw(
        st.sampled_from([Labels(), Labels(temperature=2.0), Labels(noise=0.1), Labels(kind="deterministic"), "matrix"])
    )
    pairs = draw(st.sampled_from(["uniform", "sampler", "path", "apart"]))
    sampler = draw(st.sampled_from(["uniform", "reference", "policy", "policy-through", "target", "own"]))
    group = draw(st.sampled_from([None, None, None, 1, 2, 3])) if tree.leaves < 5 else None
    prompts = []
    for _ in range(draw(st.sampled_from([1, 2]))):
        p = torch.tensor(generator.uniform(0.1, 0.9, (n, n)))
        matrix = torch.triu(p, 1) + torch.tril(1 - p.T, -1) + 0.5 * torch.eye(n, dtype=p.dtype)
        chain = torch.tensor([[i, i + 1] for i in range(n - 1 if pairs == "path" else n - 2)])
        even = torch.full((len(chain),), 1 / len(chain), dtype=torch.float64)
        prompts.append(
            Prompt(
                ref=law(),
                reward=torch.tensor(generator.normal(size=n)),
                weight=float(generator.uniform(0.5, 2)),
                pairs=pairs if pairs in ("uniform", "sampler") else Listed(chain, even),
                labels=Labels(matrix=matrix) if labels == "matrix" else labels,
                sampler=law() if sampler == "own" else sampler,
                critic=draw(st.sampled_from(["exact", "zero"])),
                group=group,
            )
        )
    return verify.with_guides(World(0.7, tree, tuple(prompts)))


def pair_recipe(draw) -> Recipe:
    """One term on pairs: any score, any link, any target."""
    beta = draw(BETAS)
    score = draw(
        st.sampled_from(
            [
                LogRatio("ref_logp", beta=beta),
                LogRatio("ref_logp", beta=beta, pool="mean"),
                LogRatio(beta=beta),
                LogRatio(beta=beta, pool="mean"),
                DivergenceRatio("reverse_kl", beta),
                DivergenceRatio("forward_kl", beta),
                DivergenceRatio("js", beta),
            ]
        )
    )
    link = draw(st.sampled_from(PAIR_LINKS))
    target = draw(st.sampled_from([Won(), Won(smoothing=0.1), Probability(), Majority(), ScoreGap()]))
    return Recipe("drawn", (), (Stream("pairs"),), (PairTerm("t", score=score, link=link, target=target),))


def row_recipe(draw) -> Recipe:
    """One term on single answers with scores or labels."""
    beta = draw(BETAS)
    kind = draw(st.sampled_from(["scores", "labels"]))
    offset = draw(
        st.sampled_from([None, LearnedValue(), GivenNormalizer(), MeanReward(), MonteCarloNormalizer(beta)])
        if kind == "scores"
        else st.sampled_from([None, LearnedValue()])
    )
    link = draw(
        st.sampled_from(
            [Square(), SquashedSquare()] if kind == "scores" else [Logistic(), SquashedSquare(), Prospect()]
        )
    )
    score = draw(st.sampled_from([LogRatio("ref_logp", beta=beta), LogRatio("ref_logp", beta=beta, pool="mean")]))
    target = Score() if kind == "scores" else Label()
    term = RowTerm("t", score=score, link=link, target=target, offset=offset)
    return Recipe("drawn", (), (Stream(kind),), (term,))


def weighted_recipe(draw) -> Recipe:
    """A likelihood: of demonstrations, or weighted by exp(r/β)."""
    if draw(st.booleans()):
        aggregation = draw(st.sampled_from(["token_mean", "sequence_mean", "token_sum"]))
        term = TokenTerm("t", score=LogRatio(), link=NegativeLogLikelihood(), aggregation=aggregation)
        return Recipe("drawn", (), (Stream("demos"),), (term,))
    term = RowTerm(
        "t", score=LogRatio(), link=ScoreFunction(), target=BoltzmannWeight(draw(BETAS), drawn="sampler_logp")
    )
    return Recipe("drawn", (), (Stream("scores"),), (term,))


def rollout_recipe(draw) -> Recipe:
    """Signal steps and terms on the policy's own answers."""
    beta = draw(BETAS)
    kl = draw(st.sampled_from(["reward", "loss_k2", "loss_k3", "exact"]))
    guide = draw(st.sampled_from([(), (), (Guide(0.4),), (Guide(0.4, clip=0.5),)]))
    estimator = draw(st.sampled_from([ReturnToGo(), ReturnToGo(gamma=0.9), SequenceReturn(), GAE(), GAE(lam=1.0)]))
    baseline = draw(st.sampled_from([(), (GroupBaseline("mean"),), (GroupBaseline("leave_one_out"),)]))
    scale = draw(st.sampled_from([(), (), (GroupScale(),), (Whiten(),), (Whiten(scale="none"),)]))
    beta = 0.0 if kl == "reward" and draw(st.sampled_from([False, False, True])) else beta  # one proximal step
    steps = (Outcome(), *kl_steps(kl, beta_kl=beta), *guide, estimator, *baseline, *scale)
    aggregation = draw(st.sampled_from(["token_mean", "sequence_mean", "token_sum"]))
    score, link = draw(
        st.sampled_from(
            [
                (LogRatio(), ScoreFunction()),
                (LogRatio("old_logp"), Clipped()),
                (LogRatio("old_logp"), Mirror(eta=0.5)),
            ]
        )
    )
    if draw(st.booleans()):
        policy = TokenTerm("t", score=score, link=link, target=Advantage(), aggregation=aggregation)
    else:
        policy = RowTerm("t", score=score, link=link, target=Advantage())
    terms = (policy, *kl_terms(kl, beta_kl=beta, aggregation=aggregation))
    return Recipe("drawn", (), (Stream("rollouts", group=2),), terms, steps=steps)


@st.composite
def compositions(draw) -> Recipe:
    return draw(st.sampled_from([pair_recipe, row_recipe, weighted_recipe, rollout_recipe, rollout_recipe]))(draw)


@pytest.mark.slow
@settings(
    max_examples=DRAWS, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(recipe=compositions(), world=worlds())
def test_what_is_predicted_is_reached(recipe, world):
    """A law that sums to one and is where the optimizer comes to rest; or no law; or one line that refuses."""
    guide = torch.stack([prompt.guide for prompt in world.prompts])
    try:
        prediction = predict(recipe, world, guide=guide)
        solution = solve(recipe, world, guide=guide)
    except InputError as refusal:
        event("refused")
        assert "\n" not in str(refusal)
        return
    assert bool(solution.law.isfinite().all()) and not math.isnan(solution.residual)
    if prediction.identified is not None:
        event("identified")
        for prompt, sets in zip(solution.law, prediction.identified, strict=True):
            for one in sets:
                own = prompt[list(one.leaves)]
                assert 0.5 * float((own / own.sum() - one.law).abs().sum()) <= 1e-4
    if prediction.law is None:
        event("no closed form")
        return
    event(f"predicted: {prediction.target}")
    torch.testing.assert_close(prediction.law.sum(-1), torch.ones(len(world.prompts)).double(), atol=1e-9, rtol=0)
    assert total_variation(prediction.law, solution.law) <= 1e-4, (prediction.target, solution.residual)
