"""Credit through observations, from a rollout to the signal; and the control that cuts it."""

from __future__ import annotations

import pytest
import torch

from tokenward.data.collate import rollouts_batch
from tokenward.environments import ask
from tokenward.objective.signal.advantages import GAE, ReturnToGo
from tokenward.objective.signal.rewards import Outcome
from tokenward.recipes import build
from tokenward.trained.agents.control import TurnGAE, cut_ppo
from tokenward.types import Rollout, Signal, TokenStats


def five_tokens(**more):
    """Two tokens of the model, one of the environment, two of the model; 1 for the last."""
    given = {"rewards": (0.0, 0.0, 0.0, 0.0, 1.0), "score": 0.0, **more}
    wrote, logp = (True, True, False, True, True), (-1.0, -1.0, 0.0, -1.0, -1.0)
    return Rollout(0, (7, 8), (3, 4, 5, 6, 1), wrote, logp, "stop", **given)


def advantages(rollout, *steps):
    batch = rollouts_batch([[rollout]], pad_id=0)
    stats = TokenStats(old_value=torch.zeros(batch.tokens.shape))
    signal = Signal()
    for step in (Outcome(), *steps):
        signal = step(batch, stats, signal)
    return signal.advantage[0, 2:].tolist()


@pytest.mark.parametrize("step", [ReturnToGo(), GAE(gamma=1.0, lam=1.0)])
@pytest.mark.parametrize("more", [{}, {"rewards": None, "score": 1.0}, {"rewards": (0.0,) * 5, "score": 1.0}])
def test_credit_passes_observations(step, more):
    assert advantages(five_tokens(**more), step) == [1.0, 1.0, 0.0, 1.0, 1.0]


def test_discounts_count_the_models_tokens_alone():
    assert advantages(five_tokens(), GAE(gamma=0.5, lam=1.0)) == [0.125, 0.25, 0.0, 0.5, 1.0]


def test_the_control_has_the_fault_that_is_told_of():
    assert advantages(five_tokens(), TurnGAE(gamma=1.0, lam=1.0)) == [0.0, 0.0, 0.0, 1.0, 1.0]
    names = [type(step).__name__ for step in cut_ppo().steps]
    assert names == [{"GAE": "TurnGAE"}.get(type(s).__name__, type(s).__name__) for s in build("ppo").steps]


@pytest.mark.parametrize("place", [1, 2])
def test_a_reward_for_a_turn_stays_with_that_turn(place):
    """At the turn's last token, or on the observation after it, which is the same."""
    rewards = tuple(2.0 * (i == place) for i in range(5))
    assert advantages(five_tokens(rewards=rewards, score=1.0), ReturnToGo()) == [3.0, 3.0, 0.0, 1.0, 1.0]


def test_a_batch_of_episodes_knows_rewards_and_turns():
    short = Rollout(0, (7,), (3, 1), (True, True), (-1.0, -2.0), "stop", score=0.5)
    batch = rollouts_batch([[five_tokens(), short]], pad_id=0)
    assert batch.mask.tolist() == [[False, False, True, True, False, True, True], [False, True, True] + [False] * 4]
    assert batch.segment[batch.mask].tolist() == [0, 0, 1, 1, 0, 0]
    assert batch.reward.tolist() == [[0.0] * 6 + [1.0], [0.0] * 7]
    assert batch.sampler_logp[0].tolist() == [0.0, 0.0, -1.0, -1.0, 0.0, -1.0, -1.0]
    alone = rollouts_batch([[short]], pad_id=0)
    assert alone.segment is None and alone.reward is None


def test_cutting_credit_turns_the_gradient_away_from_asking():
    """In expectation over a policy that asks half the time: the question's advantage is positive, cut it is the cost.

    Worth of asking 0.9 (a right box for certain), of guessing 0.25; the baseline is their mean. One token each.
    """
    asked = Rollout(
        0, (7,), (3, 5, 4), (True, False, True), (0.0,) * 3, "stop", score=1.0, rewards=(-ask.COST, 0.0, 0.0)
    )
    guess = Rollout(0, (7,), (6,), (True,), (0.0,), "stop", score=ask.BLIND, rewards=(0.0,))
    batch = rollouts_batch([[asked, guess]], pad_id=0)
    found = {}
    for name, step in (("whole", GAE(gamma=1.0, lam=1.0)), ("cut", TurnGAE(gamma=1.0, lam=1.0))):
        zero = TokenStats(old_value=torch.zeros(batch.tokens.shape))
        credit = step(batch, zero, Outcome()(batch, zero, Signal())).advantage[:, 1]
        logits = torch.zeros(2, requires_grad=True)  # ask, guess
        logp = logits.log_softmax(-1)
        (logp.exp() * (credit - credit.mean())).sum().backward()
        found[name] = float(logits.grad[0])
    assert found["whole"] == pytest.approx(0.25 * (ask.BEST - ask.BLIND))
    assert found["cut"] == pytest.approx(0.25 * (-ask.COST - ask.BLIND))
