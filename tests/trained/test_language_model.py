"""From lab to language model: estimators against enumeration, pairs by hand, and the whole command at a tiny scale."""

from __future__ import annotations

import copy
import json
import math
from itertools import product

import numpy as np
import pytest
import torch

from tokenward.data import world_rows
from tokenward.diagnose.measures import association
from tokenward.diagnose.measures.intervals import estimate
from tokenward.diagnose.measures.value import TextValues, difference, text_values
from tokenward.errors import InputError
from tokenward.models.load import scorer
from tokenward.runlog import read
from tokenward.stages import Stages, build_world
from tokenward.studies import study as studies
from tokenward.trained.directory import MARK, begin, conduct, text
from tokenward.trained.language_model import data as data_of_study
from tokenward.trained.language_model import measure as measure_of_study
from tokenward.trained.language_model import story as story
from tokenward.trained.language_model import words as words_of_study
from tokenward.trained.language_model.plan import Plan
from tokenward.types import Rollout

END, VOCAB, LONGEST, PROMPT = 0, 4, 3, (1, 2)


# --- J_τ on a tree of texts that is enumerated ---------------------------------------------------------------------


def small_policy(seed):
    """A two-layer Llama in float64 over four tokens, with logits that are far from uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return scorer(LlamaForCausalLM(config).double())


def texts():
    """Every text of at most LONGEST tokens: it stops at the end token, or is cut."""
    found = {y[: y.index(END) + 1] if END in y else y for y in product(range(VOCAB), repeat=LONGEST)}
    return sorted(found)


def log_prob(policy, text):
    """log π(text), token by token from the model's own logits."""
    total = 0.0
    for t, token in enumerate(text):
        with torch.no_grad():
            logits = policy.causal_lm(input_ids=torch.tensor([[*PROMPT, *text[:t]]])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
    return total


def reward(text):
    return 1.3 * text.count(1) - 0.7 * len(text) + 0.4 * (text[-1] == 2)


def rollout(text, number=0):
    n = len(text)
    return Rollout(
        number, PROMPT, text, (True,) * n, (0.0,) * n, "stop" if text[-1] == END else "length", score=reward(text)
    )


@pytest.fixture(scope="module")
def tree():
    """(texts, their numbers by two policies, exact log-probabilities of both and of the reference)."""
    every, reference = texts(), small_policy(1)
    policies = [small_policy(2), small_policy(3)]
    logp = [np.array([log_prob(one, y) for y in every]) for one in (*policies, reference)]
    found = [
        text_values([rollout(y) for y in every], policy=p, reference=reference, tau=0.6, pad_id=3) for p in policies
    ]
    return every, found, logp


def test_the_mean_over_every_text_is_the_exact_regularized_value(tree):
    every, found, (*logp, ref) = tree
    r = np.array([reward(y) for y in every])
    for values, lp in zip(found, logp, strict=True):
        mass = np.exp(lp)
        assert mass.sum() == pytest.approx(1.0, abs=1e-9)  # the enumeration is complete
        kl = float((mass * (lp - ref)).sum())
        assert float((mass * values.kl.numpy()).sum()) == pytest.approx(kl, abs=1e-6)  # logits are float32 in the head
        assert float((mass * values.ratio.numpy()).sum()) == pytest.approx(kl, abs=1e-6)
        assert float((mass * values.value.numpy()).sum()) == pytest.approx(float((mass * r).sum()) - 0.6 * kl, abs=1e-6)
        assert kl > 0.1  # otherwise this test could not fail


def test_summing_state_kls_takes_the_noise_of_the_draws_away(tree):
    _, found, (*logp, _) = tree
    for values, lp in zip(found, logp, strict=True):
        mass = np.exp(lp)
        spread = [
            float((mass * x.numpy() ** 2).sum() - (mass * x.numpy()).sum() ** 2) for x in (values.kl, values.ratio)
        ]
        assert spread[0] < spread[1]


def test_a_difference_of_values_is_tau_times_a_difference_of_distances_to_the_optimum(tree):
    every, found, (*logp, ref) = tree
    weight = np.exp(ref) * np.exp(np.array([reward(y) for y in every]) / 0.6)
    log_target = np.log(weight / weight.sum())
    value = [float((np.exp(lp) * v.value.numpy()).sum()) for lp, v in zip(logp, found, strict=True)]
    apart = [float((np.exp(lp) * (lp - log_target)).sum()) for lp in logp]
    assert value[0] - value[1] == pytest.approx(0.6 * (apart[1] - apart[0]), abs=1e-6)


def test_texts_without_a_reward_have_no_value():
    bare = Rollout(0, PROMPT, (END,), (True,), (0.0,), "stop")
    policy = small_policy(2)
    with pytest.raises(InputError, match="J needs a reward of every text; 0 of 1"):
        text_values([bare], policy=policy, reference=small_policy(1), tau=1.0, pad_id=3)


def numbers(tau, rows):
    """Values of texts given as (prompt, value)."""
    nothing = torch.zeros(len(rows), dtype=torch.float64)
    r = torch.tensor([value for _, value in rows], dtype=torch.float64)
    return TextValues(tau, tuple(prompt for prompt, _ in rows), r, nothing, nothing)


def test_differences_are_paired_by_prompt_and_want_the_same_prompts():
    one, two = numbers(1.0, [(0, 1.0), (0, 3.0), (1, 5.0)]), numbers(1.0, [(1, 2.0), (0, 0.0)])
    assert difference(one, two) == estimate([2.0, 3.0])
    for other in (numbers(1.0, [(0, 1.0)]), numbers(0.5, [(0, 1.0), (1, 1.0)])):
        with pytest.raises(InputError, match="needs the same τ and the same prompts"):
            difference(one, other)


# --- association within prompts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud():
    """Three columns of 60 prompts × 7 texts with shifts of each prompt, and the prompts."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 7)
    x = rng.normal(size=owner.size)
    y = 0.5 * x + rng.normal(size=owner.size)
    z = 2.0 * x - 0.7 * y + 0.3 * rng.normal(size=owner.size)
    shift = rng.normal(size=(3, 60), scale=20.0)
    return [column + shift[i][owner] for i, column in enumerate((x, y, z))], owner


def test_slopes_and_correlations_are_those_of_a_fit_with_a_constant_for_each_prompt(cloud):
    (x, y, z), owner = cloud
    parts = association.scatter([x.tolist(), y.tolist(), z.tolist()], clusters=owner.tolist())
    constants = (owner[:, None] == np.arange(60)).astype(float)
    fit = np.linalg.lstsq(np.column_stack([x, y, constants]), z, rcond=None)[0]
    for place in (0, 1):
        got = association.interval(parts, association.slope(2, on=(0, 1), which=place), draws=10).value
        assert got == pytest.approx(fit[place], abs=1e-9)
    rest = [c - np.array([c[owner == p].mean() for p in range(60)])[owner] for c in (x, z)]
    got = association.interval(parts, association.correlation(0, 2), draws=10).value
    assert got == pytest.approx(np.corrcoef(rest)[0, 1], abs=1e-9)
    size = association.interval(parts, association.spread(0, texts=owner.size), draws=10).value
    assert size == pytest.approx(math.sqrt((rest[0] ** 2).mean()), abs=1e-9)


def test_the_bootstrap_interval_is_as_wide_as_theory_says(cloud):
    (x, y, z), owner = cloud
    parts = association.scatter([x.tolist(), y.tolist(), z.tolist()], clusters=owner.tolist())
    found = association.interval(parts, association.slope(2, on=(0, 1), which=0), draws=2000)
    assert found.low < 2.0 < found.high  # the truth, for this seed
    freedom = owner.size - 60 - 2
    constants = (owner[:, None] == np.arange(60)).astype(float)
    design = np.column_stack([x, y, constants])
    residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    se = math.sqrt(residual @ residual / freedom * np.linalg.inv(design.T @ design)[0, 0])
    assert (found.high - found.low) / (2 * 1.96 * se) == pytest.approx(1.0, abs=0.2)


def test_an_interval_needs_two_prompts():
    with pytest.raises(InputError, match="two of them at least, got 1"):
        association.scatter([[1.0, 2.0]], clusters=["a", "a"])


def test_draws_that_tell_nothing_are_left_out_of_an_interval():
    """A draw without cluster b has a column that stands still, and no correlation."""
    parts = association.scatter([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 2.0]], clusters=["a", "a", "b", "b"])
    found = association.interval(parts, association.correlation(0, 1), draws=50)
    assert found.low <= found.value <= found.high


# --- pairs ---------------------------------------------------------------------------------------------------------


def law(name, rewards, *, prompts=1):
    """Texts named after their law, with the given rewards for every prompt."""
    words = tuple(f"{name} {i}" for i in range(len(rewards)))
    return data_of_study.Texts(tuple(f"p{n}" for n in range(prompts)), (words,) * prompts, (tuple(rewards),) * prompts)


def test_labels_are_bradley_terry_draws_and_scores_stay_with_their_texts():
    rows = data_of_study.preferred(law("y", [1.5, 0.5], prompts=4000), seed=3)
    won = np.mean([row["chosen"] == "y 0" for row in rows])
    expected = 1 / (1 + math.exp(-1.0))
    assert abs(won - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert all(row["score_chosen"] == (1.5 if row["chosen"] == "y 0" else 0.5) for row in rows)
    assert all({row["chosen"], row["rejected"]} == {"y 0", "y 1"} for row in rows)
    soft = data_of_study.softened(rows)
    assert {round(row["target"], 6) for row in soft} == {round(expected, 6), round(1 - expected, 6)}


def test_pairs_of_two_laws_are_chosen_by_who_wrote_them():
    rows = data_of_study.from_two(law("bad", [-9.0, -9.0]), law("good", [9.0, 9.0, 9.0]))
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("bad 0", "good 0"), ("bad 1", "good 1")]
    assert data_of_study.from_two(law("y", [1.0]), law("y", [1.0])) == []  # a text against itself says nothing
    with pytest.raises(InputError, match="the same prompts in the same order"):
        data_of_study.from_two(law("a", [1.0]), law("b", [1.0], prompts=2))


def test_halves_are_the_texts_of_even_and_odd_places():
    one, two = data_of_study.halves(law("y", [0.0, 1.0, 2.0]))
    assert one.texts == (("y 0", "y 2"),) and two.texts == (("y 1",),) and two.rewards == ((1.0,),)


def test_ipos_scale_is_the_least_squares_slope_of_winning_on_reward():
    rewards = np.array([0.0, 0.4, 3.0])
    rows = [{"score_chosen": a, "score_rejected": b} for a in rewards for b in rewards]  # μ⊗μ, μ uniform
    wins = (1 / (1 + np.exp(rewards[None] - rewards[:, None]))).mean(1)
    assert data_of_study.ipo_scale(rows) == pytest.approx(np.polyfit(rewards, wins, 1)[0], abs=1e-12)


# --- stages --------------------------------------------------------------------------------------------------------


def test_work_that_is_done_is_not_done_again(tmp_path):
    calls = []
    for _ in range(2):
        stages = Stages(tmp_path, 0, 1.0)
        assert stages.once("x", lambda: calls.append(1) or {"y": [1.0, 2.0]}) == {"y": [1.0, 2.0]}
        assert stages.seconds["x"] >= 0
    assert calls == [1]


def test_numbers_that_json_lacks_come_back_as_numbers(tmp_path):
    stages = Stages(tmp_path, 0, 1.0)
    for _ in range(2):
        found = stages.once("x", lambda: {"se": math.nan, "ends": [-math.inf, 1.0], "deep": [{"high": math.inf}]})
        assert math.isnan(found["se"]) and found["ends"] == [-math.inf, 1.0] and found["deep"] == [{"high": math.inf}]


def test_a_run_that_was_killed_goes_on_and_a_finished_one_is_left(tmp_path, monkeypatch, capsys):
    from tokenward.train import loop

    settings = {"updates": 2, "rows_per_update": 2, "learning_rate": 1e-3}
    weights = []
    for name in ("killed", "straight"):
        stages = Stages(tmp_path / name, 0, 1.0)
        stages.file("").mkdir(parents=True)
        build_world(stages, train_prompts=4, held_prompts=2)
        rows = world_rows.sft_rows(stages.rows("prompts.jsonl"), count=4, seed=0)
        given = {**settings, "model": str(stages.out / "base"), "data": str(stages.write("reviews.jsonl", rows))}
        if name == "killed":
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(loop, "pause", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                stages.train("sft", "sft", given)
            assert len(read(stages.out / "sft" / "events.jsonl")) >= 1
        stages.train("sft", "sft", given)
        assert stages.seconds["sft"] > 0
        weights.append((stages.out / "sft" / "model" / "model.safetensors").read_bytes())
        capsys.readouterr()
        stages.train("sft", "sft", given)
        assert capsys.readouterr().out == "sft: done before\n"
        again = Stages(tmp_path / name, 0, 1.0)
        again.train("sft", "sft", given)
        assert 0 < again.before <= again.seconds["sft"]  # an earlier call spent them
    assert weights[0] == weights[1]


def test_the_seconds_of_a_study_are_those_of_all_its_calls(tmp_path, monkeypatch):
    """Ten seconds of a stage inside another, then a stop; the next call takes five, the third none."""
    clock, stops, found = [0.0], [True], words_of_study.told(results())

    def spend(seconds):
        clock[0] += seconds
        return {}

    def outer(stages):
        stages.once("inner", lambda: spend(10.0))
        if stops.pop():
            raise KeyboardInterrupt
        return spend(5.0)

    def work(stages):
        return stages.once("outer", lambda: outer(stages)) | stages.once("outer", dict)

    def call():
        conduct("x", work, lambda _: found, plan=Plan(), seed=0, out=str(tmp_path / "x"), scale=1.0)
        return json.loads((tmp_path / "x" / "results.json").read_text(encoding="utf-8"))

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with pytest.raises(KeyboardInterrupt):
        call()
    stops.append(False)
    assert call()["seconds"] == 15.0
    assert (call()["seconds"], call()["stages"]) == (15.0, {"outer": 15.0})


def test_a_directory_of_other_settings_or_of_somebody_else_is_refused(tmp_path):
    out = begin(tmp_path / "a", name="mine", seed=0, scale=1.0, plan=Plan())
    assert begin(out, name="mine", seed=0, scale=1.0, plan=Plan()) == out
    with pytest.raises(InputError, match=r"begun with other settings \(mine, seed 0, scale 1\)"):
        begin(out, name="mine", seed=1, scale=1.0, plan=Plan())
    with pytest.raises(InputError, match="begun with other settings"):
        begin(out, name="mine", seed=0, scale=1.0, plan=Plan(tau=0.4))
    with pytest.raises(InputError, match="begun with other settings"):
        begin(out, name="other", seed=0, scale=1.0, plan=Plan())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="did not make: give another --out"):
        begin(tmp_path / "b", name="mine", seed=0, scale=1.0, plan=Plan())


def test_a_directory_that_was_being_begun_when_the_command_was_killed_is_begun_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tokenward.trained.directory.write_json", killed)
        begin(tmp_path / "a", name="mine", seed=0, scale=1.0, plan=Plan())
    (tmp_path / "a" / f".{MARK}.7.tmp").write_text("{")  # the mark's draft
    for _ in range(2):
        out = begin(tmp_path / "a", name="mine", seed=0, scale=1.0, plan=Plan())
        assert (out / "runs" / "data").is_dir() and (out / MARK).is_file()
        (out / "runs" / "data").rmdir()


@pytest.mark.parametrize("mark", ["", "[]", "{}", '{"study": "x", "seed": 0, "scale": "one"}'])
def test_a_mark_that_no_study_wrote_is_one_line(tmp_path, mark):
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(InputError, match="was written by no study: give another --out"):
        begin(tmp_path, name="mine", seed=0, scale=1.0, plan=Plan())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_training_refuses_is_refused_before_anything_is_written(tmp_path, seed):
    with pytest.raises(InputError, match="seed must be ≥ 0"):
        begin(tmp_path / "a", name="mine", seed=seed, scale=1.0, plan=Plan())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("scale", [0.0, 11.0, math.nan])
def test_a_scale_out_of_range_is_refused(tmp_path, scale):
    with pytest.raises(InputError, match="scale multiplies the updates"):
        story.study(out=str(tmp_path / "x"), scale=scale)
    assert not (tmp_path / "x").exists()


def test_plans_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="on the two sides of 1"):
        Plan(cooler=1.2)
    with pytest.raises(InputError, match="must be even"):
        Plan(pair_samples=3)


# --- words ---------------------------------------------------------------------------------------------------------


def results():
    """Numbers for which every claim holds."""

    def near(value, reach=0.1):
        return {"value": value, "low": value - reach, "high": value + reach}

    def policy(value, *, dpo):
        return {
            "value": near(value), "reward": near(value + 0.5), "kl": near(1.0), "ratio": near(1.0),
            "kl_gap": near(0.01), "minus_sft": near(value + 1.0), "minus_dpo": near(value - dpo, 0.04),
        }  # fmt: skip

    values = {
        name: policy(value, dpo=0.0)
        for name, value in {"sft": -1.0, "dpo": 0.0, "ipo": -0.3, "rda": 0.05, "pra": 0.05, "ppo": 0.5,
                            "dpo-cooler": 0.2, "dpo-hotter": -5.0, "dpo-one-law": -1.0}.items()
    }  # fmt: skip

    def learned(law, r, m):
        keys = {
            "correlation_reward": r, "correlation_law": m, "slope_reward": r, "slope_law": m, "rms": 1.0,
            "reward_and_law": -0.5,
        }  # fmt: skip
        return {
            "law": law,
            **{key: near(value, 0.02) for key, value in keys.items()},
            "lead": near(abs(r) - abs(m), 0.05),
        }

    return {
        "values": values,
        "learned": {
            "dpo": learned("hotter", 0.9, -0.4), "dpo-cooler": learned("cooler", 0.5, 0.9),
            "dpo-hotter": learned("hotter", -0.5, 0.9), "dpo-one-law": learned("hotter", 0.0, 0.1),
        },
        "counts": {"texts": 8, "prompts": 4, "fresh": 8},
        "pairs": {"counts": {"pairs": 10}, "rewards": {"sft": -1.0, "cooler": 0.0, "hotter": -3.0}, "ipo_scale": 0.11},
        "settings": {"seed": 0, "scale": 1.0, "tau": 0.5, "cooler": 0.7, "hotter": 1.4, "texts": 2, "pair_prompts": 3},
        "seconds": 9.0,
    }  # fmt: skip


def test_the_study_says_what_the_numbers_say(tmp_path):
    found = words_of_study.told(results())
    assert not found.failed and len(found.claims) == 10
    studies.write(found, tmp_path / "data.jsonl")
    assert studies.read(tmp_path / "data.jsonl").claims == found.claims
    words = text(found)
    assert "E[r]" in words and "IPO" in words and "0.0550" in words and "DOES NOT HOLD" not in words  # IPO's β = 0.11 τ


@pytest.mark.parametrize(
    ("table", "name", "key", "value", "says"),
    [
        ("values", "ipo", "minus_sft", -0.01, "raises J_τ over SFT"),
        ("values", "ppo", "minus_dpo", 0.03, "PPO"),
        ("values", "pra", "minus_dpo", -0.08, "share their optimum"),
        ("values", "ipo", "minus_dpo", 0.08, "its optimum is not π^τ"),
        ("values", "pra", "kl_gap", 0.5, "estimates of KL"),
        ("learned", "dpo", "lead", 0.01, "labels drawn on the reward"),
        ("learned", "dpo-cooler", "lead", -0.01, "temperature 0.7"),
        ("learned", "dpo-hotter", "lead", -0.01, "temperature 1.4"),
        ("values", "dpo-hotter", "reward", -0.55, "loses true reward"),
        ("learned", "dpo-one-law", "slope_reward", -0.09, "one law"),
    ],
)
def test_each_claim_fails_when_its_number_does(table, name, key, value, says):
    given = copy.deepcopy(results())
    entry = given[table][name][key]
    reach = entry["high"] - entry["value"]
    given[table][name][key] = {"value": value, "low": value - reach, "high": value + reach}
    (failed,) = words_of_study.told(given).failed
    assert says in failed.text


# --- the whole command ---------------------------------------------------------------------------------------------

TINY = Plan(
    train_prompts=60, held_prompts=16, pair_prompts=60, pair_samples=8, texts=4,
    offline={"updates": 2, "rows_per_update": 8, "learning_rate": 2e-4, "schedule": "linear"},
    online={"updates": 2, "rollout_rows": 16, "mini_rows": 8, "epochs": 1, "learning_rate": 3e-4, "critic": "own"},
)  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_command_goes_on_and_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path, monkeypatch):
    train = Stages.train
    trained = []

    def stop_at_rda(self, name, *arguments, **keywords):
        if name == "rda" and not trained:
            trained.append("stopped")
            raise KeyboardInterrupt
        train(self, name, *arguments, **keywords)

    monkeypatch.setattr(Stages, "train", stop_at_rda)
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        story.study(out=str(out), scale=0.2, plan=TINY)
    weights = out / "runs" / "dpo" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    words = story.study(out=str(out), scale=0.2, plan=TINY)
    assert weights.stat().st_mtime_ns == before
    story.study(out=str(tmp_path / "b"), scale=0.2, plan=TINY)
    found = [json.loads((folder / "results.json").read_text()) for folder in (out, tmp_path / "b")]
    assert all(found[0][key] == found[1][key] for key in ("values", "learned", "counts", "pairs"))
    check(found[0], studies.read(out / "data.jsonl"), words)


def check(found, study, words):
    """Shapes and bounds that hold for any policies."""
    values = found["values"]
    assert set(values) >= set(words_of_study.METHODS) and len(study.claims) == 10 and len(study.tables) == 2
    assert values["sft"]["kl"]["value"] == 0 and values["dpo"]["minus_dpo"]["value"] == 0
    assert all(row["kl"]["value"] > 0 for name, row in values.items() if name != "sft")
    for row in values.values():
        j, r, kl = (row[key]["value"] for key in ("value", "reward", "kl"))
        assert j == pytest.approx(r - TINY.tau * kl) and row["value"]["low"] < j < row["value"]["high"]
    for row in found["learned"].values():
        assert all(-1 <= row[f"correlation_{key}"]["value"] <= 1 for key in ("reward", "law"))
    assert found["pairs"]["rewards"]["hotter"] < found["pairs"]["rewards"]["cooler"]
    assert 0 < found["pairs"]["ipo_scale"] < 0.25
    assert measure_of_study.NORMAL == 1.96 and "results.json" in words
