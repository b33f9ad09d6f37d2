"""Answers of several laws, on rows worked by hand: who wins, what a greedy answer is worth, which pairs count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.objective.test_hand_rows import F, batch, sigma, tensor
from tokenward.errors import InputError
from tokenward.objective.games import Judged, StreamBaseline, WinRate
from tokenward.objective.groups import MonteCarloNormalizer
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.rewards import Outcome
from tokenward.recipes import build
from tokenward.types import Batch, Signal, TokenStats

NOTHING = TokenStats()


def two_laws(**fields: torch.Tensor) -> Batch:
    """A prompt with two answers of the policy (rows 0, 1) and two of another law (rows 2, 3); row 1 has two tokens."""
    base = {
        "group": torch.zeros(4, dtype=torch.long),
        "origin": torch.tensor([0, 0, 1, 1]),
        "score": tensor(2.0, 0.0, 1.0, 3.0),
        "pairs": torch.tensor([[0, 2], [3, 0], [2, 1], [3, 1]]),
    }
    return batch([[1, 0], [1, 1], [1, 0], [1, 0]], **{**base, **fields})


def test_a_judge_of_pairs_stands_before_one_of_scores() -> None:
    given = two_laws()
    of_scores = [sigma(1.0), sigma(1.0), sigma(1.0), sigma(3.0)]
    torch.testing.assert_close(Judged().pairs(given, NOTHING, Signal()), tensor(*of_scores))
    torch.testing.assert_close(Judged(2.0).pairs(given, NOTHING, Signal())[3], tensor(sigma(1.5)))
    tied = replace(given, score=tensor(2.0, 0.0, 2.0, 3.0))
    assert Judged(0.0).pairs(tied, NOTHING, Signal()).tolist() == [0.5, 1.0, 1.0, 1.0]
    judged = replace(given, pair_target=tensor(0.3, 0.5, 0.8, 1.0))
    assert Judged().pairs(judged, NOTHING, Signal()).tolist() == [0.3, 0.5, 0.8, 1.0]
    assert Judged(0.0).pairs(judged, NOTHING, Signal()).tolist() == [0.0, 0.5, 1.0, 1.0]


def test_win_rate_is_the_mean_over_the_other_streams_answers_less_a_half_at_the_last_token() -> None:
    given = two_laws(pair_weight=tensor(3.0, 1.0, 1.0, 1.0))
    reward = WinRate()(given, NOTHING, Signal()).reward
    assert reward is not None
    # row 0: σ(1) against row 2, weight 3, 1 − σ(1) against row 3; row 1: 1 − σ(1) and 1 − σ(3)
    first = (3 * sigma(1.0) + (1 - sigma(1.0))) / 4 - 0.5
    second = ((1 - sigma(1.0)) + (1 - sigma(3.0))) / 2 - 0.5
    torch.testing.assert_close(reward[:2], tensor([[first, 0.0], [0.0, second]]))
    more = WinRate()(given, NOTHING, Signal(reward=torch.ones(4, 2, dtype=F))).reward
    torch.testing.assert_close(more, reward + 1)


def test_win_rate_within_the_stream_leaves_an_answer_itself_out() -> None:
    rows = {"group": torch.zeros(3, dtype=torch.long), "score": tensor(1.0, 0.0, 2.0)}
    given = batch([[1]] * 3, **rows, pairs=torch.tensor([[0, 1], [2, 0], [2, 1]]))
    reward = WinRate(beside=0)(given, NOTHING, Signal()).reward
    assert reward is not None
    expected = [(sigma(1.0) + sigma(-1.0)) / 2 - 0.5, (sigma(-1.0) + sigma(-2.0)) / 2 - 0.5]
    torch.testing.assert_close(reward[:, 0], tensor(*expected, (sigma(1.0) + sigma(2.0)) / 2 - 0.5))


def test_pairs_of_other_streams_count_for_nothing() -> None:
    given = two_laws(pairs=torch.tensor([[0, 2], [0, 1], [3, 2], [3, 1]]))
    same = two_laws(pairs=torch.tensor([[0, 2], [3, 1]]))
    assert torch.equal(*(WinRate()(one, NOTHING, Signal()).reward for one in (given, same)))  # type: ignore[arg-type]
    recipe = build("xpo", alpha=0.0)
    stats = TokenStats(logp=-torch.rand(4, 2, dtype=F), ref_logp=-torch.rand(4, 2, dtype=F))
    torch.testing.assert_close(recipe.value(given, stats), recipe.value(same, stats))
    assert float(recipe.weights(given)["pair"]) == 2


def test_the_greedy_answer_is_the_baseline_of_its_own_prompt() -> None:
    given = batch(
        [[1, 1], [1, 0], [1, 0], [1, 0]],
        group=torch.tensor([0, 0, 1, 1]),
        origin=torch.tensor([0, 1, 0, 1]),
        score=tensor(5.0, 2.0, 1.0, 4.0),
    )
    reached = StreamBaseline()(given, NOTHING, Signal(advantage=tensor([[7.0, 6.0], [0, 0], [1, 0], [0, 0]])))
    assert reached.advantage is not None
    torch.testing.assert_close(reached.advantage[[0, 2]], tensor([[5.0, 4.0], [-3.0, 0.0]]))  # 7 − 2, 6 − 2; 1 − 4


def test_remax_by_hand() -> None:
    """Score 5, greedy 2, β_kl = .5, log π_old/π_ref = (.2, −.4): A = (5 + .1 − 2, 5 + .2 − 2); mean over two tokens."""
    given = batch(
        [[1, 1], [1, 0]], group=torch.zeros(2, dtype=torch.long), origin=torch.tensor([0, 1]), score=tensor(5.0, 2.0)
    )
    logp = tensor([[-1.0, -2.0], [-0.5, 0.0]])
    stats = TokenStats(logp=logp, old_logp=logp, ref_logp=logp - tensor([[0.2, -0.4], [9.0, 0.0]]))
    value = build("remax", beta_kl=0.5).value(given, stats)
    torch.testing.assert_close(value, tensor((3.1 * 1.0 + 3.2 * 2.0) / 2).squeeze())


def test_xpo_by_hand() -> None:
    """Policy's answer: log π −1, lr .5, score 1; reference's: log π −2, lr −.5, score 3; β 2: z = 2, p = σ(−2)."""
    given = batch(
        [[1], [1]],
        group=torch.zeros(2, dtype=torch.long),
        origin=torch.tensor([0, 1]),
        score=tensor(1.0, 3.0),
        pairs=torch.tensor([[1, 0]]),
    )
    stats = TokenStats(logp=tensor([[-1.0], [-2.0]]), ref_logp=tensor([[-1.5], [-1.5]]))
    p, z = sigma(2.0), -2.0  # the reference's answer stands first
    pair = -p * math.log(sigma(z)) - (1 - p) * math.log(sigma(-z))
    value = build("xpo", beta=2.0, alpha=0.25).value(given, stats)
    torch.testing.assert_close(value, tensor(pair + 0.25 * -2.0).squeeze())
    weight = build("xpo", beta=2.0, alpha=0.25).token_weight(given, stats)
    bonus = weight - build("xpo", beta=2.0, alpha=0.0).token_weight(given, stats)
    torch.testing.assert_close(bonus, tensor([[0.0], [-0.25]]))  # the reference's answer is pushed down


def test_nash_md_by_hand() -> None:
    """Scores 1 and 3, T = 2: P = σ(−1); β .5, lr (.2, −.4): A = (P − ½ + .1, P − ½ + .2); a sum over tokens."""
    given = batch(
        [[1, 1], [1, 0]],
        group=torch.zeros(2, dtype=torch.long),
        origin=torch.tensor([0, 1]),
        score=tensor(1.0, 3.0),
        pairs=torch.tensor([[1, 0]]),
    )
    logp = tensor([[-1.0, -2.0], [-0.5, 0.0]])
    stats = TokenStats(logp=logp, old_logp=logp, ref_logp=logp - tensor([[0.2, -0.4], [9.0, 0.0]]))
    excess = sigma(-1.0) - 0.5
    value = build("nash_md", beta_kl=0.5, label_temperature=2.0).value(given, stats)
    torch.testing.assert_close(value, tensor((excess + 0.1) * 1.0 + (excess + 0.2) * 2.0).squeeze())


@pytest.mark.parametrize(("link", "expected"), [("ipo", "square"), ("hinge", "hinge")])
def test_the_other_links_of_online_dpo(link: str, expected: str) -> None:
    """Scores 2 and 0, T = 2: p = σ(1); lr = .5 and −.25, β = .4."""
    rows = {"group": torch.zeros(2, dtype=torch.long), "score": tensor(2.0, 0.0), "pairs": torch.tensor([[0, 1]])}
    given = batch([[1], [1]], **rows)
    stats = TokenStats(logp=tensor([[-1.0], [-2.0]]), ref_logp=tensor([[-1.5], [-1.75]]))
    p, gap = sigma(1.0), 0.75
    square = p * (gap - 1.25) ** 2 + (1 - p) * (gap + 1.25) ** 2  # 1/(2β) = 1.25
    hinge = p * max(0.0, 1 - 0.3) + (1 - p) * max(0.0, 1 + 0.3)  # β·gap = .3
    value = build("online_dpo", beta=0.4, link=link, label_temperature=2.0).value(given, stats)
    torch.testing.assert_close(value, tensor({"square": square, "hinge": hinge}[expected]).squeeze())


def test_v_star_is_over_the_reference_answers_alone() -> None:
    given = two_laws()
    offset = MonteCarloNormalizer(0.5, drawn="ref_logp", stream=1).rows(given, NOTHING, Signal())
    expected = 0.5 * math.log((math.exp(1 / 0.5) + math.exp(3 / 0.5)) / 2)  # scores 1 and 3
    torch.testing.assert_close(offset, torch.full((4,), expected, dtype=F))


def test_steps_without_a_neighbor_still_see_the_first_stream_alone() -> None:
    remax = build("remax", beta_kl=0.0)
    given = two_laws()
    signal = remax.signal(given, TokenStats(logp=torch.zeros(4, 2, dtype=F)))
    assert signal.advantage is not None
    torch.testing.assert_close(signal.advantage[:2, 0], tensor(0.0, -2.0))  # scores 2 and 0 less the mean of 1 and 3


def test_what_cannot_stand_beside_what_is_said_in_one_line() -> None:
    own, other = Stream("rollouts"), Stream("rollouts", sampler="reference")
    remax, terms = build("remax"), build("online_dpo").terms
    for make, text in [
        (lambda: Stream("rollouts", sampler="uniform"), "no sampler 'uniform'"),
        (lambda: Stream("pairs", sampler="greedy"), "no sampler 'greedy'"),
        (lambda: Stream("rollouts", sampler="mixture"), "mixture = None"),
        (lambda: Stream("rollouts", sampler="mixture", mixture=1.5), "between 0 and 1"),
        (lambda: Stream("rollouts", mixture=0.5), "no other sampler has one"),
        (lambda: Stream("rollouts", sampler="greedy", group=2), "one greedy answer"),
        (lambda: Stream("rollouts", keep="mixed"), "groups of 2 or more"),
        (lambda: Recipe("a", (), (other,), terms), "first stream of rollouts is the policy's own"),
        (lambda: Recipe("a", (), (own, Stream("pairs")), terms), "pairs cannot stand beside rollouts"),
        (lambda: Recipe("a", (), (Stream("pairs"), own), terms), "rollouts cannot stand beside pairs"),
        (lambda: Recipe("a", (), (own,), remax.terms, steps=remax.steps), "a part reads stream 1, there are 1"),
    ]:
        with pytest.raises(InputError, match=text) as error:
            make()
        assert len(str(error.value).splitlines()) == 1


def test_the_streams_of_a_recipe_are_told() -> None:
    text = str(build("nash_md", mixture=0.25))
    assert "stream    rollouts\nstream    rollouts, from mixture of reference^0.25" in text
    dropped = Stream("rollouts", group=4, keep="mixed")
    assert str(dropped) == "rollouts, 4 or more per prompt, groups of equal scores dropped"
    assert str(Stream("rollouts", group=8, sampler="reference")) == "rollouts, 8 per prompt, from reference"


def test_what_a_judge_says_is_a_label_not_a_reward() -> None:
    assert [build(name).scenario for name in ("online_dpo", "xpo", "nash_md", "remax")] == ["PRA", "PRA", "PRA", "BDA"]
    nash = build("nash_md")
    both = replace(nash, name="both", steps=(Outcome(), *nash.steps))
    assert both.scenario == "BDA"
