"""Static advice: each statement has a composition that earns it, one that does not, and a check of its claim.

Claims checked elsewhere are named in CHECKED; the others stand below.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import runs
from tests.lab import plain
from tests.lab.at import at, slope
from tests.lab.plain import REF, REWARD, TAU, bandit, gibbs, random_law, tree_world, tv
from tests.places import ROOT
from tokenward.cli import main
from tokenward.errors import InputError
from tokenward.lab.solving.solve import solve
from tokenward.lab.worlds.world import default_world
from tokenward.objective import links
from tokenward.objective.advice import Advice, Facts, advise, errors
from tokenward.objective.advice import given as advice_given
from tokenward.objective.advice import groups as advice_groups
from tokenward.objective.advice import policy as advice_policy
from tokenward.objective.advice.statement import Check
from tokenward.objective.capped import Capped
from tokenward.objective.divergences import kl_terms
from tokenward.objective.links import Clipped, Difference, Identity, Ratio, ScoreFunction
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.advantages import GroupBaseline, GroupScale, ReturnToGo, SequenceReturn, Whiten
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import Advantage, Score
from tokenward.objective.terms import LogRatio, RowTerm, TokenTerm
from tokenward.recipes import RECIPES, build
from tokenward.train import loop
from tokenward.types import Batch, Signal, TokenStats

ROLLOUTS = (Stream("rollouts"),)
UNKNOWN = Facts()
F = torch.float64


def known(recipe: Recipe, facts: Facts = UNKNOWN) -> dict[str, str]:
    """Part: level of all that is said."""
    return {one.part: one.level for one in advise(recipe, facts=facts)}


def k1(*, streams: tuple[Stream, ...] = ROLLOUTS, row: bool = False) -> Recipe:
    """log π/π_ref itself as a loss."""
    if row:
        steps = (Outcome(), SequenceReturn())
        term = RowTerm("k1", score=LogRatio("ref_logp"), link=Difference(), target=Advantage())
        return Recipe("k1", ("williams1992",), streams, (term,), steps=steps)
    term = TokenTerm("k1", score=LogRatio("ref_logp"), link=Identity())
    return Recipe("k1", ("williams1992",), streams, (term,))


def bare(link: links.Link, *, streams: tuple[Stream, ...]) -> Recipe:
    """(β lr − r)², or another link, without a normalizer."""
    term = RowTerm("bare", score=LogRatio("ref_logp", beta=TAU), link=link, target=Score())
    return Recipe("bare", (), streams, (term,))


def clipped(anchor: str | None, *, streams: tuple[Stream, ...] = ROLLOUTS, link: links.Link | None = None) -> Recipe:
    score = LogRatio(anchor)  # type: ignore[arg-type]
    term = TokenTerm("policy", score=score, link=link or Clipped(), target=Advantage())
    return Recipe("clipped", ("schulman2017ppo",), streams, (term,), steps=(Outcome(), SequenceReturn()))


def centered(group: int, *steps: object) -> Recipe:
    """A policy gradient with a group's statistics, on a stream of that many answers."""
    term = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage())
    streams = (Stream("rollouts", group=group),)
    made = (Outcome(), SequenceReturn(), *steps)
    return Recipe("centered", ("williams1992",), streams, (term,), steps=made)  # type: ignore[arg-type]


# (what is said of, at which level, a composition that earns it, one that does not)
HARD, TWO = Facts(labels="hard"), Facts(updates_per_batch=2)
EVEN, KEPT = Facts(lengths="equal"), Facts(sampler_is_anchor=False)
Case = tuple[str, str, tuple[Recipe, Facts], tuple[Recipe, Facts]]
CASES: list[Case] = [
    ("una: SquashedSquare without offset", "warning", (build("una"), UNKNOWN), (build("ra"), UNKNOWN)),
    (
        "bare: Square without offset",
        "warning",
        (bare(links.Square(), streams=(Stream("scores"),)), UNKNOWN),
        (bare(links.Square(), streams=ROLLOUTS), UNKNOWN),
    ),
    (
        "bare: SquashedSquare without offset",
        "warning",
        (bare(links.SquashedSquare(), streams=ROLLOUTS), UNKNOWN),
        (bare(links.Square(), streams=ROLLOUTS), UNKNOWN),
    ),
    ("bco: Logistic without offset", "warning", (build("bco", point="zero"), UNKNOWN), (build("bco"), UNKNOWN)),
    (
        "ra: MeanReward",
        "warning",
        (build("ra", normalizer="mean_reward"), UNKNOWN),
        (build("ra", normalizer="mean_reward", sampler="policy"), UNKNOWN),
    ),
    (
        "ra: MonteCarloNormalizer",
        "note",
        (build("ra", normalizer="monte_carlo"), UNKNOWN),
        (build("ra", normalizer="monte_carlo", sampler="policy"), UNKNOWN),
    ),
    ("dpo: pool mean", "note", (build("dpo_averaged"), UNKNOWN), (build("dpo_averaged"), EVEN)),
    ("simpo: pool mean", "note", (build("simpo"), Facts(lengths="ragged")), (build("dpo"), UNKNOWN)),
    ("dpo: Logistic on hard labels", "note", (build("dpo"), HARD), (build("dpo"), Facts(labels="soft"))),
    ("pra: BernoulliKL on hard labels", "warning", (build("pra", labels="hard"), UNKNOWN), (build("pra"), UNKNOWN)),
    (
        "pra: BernoulliKL on hard labels",
        "warning",
        (build("pra", labels="hard", sampler="policy"), UNKNOWN),
        (build("pra", labels="hard", sampler="policy", link="brier"), UNKNOWN),
    ),
    ("cdpo: Logistic on smoothed labels", "note", (build("cdpo"), HARD), (build("cdpo", smoothing=0.0), UNKNOWN)),
    ("hinge: Hinge", "note", (build("slic"), UNKNOWN), (build("ipo"), UNKNOWN)),
    ("kto: Prospect", "note", (build("kto"), UNKNOWN), (build("bco"), UNKNOWN)),
    (
        "pra: Logistic through the sampler",
        "warning",
        (build("pra", link="logistic", sampler="policy-through"), UNKNOWN),
        (build("pra", link="kl", sampler="policy-through"), UNKNOWN),
    ),
    ("k1: Identity", "error", (k1(), UNKNOWN), (k1(streams=(Stream("scores"),)), UNKNOWN)),
    ("k1: Difference", "error", (k1(row=True), UNKNOWN), (build("bda", sampler="policy-through"), UNKNOWN)),
    ("kl_k2: K2", "warning", (build("rloo", kl="loss_k2"), UNKNOWN), (build("rloo"), UNKNOWN)),
    ("kl_exact: Identity", "warning", (build("ppo", kl="exact"), UNKNOWN), (build("ppo"), UNKNOWN)),
    ("kl_k3: K3", "warning", (build("grpo"), UNKNOWN), (build("grpo", kl="reward"), UNKNOWN)),
    ("kl_k3: K3 on older answers", "warning", (build("grpo"), TWO), (build("grpo"), Facts(updates_per_batch=1))),
    ("kl_k2: K2 on older answers", "warning", (build("rloo", kl="loss_k2"), TWO), (build("rloo"), TWO)),
    ("GroupScale", "note", (build("grpo"), UNKNOWN), (build("grpo", kl="reward"), UNKNOWN)),
    ("Whiten", "note", (build("ppo", kl="loss_k2"), UNKNOWN), (build("reinforce", kl="loss_k2"), UNKNOWN)),
    (
        "policy: sequence_mean",
        "warning",
        (build("reinforce_pp"), UNKNOWN),
        (build("reinforce_pp", aggregation="token_mean"), UNKNOWN),
    ),
    (
        "policy: sequence_mean",
        "warning",
        (build("ppo", aggregation="sequence_mean"), UNKNOWN),
        (build("rloo"), UNKNOWN),
    ),
    (
        "policy: sequence_mean",
        "warning",
        (build("reinforce_pp"), Facts(lengths="ragged")),
        (build("rloo", aggregation="sequence_mean"), UNKNOWN),
    ),
    ("policy: Clipped without its anchor", "error", (clipped("ref_logp"), UNKNOWN), (clipped("old_logp"), UNKNOWN)),
    (
        "policy: Clipped without its anchor",
        "error",
        (clipped("old_logp", streams=(Stream("scores"),)), UNKNOWN),
        (build("ppo"), UNKNOWN),
    ),
    (
        "policy: Capped without its anchor",
        "error",
        (clipped("ref_logp", link=Capped()), UNKNOWN),
        (clipped("old_logp", link=Capped()), UNKNOWN),
    ),
    ("policy: Ratio without its anchor", "error", (clipped(None, link=Ratio()), UNKNOWN), (build("cispo"), UNKNOWN)),
    ("policy: Clipped of another law", "warning", (build("gspo", ratio="token"), KEPT), (build("gspo"), UNKNOWN)),
    ("policy: Clipped of another law", "warning", (build("ppo"), KEPT), (build("rloo"), KEPT)),
    ("GroupBaseline", "error", (centered(1, GroupBaseline()), UNKNOWN), (centered(2, GroupBaseline()), UNKNOWN)),
    (
        "GroupBaseline and GroupScale",
        "error",
        (build("grpo", kl="reward"), Facts(group=1)),
        (build("grpo", kl="reward"), Facts(group=2)),
    ),
    ("bda", "error", (build("bda", direction="forward"), Facts(group=1)), (build("ra"), Facts(group=1))),
    (
        "kl_k2: sequence_mean",
        "note",
        (build("reinforce_pp_baseline"), UNKNOWN),
        (build("reinforce_pp_baseline", aggregation="token_mean"), UNKNOWN),
    ),
    (
        "kl_exact: sequence_mean",
        "note",
        (build("gspo", kl="exact", beta_kl=0.1), Facts(lengths="ragged")),
        (build("gspo", kl="exact", beta_kl=0.1), EVEN),
    ),
    ("kl_k3: sequence_mean", "note", (build("grpo"), UNKNOWN), (build("grpo", kl="reward"), UNKNOWN)),
    ("Whiten of one prompt", "note", (build("ppo"), Facts(prompts=1)), (build("ppo"), Facts(prompts=2))),
    ("Whiten of one prompt", "note", (build("reinforce_pp"), Facts(prompts=1)), (build("reinforce"), Facts(prompts=1))),
    ("Overlong out of reach", "note", (build("dapo"), Facts(longest=16384)), (build("dapo"), Facts(longest=16385))),
    ("Guide with clip", "note", (build("rto", guide_clip=0.1), UNKNOWN), (build("rto"), UNKNOWN)),
    ("GAE with γ ≠ 1", "note", (build("ppo", gamma=0.9), UNKNOWN), (build("ppo", lam=0.9), UNKNOWN)),
]


@pytest.mark.parametrize(("part", "level", "earns", "clean"), CASES)
def test_each_statement_is_made_of_what_it_speaks_of_and_of_nothing_else(
    part: str, level: str, earns: tuple[Recipe, Facts], clean: tuple[Recipe, Facts]
) -> None:
    assert known(*earns).get(part) == level
    assert part not in known(*clean)


@pytest.mark.parametrize(
    "check", [*advice_given.CHECKS, *advice_policy.CHECKS, *advice_groups.CHECKS], ids=lambda check: check.__name__
)
def test_every_statement_there_is_has_a_case(check: Check) -> None:
    said = {
        re.sub(r"[0-9.]+", "#", one.text)[:40] for _, _, (recipe, facts), _ in CASES for one in check(recipe, facts)
    }
    assert len(said) == inspect.getsource(check).count("yield Advice(")


@pytest.mark.parametrize(
    "name",
    ["sft", "dpo", "ipo", "bco", "ra", "rda", "pra", "bda", "rebel", "reinforce", "rloo", "ppo", "rto", "distill"],
)
def test_nothing_is_said_of_recipes_that_do_what_they_promise(name: str) -> None:
    facts = Facts(lengths="ragged", labels="soft", group=4, updates_per_batch=4, sampler_is_anchor=True)
    assert advise(build(name), facts=facts) == ()


@pytest.mark.parametrize("name", RECIPES)
def test_advice_is_one_line_with_a_remedy_and_a_source(name: str) -> None:
    facts = Facts(lengths="ragged", labels="hard", group=4, updates_per_batch=4, sampler_is_anchor=False)
    found = advise(build(name), facts=facts)
    levels = [("error", "warning", "note").index(one.level) for one in found]
    assert levels == sorted(levels) and len(set(found)) == len(found)
    for one in found:
        assert str(one).startswith(f"{one.level}: {one.part}: ") and "\n" not in str(one) and one.source
        assert re.search(r"; (take|learn|leave|give|put|sample) ", one.text), one.text
    assert errors(found) == []


def test_numbers_of_the_run_stand_in_the_text() -> None:
    texts = [one.text for one in advise(build("grpo"), facts=Facts(group=5, updates_per_batch=3))]
    assert any("of 3 updates on a batch" in text for text in texts)
    assert any("with 5 answers |A| ≤ 2" in text for text in texts)
    (one,) = advise(build("ra", normalizer="monte_carlo"), facts=Facts(group=16))
    assert "from k = 16 answers" in one.text


# -------------------------------------------------------------------------------------------- where it is shown


def test_a_run_prints_its_advice_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.config(tmp_path, "grpo", updates=1)
    loop.run(config, "grpo", show="lines")
    printed = capsys.readouterr().out
    assert printed.index("warning: kl_k3: K3: k3 as a loss") < printed.index("update 1/1")
    assert "of 4 updates on a batch" in printed and "with 2 answers |A| ≤ 1" in printed
    text = (tmp_path / "run" / "recipe.txt").read_text(encoding="utf-8")
    assert "warning: kl_k3: K3: k3 as a loss" in text and text.startswith("recipe    grpo\n")


@pytest.mark.parametrize(("target", "told"), [(1.0, True), (0.9, False)])
def test_a_run_on_pairs_tells_whether_its_labels_are_hard(
    target: float, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = runs.config(tmp_path, "dpo", updates=1)
    rows = [{**row, "target": target} for row in runs.rows("pairs")]
    runs.jsonl(tmp_path / "pairs.jsonl", rows)
    loop.run(config, "dpo", show="lines")
    assert ("note: dpo: Logistic on hard labels" in capsys.readouterr().out) == told


def test_lengths_of_a_run_are_those_of_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.config(tmp_path, "simpo", updates=1)
    loop.run(config, "simpo", show="lines")
    assert "note: simpo: pool mean" in capsys.readouterr().out
    rows = [{**row, "chosen": "w7 w3", "rejected": "w8 w3"} for row in runs.rows("pairs")]
    runs.jsonl(tmp_path / "pairs.jsonl", rows)
    loop.run(replace(config, out=str(tmp_path / "even")), "simpo", show="lines")
    assert "pool mean" not in capsys.readouterr().out


def test_a_run_refuses_an_error_before_it_reads_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.objective.test_advice import k1\n\n\ndef mine():\n    return k1()\n", encoding="utf-8"
    )
    config = replace(runs.config(tmp_path, "distill", updates=1), model=str(tmp_path / "absent"), guide=None)
    with pytest.raises(InputError, match=r"^k1: k1: Identity: log π/π_ref as a loss \(k1\) has no expected gradient"):
        loop.run(config, f"{tmp_path / 'mine.py'}:mine", show="nothing")


def test_recipes_shows_advice_in_words_and_as_objects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "una"]) == 0
    assert "\nwarning: una: SquashedSquare without offset: nothing stands for β log Z" in capsys.readouterr().out
    assert main(["recipes", "--json"]) == 0
    found = {one["recipe"]: one["advice"] for one in json.loads(capsys.readouterr().out)}
    assert found["dpo"] == [] and Advice(**found["una"][0]) == advise(build("una"), facts=UNKNOWN)[0]


# ------------------------------------------------------------------------------------------ whether it is true

# claim -> (file, test) where the lab checks it; the other claims are checked below
CHECKED = {
    "mean reward": ("tests/lab/test_theory_udrra.py", "test_5_the_mean_reward_for_the_normalizer_is_another_target"),
    "Monte-Carlo Z": ("tests/objective/test_scenarios.py", "test_a_normalizer_from_k_answers_is_biased_as_derived"),
    "hard labels": (
        "tests/lab/test_theory_udrra.py",
        "test_18_deterministic_labels_end_at_the_best_response_whatever_tau",
    ),
    "through the sampler": (
        "tests/lab/test_theory_udrra.py",
        "test_12_through_the_sampler_the_kl_form_rests_at_the_target_and_the_cross_entropy_does_not",
    ),
    "k1": ("tests/lab/test_corrections.py", "test_e8_k1_as_a_loss_has_no_expected_gradient_on_its_own_samples"),
    "k1 later": (
        "tests/lab/test_corrections.py",
        "test_e8_from_the_second_mini_batch_on_k1_pushes_away_from_the_sampler",
    ),
    "token KL": (
        "tests/lab/test_corrections.py",
        "test_e1_a_kl_in_the_loss_rests_at_the_myopic_policy_and_one_in_the_reward_at_boltzmann",
    ),
    "group std": (
        "tests/lab/test_theory_udrra.py",
        "test_17_grpos_temperature_and_collapse_in_the_limit_of_large_groups",
    ),
    "1/|y|": (
        "tests/lab/test_corrections.py",
        "test_e3_sequence_means_move_the_fixed_point_of_return_to_go_on_ragged_trees",
    ),
    "guide clip": (
        "tests/lab/test_theory_token_level.py",
        "test_b4_a_clip_moves_the_optimum_unless_the_clipped_sum_is_taken_back",
    ),
}


@pytest.mark.parametrize("claim", CHECKED)
def test_a_claim_has_its_check(claim: str) -> None:
    file, name = CHECKED[claim]
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_without_a_normalizer_the_optimum_is_another() -> None:
    world = bandit()
    for name, settings in (("una", {}), ("bco", {"point": "zero"})):
        law = solve(build(name, beta=TAU, **settings), world).law[0]
        assert tv(law, gibbs(REF, REWARD, TAU)) > 0.05, name
    assert tv(solve(build("bco", beta=TAU), world).law[0], gibbs(REF, REWARD, TAU)) < 1e-7
    shared = {
        (type(link).__name__, streams[0].kind): tv(
            solve(bare(link, streams=streams), world).law[0], gibbs(REF, REWARD, TAU)
        )
        for link in (links.Square(), links.SquashedSquare())
        for streams in (ROLLOUTS, (Stream("scores"),))
    }
    assert {key for key, apart in shared.items() if apart < 1e-7} == {("Square", "rollouts")}


def test_averages_put_the_length_into_the_exponent() -> None:
    """β log(π/π_ref)/|y| differs from r by one number for each prompt; without reference β log(π)/|y| does."""
    world = tree_world(vocab=3, horizon=2, eos=2, tau=TAU, seed=5)
    length, ref, reward = world.tree.length.numpy(), world.ref[0].numpy(), world.reward[0].numpy()
    averaged = solve(build("dpo_averaged", beta=TAU), world).law[0].numpy()
    assert np.ptp(TAU * np.log(averaged / ref) / length - reward) < 1e-6
    free = solve(build("simpo", beta=TAU, gamma=0.0), world).law[0].numpy()
    assert np.ptp(TAU * np.log(free) / length - reward) < 1e-6
    assert tv(averaged, gibbs(ref, reward, TAU)) > 0.02


def test_smoothed_labels_bound_margins_and_make_the_pairs_matter() -> None:
    bound = np.log(0.9 / 0.1)
    sharp = bandit(reward=10 * REWARD, pairs=[[0, 1, 1.0], [1, 2, 1.0], [2, 3, 1.0], [3, 4, 1.0]])  # a tree
    law = solve(build("cdpo", beta=TAU, smoothing=0.1), sharp).law[0].numpy()
    assert np.abs(TAU * np.diff(np.log(law / REF))).max() <= bound + 1e-9
    laws = [
        solve(build("cdpo", beta=TAU), world).law[0]
        for world in (bandit(), bandit(pairs="sampler", sampler="reference"), bandit(pairs="sampler", sampler="target"))
    ]
    assert min(tv(laws[0], gibbs(REF, REWARD, TAU)), tv(laws[0], laws[1]), tv(laws[0], laws[2])) > 1e-3


def test_a_hinge_learns_the_sign_only() -> None:
    """The margin of least expected hinge is δ for every p > ½; of the logistic link it is log p/(1−p)."""
    z = torch.linspace(-3, 3, 601, dtype=F)
    for p in (0.55, 0.7, 0.95):
        target = torch.full_like(z, p)
        assert float(z[links.Hinge(margin=1.0)(z, target).argmin()]) == pytest.approx(1.0, abs=1e-6)
        assert float(z[links.Logistic()(z, target).argmin()]) == pytest.approx(np.log(p / (1 - p)), abs=0.01)


def test_kto_takes_all_mass_from_answers_that_are_undesirable_too_often() -> None:
    world = default_world()
    desirable = torch.sigmoid(world.reward)
    for beta in (0.3, 0.7):
        law = solve(build("kto", beta=beta), world).law
        assert law[desirable < 0.5].max() < 1e-6 < 1e-3 < law[desirable > 0.5].min()


def test_k3_rests_at_the_reference_over_a_line_for_single_tokens() -> None:
    """π_ref·β/(λ − A), A = r − mean r under π: λ is found by bisection in plain numpy."""
    beta = 1.5
    law = solve(build("rloo", kl="loss_k3", beta_kl=beta, aggregation="token_sum"), bandit()).law[0].numpy()
    low, high = REWARD.max() + 1e-9, REWARD.max() + 50
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (REF * beta / (middle - REWARD)).sum() > 1 else (low, middle)
    assert tv(law, REF * beta / (low - REWARD)) < 1e-7
    assert tv(law, gibbs(REF, REWARD, beta)) > 0.01


@pytest.mark.parametrize("kl", ["loss_k2", "loss_k3"])
def test_a_kl_on_answers_of_an_older_policy_has_another_gradient(kl: str) -> None:
    """At π = π_old the gradient of k2 is ∇KL(π‖π_ref) and that of k3 ∇KL(π_ref‖π); elsewhere neither is."""
    rng = np.random.default_rng(1)
    law, old = random_law(rng, 5), random_law(rng, 5)
    ratio = np.log(law / REF)
    exact = law * (ratio - law @ ratio) if kl == "loss_k2" else law - REF
    settings = {"kl": kl, "beta_kl": 1.0, "aggregation": "token_sum"}
    world = bandit(reward=np.zeros(5))
    assert np.abs(slope("rloo", world, law, **settings) - exact).max() < 1e-12
    assert np.abs(slope("rloo", world, law, old=old, **settings) - exact).max() > 0.05


def test_a_group_of_g_bounds_its_advantages_by_the_root_of_g_minus_one() -> None:
    for size in (2, 5, 9):
        scores = torch.zeros(size, dtype=F)
        scores[0] = 1.0
        found = centered(size, GroupBaseline("mean"), GroupScale(eps=0.0)).signal(rows_of(scores), TokenStats())
        assert found.advantage is not None
        assert float(found.advantage.max()) == pytest.approx((size - 1) ** 0.5)


def test_whitened_advantages_make_beta_times_std_the_temperature() -> None:
    """At π ∝ π_ref·exp(r/(β s)) with s = std_π(r) the update of a whitened policy gradient with k2 vanishes."""
    beta, s = 1.0, 1.0
    for _ in range(500):
        law = gibbs(REF, REWARD, beta * s)
        s = 0.5 * s + 0.5 * float(np.sqrt(law @ REWARD**2 - (law @ REWARD) ** 2))
    policy = TokenTerm("policy", score=LogRatio(), link=ScoreFunction(), target=Advantage(), aggregation="token_sum")
    terms = (policy, *kl_terms("loss_k2", beta_kl=beta, aggregation="token_sum"))
    recipe = Recipe("whitened", (), ROLLOUTS, terms, steps=(Outcome(), ReturnToGo(), Whiten()))
    assert known(recipe)["Whiten"] == "note"
    problem = at("rloo", bandit(), law)
    problem.recipe = recipe
    assert float(problem.gradient()[0].abs().max()) < 1e-7
    problem.move_to(torch.tensor(np.log(gibbs(REF, REWARD, beta))))
    assert float(problem.gradient()[0].abs().max()) > 1e-2


def test_a_ratio_to_the_whole_law_of_answers_of_a_kept_set_has_another_mean() -> None:
    """E over the kept two of ϱA, ϱ = π/π_old, against E_π A."""
    rng = np.random.default_rng(2)
    old, law = random_law(rng, 5), random_law(rng, 5)
    kept = np.sort(old)[-2] <= old
    drawn = np.where(kept, old, 0) / old[kept].sum()
    assert old @ (law / old * REWARD) == pytest.approx(law @ REWARD)
    assert abs(drawn @ (law / old * REWARD) - law @ REWARD) > 0.05


def test_one_answer_to_a_prompt_teaches_nothing() -> None:
    alone = rows_of(torch.tensor([3.0], dtype=F))
    for steps in ((GroupBaseline("mean"),), (GroupBaseline("mean"), GroupScale())):
        found = centered(1, *steps).signal(alone, TokenStats())
        assert found.advantage is not None and float(found.advantage.abs().max()) == 0
    with pytest.raises(InputError, match="needs two samples or more of each prompt"):
        centered(1, GroupBaseline()).signal(alone, TokenStats())
    weight = build("bda", direction="forward", sampler="reference").terms[0].target.rows(alone, TokenStats(), Signal())  # type: ignore[attr-defined]
    assert float(weight) == 1  # whatever its score


def test_a_discount_moves_the_fixed_point_on_sequences() -> None:
    world = default_world()
    for gamma, near in ((1.0, True), (0.8, False)):
        law = solve(build("ppo", beta_kl=TAU, gamma=gamma), world).law
        apart = max(tv(law[x], plain.gibbs(world.ref[x], world.reward[x], TAU)) for x in range(2))
        assert (apart < 1e-7) if near else (apart > 0.02)


def test_a_kl_divided_by_the_length_rests_elsewhere_often_at_longer_answers() -> None:
    world = default_world()
    length = world.tree.length.double()
    longer = {}
    for beta in (0.3, 1.0):
        found = [
            solve(build("rloo", kl="loss_k2", beta_kl=beta, aggregation=aggregation), world).law
            for aggregation in ("token_sum", "sequence_mean")
        ]
        assert tv(found[0][0], found[1][0]) > 2e-3
        longer[beta] = bool((found[1] @ length > found[0] @ length).all())
    assert longer == {0.3: True, 1.0: False}  # often, not always


def rows_of(scores: torch.Tensor) -> Batch:
    """One group of answers of one token."""
    count = len(scores)
    return Batch(
        tokens=torch.zeros(count, 1, dtype=torch.long),
        length=torch.ones(count, dtype=torch.long),
        mask=torch.ones(count, 1, dtype=torch.bool),
        group=torch.zeros(count, dtype=torch.long),
        weight=torch.ones(count, dtype=F),
        score=scores,
    )
