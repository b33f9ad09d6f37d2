"""The four scenarios, f-DPO, averaged DPO and BCO: rows by hand, their samplers, and their gradients in plain numpy."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from tests import runs
from tests.lab.at import slope
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, random_law, tree_world, tv
from tokenward.errors import InputError
from tokenward.lab.solving.reading import sampled
from tokenward.lab.solving.solve import solve
from tokenward.objective.divergences import DivergenceRatio
from tokenward.objective.groups import BoltzmannWeight, MeanReward, MonteCarloNormalizer
from tokenward.objective.recipe import Recipe, Sampler, Stream
from tokenward.objective.targets import Majority, ScorePreference
from tokenward.recipes import build
from tokenward.train import loop
from tokenward.types import Batch, Signal, TokenStats

F = torch.float64
PI = gibbs(REF, REWARD, TAU)


def rows(groups: list[int], **fields: torch.Tensor) -> Batch:
    """Rows of one prompt token and one response token."""
    count = len(groups)
    base = {
        "tokens": torch.zeros(count, 2, dtype=torch.long),
        "length": torch.full((count,), 2),
        "mask": torch.tensor([[False, True]] * count),
        "group": torch.tensor(groups),
        "weight": torch.ones(count, dtype=F),
    }
    return Batch(**{**base, **fields})


def column(*values: float) -> torch.Tensor:
    return torch.tensor([[0.0, value] for value in values], dtype=F)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------------------------------------- numbers of a group


def test_mean_reward_is_the_weighted_mean_of_the_group() -> None:
    """Weights 3 and 1 on scores 1 and 0: .75; another group of its own."""
    batch = rows([4, 4, 9], score=tensor(1, 0, -2), weight=tensor(3, 1, 1))
    torch.testing.assert_close(MeanReward().rows(batch, TokenStats(), Signal()), tensor(0.75, 0.75, -2))


def test_monte_carlo_normalizer_is_beta_log_of_the_mean_tilt() -> None:
    """β = .5: .5 log((e² + 1)/2); under μ with log π_ref/μ = log 3, log 2: .5 log((3e² + 2)/2)."""
    batch = rows([0, 0], score=tensor(1, 0))
    plain = 0.5 * math.log((math.exp(2) + 1) / 2)
    torch.testing.assert_close(MonteCarloNormalizer(0.5).rows(batch, TokenStats(), Signal()), tensor(plain, plain))
    stats = TokenStats(ref_logp=column(math.log(0.6), math.log(0.4)), old_logp=column(math.log(0.2), math.log(0.2)))
    tilted = 0.5 * math.log((3 * math.exp(2) + 2) / 2)
    found = MonteCarloNormalizer(0.5, drawn="old_logp").rows(batch, stats, Signal())
    torch.testing.assert_close(found, tensor(tilted, tilted))
    drawn = replace(batch, sampler_logp=stats.old_logp)
    again = MonteCarloNormalizer(0.5, drawn="sampler_logp").rows(drawn, replace(stats, old_logp=None), Signal())
    torch.testing.assert_close(again, found)


def test_boltzmann_weights_have_mean_one_in_each_group() -> None:
    """β = .5: 2e²/(e² + 1) and 2/(e² + 1); importance 3 and 2: 6e²/(3e² + 2) and 4/(3e² + 2)."""
    batch, e2 = rows([0, 0, 1], score=tensor(1, 0, 5)), math.exp(2)
    expected = tensor(2 * e2 / (e2 + 1), 2 / (e2 + 1), 1)
    torch.testing.assert_close(BoltzmannWeight(0.5).rows(batch, TokenStats(), Signal()), expected)
    stats = TokenStats(
        ref_logp=column(math.log(0.6), math.log(0.4), -1), old_logp=column(math.log(0.2), math.log(0.2), -1)
    )
    expected = tensor(6 * e2 / (3 * e2 + 2), 4 / (3 * e2 + 2), 1)
    torch.testing.assert_close(BoltzmannWeight(0.5, drawn="old_logp").rows(batch, stats, Signal()), expected)
    torch.testing.assert_close(
        BoltzmannWeight(0.5, drawn="target").rows(batch, TokenStats(), Signal()), torch.ones(3, dtype=F)
    )


def test_rewards_of_a_thousand_temperatures_stay_finite() -> None:
    batch = rows([0, 0], score=tensor(1000, -1000))
    torch.testing.assert_close(BoltzmannWeight(0.5).rows(batch, TokenStats(), Signal()), tensor(2, 0))
    normalizer = MonteCarloNormalizer(0.5).rows(batch, TokenStats(), Signal())
    torch.testing.assert_close(normalizer, (1000 - 0.5 * math.log(2)) * torch.ones(2, dtype=F))
    absent = replace(batch, weight=tensor(0, 1))  # a row of weight 0 counts for nothing, however large its score
    torch.testing.assert_close(MonteCarloNormalizer(0.5).rows(absent, TokenStats(), Signal()), tensor(-1000, -1000))


def test_parts_of_a_group_ask_a_micro_batch_to_keep_it_whole() -> None:
    assert build("ra", normalizer="mean_reward").scope == "group"
    assert build("ra", normalizer="monte_carlo").scope == "group"
    assert build("bda", direction="forward").scope == "group"
    assert build("ra").scope == "row" and build("rda").scope == "pair"


# ------------------------------------------------------------------------------------------------------ labels


def test_labels_of_the_majority_and_of_a_judge() -> None:
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2]])
    batch = rows([0, 0, 0], pairs=pairs, score=tensor(1, 0, 1), pair_target=tensor(0.6, 0.4, 0.5))
    stats, signal = TokenStats(), Signal()
    torch.testing.assert_close(Majority().pairs(batch, stats, signal), tensor(1, 0, 0.5))
    torch.testing.assert_close(Majority().pairs(replace(batch, pair_target=None), stats, signal), tensor(1, 1, 1))
    torch.testing.assert_close(ScorePreference(0.5).pairs(batch, stats, signal), tensor(sigma(2), sigma(-2), 0.5))
    torch.testing.assert_close(ScorePreference(0.0).pairs(batch, stats, signal), tensor(1, 0, 0.5))
    smoothed = ScorePreference(0.0, smoothing=0.1).pairs(batch, stats, signal)
    torch.testing.assert_close(smoothed, tensor(0.9, 0.1, 0.5))


def pair_case() -> tuple[Batch, TokenStats]:
    """Winner of 2 tokens with log-ratio .5 + .3; loser of 1 token with −.4; p = .7."""
    mask = torch.tensor([[False, True, True], [False, True, False]])
    batch = replace(
        rows([0, 0]),
        tokens=torch.zeros(2, 3, dtype=torch.long),
        mask=mask,
        pairs=torch.tensor([[0, 1]]),
        pair_target=tensor(0.7),
        score=tensor(2.0, 0.5),
        label=tensor(1, 0),
    )
    logp = torch.tensor([[0.0, -1, -2], [0, -3, 0]], dtype=F)
    ratio = torch.tensor([[0.0, 0.5, 0.3], [0, -0.4, 0]], dtype=F)
    return batch, TokenStats(logp=logp, ref_logp=logp - ratio, value=torch.full((2, 3), 0.25, dtype=F))


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def cross(p: float, z: float) -> float:
    return -p * math.log(sigma(z)) - (1 - p) * math.log(sigma(-z))


BY_HAND = [
    # β Δ = .5·1.2
    ("pra", {}, cross(0.7, 0.6) - entropy(0.7)),
    ("pra", {"link": "logistic"}, cross(0.7, 0.6)),
    ("pra", {"link": "brier"}, (sigma(0.6) - 0.7) ** 2),
    ("pra", {"labels": "draw", "link": "logistic"}, cross(0.7, 0.6)),
    ("pra", {"labels": "hard"}, cross(1.0, 0.6)),
    # .8·.7 + .2·.3 = .62
    ("pra", {"labels": "smoothed", "smoothing": 0.2}, cross(0.62, 0.6) - entropy(0.62)),
    # a judge of temperature 3: σ(1.5/3)
    ("pra", {"sampler": "policy", "label_temperature": 3.0, "link": "brier"}, (sigma(0.6) - sigma(0.5)) ** 2),
    ("pra", {"sampler": "policy", "labels": "hard", "link": "brier"}, (sigma(0.6) - 1) ** 2),
    # means .4 and −.4
    ("dpo_averaged", {}, cross(0.7, 0.4)),
    ("f_dpo", {"divergence": "reverse_kl"}, cross(0.7, 0.6)),
    # −e^−.8 + e^.4, halved
    ("f_dpo", {"divergence": "forward_kl"}, cross(0.7, 0.5 * (-math.exp(-0.8) + math.exp(0.4)))),
    ("f_dpo", {"divergence": "js"}, cross(0.7, 0.5 * math.log(sigma(0.8) / sigma(-0.4)))),
    # implicit rewards .4 and −.2, plus V = .25
    ("bco", {}, (-math.log(sigma(0.65)) - math.log(sigma(-0.05))) / 2),
    ("bco", {"point": "zero"}, (-math.log(sigma(0.4)) - math.log(sigma(0.2))) / 2),
    # the mean reward is 1.25
    ("ra", {"normalizer": "mean_reward"}, ((0.4 + 1.25 - 2) ** 2 + (-0.2 + 1.25 - 0.5) ** 2) / 2),
    ("rda", {"sampler": "policy"}, (0.6 - 1.5) ** 2),
]


@pytest.mark.parametrize(("name", "settings", "expected"), BY_HAND)
def test_recipes_by_hand(name: str, settings: dict[str, object], expected: float) -> None:
    batch, stats = pair_case()
    torch.testing.assert_close(build(name, beta=0.5, **settings).value(batch, stats), tensor(expected)[0])


def test_f_dpo_is_dpo_for_the_reverse_kl_and_its_exponent_is_cut() -> None:
    batch, stats = pair_case()
    dpo = build("dpo", beta=0.5).token_weight(batch, stats)
    torch.testing.assert_close(build("f_dpo", beta=0.5, divergence="reverse_kl").token_weight(batch, stats), dpo)
    far = replace(rows([0]), mask=torch.tensor([[False, True]]))
    ratio = TokenStats(logp=column(-1e4), ref_logp=column(0))
    torch.testing.assert_close(DivergenceRatio("forward_kl").rows(far, ratio), -tensor(math.exp(20)))


def test_bda_by_hand() -> None:
    """Two answers, β = .5, R = r − β log π_old/π_ref = (1 − .1, 0 + .2): A = ±.7; forward weights as above."""
    batch = rows([0, 0], score=tensor(1, 0))
    stats = TokenStats(logp=column(-1, -2), old_logp=column(-1, -2), ref_logp=column(-1.2, -1.6))
    torch.testing.assert_close(build("bda", beta=0.5).value(batch, stats), tensor(-(0.7 * -1 - 0.7 * -2) / 2)[0])
    one, two = math.exp(2 - 0.2), math.exp(0.4)  # e^{r/β} π_ref/π_old
    forward = -(2 * one / (one + two) * -1 + 2 * two / (one + two) * -2) / 2
    torch.testing.assert_close(build("bda", beta=0.5, direction="forward").value(batch, stats), tensor(forward)[0])
    through = (0.5 * 0.2 - 1 + 0.5 * -0.4 - 0) / 2
    torch.testing.assert_close(build("bda", beta=0.5, sampler="policy-through").value(batch, stats), tensor(through)[0])


# ---------------------------------------------------------------------------------------- samplers and streams


def test_a_stream_knows_which_samplers_it_has() -> None:
    for kind, sampler in (("rollouts", "target"), ("demos", "policy")):
        with pytest.raises(InputError, match=rf"a stream of {kind} has no sampler '{sampler}': give 'data'"):
            Stream(kind, sampler=sampler)  # type: ignore[arg-type]
    assert str(Stream("rollouts", group=2, sampler="policy")) == "rollouts, 2 or more per prompt, from policy"


@pytest.mark.parametrize("sampler", [one for one in get_args(Sampler) if one != "policy"])
@pytest.mark.parametrize(("name", "kind"), [("ra", "scores"), ("rda", "pairs"), ("pra", "pairs")])
def test_every_sampler_but_the_policy_keeps_the_kind_of_data(name: str, kind: str, sampler: Sampler) -> None:
    assert build(name, sampler=sampler).streams == (Stream(kind, sampler=sampler),)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "group"), [("ra", 1), ("rda", 2), ("pra", 2), ("bda", 2)])
def test_with_the_policy_as_sampler_the_stream_is_of_rollouts(name: str, group: int) -> None:
    assert build(name, sampler="policy").streams == (Stream("rollouts", group=group, sampler="policy"),)


def test_the_scenario_does_not_change_with_who_writes_the_answers() -> None:
    for name, scenario in (("bda", "BDA"), ("ra", "RA"), ("rda", "RDA"), ("pra", "PRA")):
        assert build(name).scenario == build(name, sampler="policy").scenario == scenario
    assert build("bda", direction="forward").scenario == build("bda", sampler="policy-through").scenario == "BDA"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "bda",
            {"sampler": "target"},
            r"bda: direction 'reverse' is a mean over the policy's own answers, got sampler",
        ),
        (
            "bda",
            {"direction": "forward", "sampler": "policy-through"},
            r"bda: direction 'forward' weighs given answers",
        ),
        ("pra", {"sampler": "policy", "labels": "draw"}, r"labels must be 'soft' or 'hard' or 'smoothed', got 'draw'"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, **settings)


def test_the_lab_takes_the_sampler_of_the_recipe() -> None:
    world = bandit(pairs=[[0, 1, 1.0]], sampler="uniform")
    assert sampled(build("rda"), world) is world and sampled(build("rda", sampler="policy"), world) is world
    (prompt,) = sampled(build("rda", sampler="target"), world).prompts
    assert (prompt.sampler, prompt.pairs) == ("target", "sampler")
    (prompt,) = sampled(build("ra", sampler="old"), world).prompts
    assert prompt.sampler == "reference" and not isinstance(prompt.pairs, str)


# ------------------------------------------------------------------------------------------- in the lab, exactly


def kl_slopes(law: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∇KL(π‖π^τ) and ∇KL(π^τ‖π) by bandit logits."""
    d = np.log(law / PI)
    return law * (d - law @ d), law - PI


def test_bda_descends_the_two_divergences_exactly() -> None:
    """Reverse: τ ∇KL(π‖π^τ), on samples and through them. Forward: ∇KL(π^τ‖π), whoever writes the answers."""
    rng = np.random.default_rng(0)
    world = bandit(sampler=random_law(rng, 5).tolist())
    for _ in range(3):
        law = random_law(rng, 5)
        reverse, forward = kl_slopes(law)
        assert np.abs(slope("bda", world, law, beta=TAU) - TAU * reverse).max() < 1e-14
        through = bandit(sampler="policy-through")
        found = slope("bda", through, law, beta=TAU, sampler="policy-through")
        assert np.abs(found - TAU * reverse).max() < 1e-14
        for sampler in ("policy", "data"):
            found = slope("bda", world, law, beta=TAU, direction="forward", sampler=sampler)
            assert np.abs(found - forward).max() < 1e-14


SHARED = [
    ("bda", {}),
    ("bda", {"sampler": "policy-through"}),
    *(("bda", {"direction": "forward", "sampler": s}) for s in ("policy", "reference", "uniform", "old", "target")),
    *(
        ("ra", {"normalizer": n, "sampler": s})
        for n in ("learned", "monte_carlo")
        for s in ("data", "policy", "target")
    ),
    ("ra", {"normalizer": "mean_reward", "sampler": "policy"}),  # there any number of the prompt does
    *(("rda", {"sampler": s}) for s in ("policy", "policy-through", "target")),
    *(("pra", {"link": k, "sampler": s}) for k in ("kl", "brier") for s in ("data", "policy", "policy-through")),
    ("pra", {"link": "logistic", "sampler": "policy"}),
    ("pra", {"labels": "draw", "sampler": "target"}),
    ("f_dpo", {"divergence": "reverse_kl"}),
    ("bco", {}),
]
OTHER = [
    ("ra", {"normalizer": "mean_reward"}, 0.126789),  # test 5 of the theory of the scenarios has the same number
    ("pra", {"labels": "smoothed"}, 0.109),
    ("f_dpo", {"divergence": "forward_kl"}, None),
    ("bco", {"point": "zero"}, None),
]


@pytest.mark.parametrize(("name", "settings"), SHARED)
def test_every_scenario_shares_the_target(name: str, settings: dict[str, str]) -> None:
    world = bandit()
    assert tv(solve(build(name, beta=TAU, **settings), world).law[0], PI) < 1e-7


@pytest.mark.parametrize(("name", "settings", "apart"), OTHER)
def test_what_does_not_share_the_target_ends_elsewhere(
    name: str, settings: dict[str, str], apart: float | None
) -> None:
    found = tv(solve(build(name, beta=TAU, **settings), bandit()).law[0], PI)
    assert found > 0.03 if apart is None else found == pytest.approx(apart, abs=1e-3)


def test_on_a_tree_of_sequences_the_scenarios_share_the_target_too() -> None:
    world = tree_world(vocab=3, horizon=2, eos=2, tau=TAU, seed=5)
    for name, settings in (("bda", {"direction": "forward"}), ("ra", {"sampler": "policy"}), ("rda", {}), ("bco", {})):
        law = solve(build(name, beta=TAU, **settings), world).law
        assert tv(law[0], world.target[0]) < 1e-7, name


def test_f_dpo_reaches_what_its_divergence_says() -> None:
    """f′(π/π_ref) = (r − λ)/β up to a constant: differences of β f′(u) are those of r."""
    for divergence, slope_of in (("forward_kl", lambda u: -1 / u), ("js", lambda u: np.log(u / (1 + u)))):
        law = solve(build("f_dpo", beta=TAU, divergence=divergence), bandit()).law[0].numpy()
        gap = TAU * slope_of(law / REF) - REWARD
        assert np.ptp(gap) < 1e-6, divergence


def test_a_normalizer_from_k_answers_is_biased_as_derived() -> None:
    """Mean over all k-tuples of answers of π_ref: β log Z − β Var(e^{r/β})/(2kZ²) + O(k⁻²)."""
    ref, reward, beta = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.0, -0.3]), 0.7
    tilt = np.exp(reward / beta)
    normalizer, variance = ref @ tilt, ref @ tilt**2 - (ref @ tilt) ** 2
    for k, within in ((2, 0.2), (6, 0.08)):
        tuples = list(itertools.product(range(3), repeat=k))
        batch = rows(
            np.repeat(np.arange(len(tuples)), k).tolist(), score=torch.tensor(reward[np.concatenate(tuples)], dtype=F)
        )
        found = MonteCarloNormalizer(beta).rows(batch, TokenStats(), Signal())[::k].numpy()
        mean = np.prod(ref[np.array(tuples)], axis=1) @ found
        predicted = -beta * variance / (2 * k * normalizer**2)
        assert mean - beta * np.log(normalizer) == pytest.approx(predicted, rel=within)


# -------------------------------------------------------------------------------------------------- in a run

TRAINED = [
    ("bda", {"direction": "forward"}),
    ("ra", {"sampler": "policy"}),
    ("ra", {"sampler": "policy", "normalizer": "monte_carlo"}),
    ("rda", {"sampler": "policy"}),
    ("pra", {"sampler": "policy", "labels": "hard", "link": "brier"}),
]


def config_of(folder: Path, name: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> object:
    def made(name: str) -> Recipe:
        return build(name, **settings)

    monkeypatch.setattr(runs, "build", made)  # the files that this form of the recipe needs
    return runs.config(folder, name, updates=2)


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_scenarios_train_on_the_policys_own_answers(
    name: str, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, name, settings, monkeypatch)
    result = loop.run(config, name, keywords=settings, show="nothing")  # type: ignore[arg-type]
    before, after = runs.weights(tmp_path / "base"), runs.weights(result.model)
    assert result.updates == 2 and any(not torch.equal(one, two) for one, two in zip(before, after, strict=False))


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        (
            "rda",
            {"sampler": "target"},
            "rda: sampler = target is for the lab: a run learns from the answers of its file",
        ),
        ("bda", {"sampler": "policy-through"}, "bda: sampler = policy-through is for the lab"),
        ("ra", {"normalizer": "given", "sampler": "policy"}, "ra: RowTerm needs normalizer: give β log Z"),
        ("ra", {"normalizer": "mean_reward"}, "ra: ra reads all answers to a prompt at once, and the rows of a file"),
    ],
)
def test_a_run_refuses_what_only_the_lab_has(
    name: str, settings: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, name, settings, monkeypatch)
    with pytest.raises(InputError, match=line):
        loop.run(config, name, keywords=settings, show="nothing")  # type: ignore[arg-type]
