"""Health of on-policy runs: each check on logs made for it, warnings once, the fit, metrics by other formulas."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import health as logs
from tests import runs, tiny
from tests.places import ROOT
from tests.runs import facts
from tests.train.test_resume import Killed, killed_after, same
from tokenward.cli.health import health as command
from tokenward.diagnose.health.overoptimization import fit
from tokenward.diagnose.health.run import health, of_events, write
from tokenward.errors import InputError, RunError
from tokenward.folders import holds_model, replaced
from tokenward.models.roles import Roles
from tokenward.objective.health.checks import BY_NAME, CHECKS
from tokenward.objective.health.history import History
from tokenward.objective.health.metrics import LONG, fingerprints, health_metrics, quarters, ratio_tail, repeated
from tokenward.objective.health.watch import Watch
from tokenward.report.health_section import overoptimization
from tokenward.report.page import write_page
from tokenward.runlog import RunLog, read
from tokenward.train import loop
from tokenward.train.best import stored
from tokenward.train.heldout import HeldOut
from tokenward.train.runtime import rng_state, set_rng_state
from tokenward.types import TokenStats

DOC = ROOT / "docs" / "health.md"


def levels(events: list[dict[str, object]]) -> dict[str, str]:
    return {found.check.name: found.level for found in of_events("run", events).findings}


# ----------------------------------------------------------------------------------------------------------- the checks


def test_a_run_that_is_well_is_ok_everywhere() -> None:
    found = levels(logs.updates(**logs.WELL) + logs.evals([0, 1, 2, 3, 4], proxies=[0, 1, 2, 3, 4]))
    unknown = {name for name, level in found.items() if level == "unknown"}
    assert unknown == {"gain-by-length"}  # the score gained less than half its spread
    assert {level for name, level in found.items() if name not in unknown} == {"ok"}


@pytest.mark.parametrize("name", sorted(logs.ILL))
def test_each_check_is_bad_on_its_own_illness_and_only_there(name: str) -> None:
    found = levels(logs.ill(name))
    bad = {check for check, level in found.items() if level == "bad"}
    assert bad == {name}
    text = next(one.text for one in of_events("run", logs.ill(name)).findings if one.check.name == name)
    assert BY_NAME[name].means in text and BY_NAME[name].do in text


def test_every_check_has_an_illness() -> None:
    assert {check.name for check in CHECKS} == {*logs.ILL, "over-optimization"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_thresholds_are_in_order_and_in_the_manual(check) -> None:
    sign = 1 if check.side == "above" else -1
    assert sign * check.watch < sign * check.bad
    eps = 1e-9 * sign
    assert [check.level(check.watch - eps), check.level(check.watch + eps), check.level(check.bad + eps)] == [
        "ok", "watch", "bad",
    ]  # fmt: skip
    row = f"| `{check.name}` |"
    line = next((line for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith(row)), "")
    assert f"{check.watch:g}" in line and f"{check.bad:g}" in line and check.source.split(":")[0] in line
    assert check.means in line and check.do in line and all(f"`{name}`" in line for name in check.reads)


def test_few_values_say_nothing() -> None:
    assert set(levels(logs.ill("cut")[:9]).values()) == {"unknown"}
    assert levels(logs.ill("critic")[:19])["critic"] == "unknown"


def test_words_for_numbers_that_json_lacks_are_left_out() -> None:
    events = [{**event, "entropy": "NaN", "kl": float("inf")} for event in logs.updates(**logs.WELL)]
    assert {levels(events)[name] for name in ("entropy-falls", "kl", "negative-kl")} == {"unknown"}


# ---------------------------------------------------------------------------------------------------- over-optimization


@pytest.mark.parametrize(
    ("rewards", "proxies", "level"),
    [
        ([0, 1, 2, 1.0, 0.5], [0, 1, 2, 3, 4], "bad"),
        ([0, 1, 2, 1.6, 1.5], [0, 1, 2, 3, 4], "watch"),
        ([0, 1, 2, 1.9, 1.0], [0, 1, 2, 3, 4], "ok"),  # one low value is not a fall
        ([0, 1, 2, 1.0, 0.5], [0, 1, 2, 1, 0.5], "ok"),  # both fell: not the reward's fault
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], "ok"),
        ([0, 1, 0], [0, 1, 2], "unknown"),
        ([0, 1, 2, 1.0, 0.5], None, "unknown"),
    ],
)
def test_the_held_out_reward_falls_while_the_proxy_does_not(rewards, proxies, level) -> None:
    assert levels(logs.evals(rewards, proxies=proxies))["over-optimization"] == level


@pytest.mark.parametrize("form", ["rl", "best-of-n"])
def test_the_fit_finds_what_made_the_points(form) -> None:
    alpha, beta = 2.0, 0.8
    slowed = np.log if form == "rl" else lambda d: d
    d = np.linspace(0.3, 4, 40)
    noisy = d * (alpha - beta * slowed(d)) + 0.05 * np.random.default_rng(0).standard_normal(40)
    found = fit(d.tolist(), noisy.tolist(), form=form)
    assert found is not None and found.points == 40
    x = np.stack([d, -d * slowed(d)], 1)
    expected = np.linalg.lstsq(x, noisy, rcond=None)[0]
    assert np.allclose([found.alpha.value, found.beta.value], expected, atol=1e-9)
    assert found.alpha.low < alpha < found.alpha.high and found.beta.low < beta < found.beta.high
    assert found.alpha.high - found.alpha.low < 0.2
    grid = np.linspace(0.01, 20, 200_001)
    top = grid[np.argmax(grid * (expected[0] - expected[1] * slowed(grid)))]
    assert found.peak is not None and abs(found.peak.value - top) < 1e-3
    assert math.isclose(found.at(1.7), 1.7 * (expected[0] - expected[1] * slowed(1.7)), rel_tol=1e-9)


def test_a_curve_that_only_rises_has_no_maximum_and_few_points_no_fit() -> None:
    d = [0.5, 1.0, 1.5, 2.0, 2.5]
    rising = fit(d, [x * (1 + 0.5 * math.log(x)) for x in d])
    assert rising is not None and rising.peak is None and "no maximum" in str(rising)
    assert fit(d[:3], d[:3]) is None and fit([0.0, 0.0, 1.0, 1.0, 1.0], [1.0] * 5) is None


@pytest.mark.parametrize(
    ("form", "gain"),
    [
        ("best-of-n", lambda d: d * (-1.0 - 0.5 * d)),  # largest at √KL = −1
        ("best-of-n", lambda d: d * (2.0 - 0.05 * d)),  # at 20: far outside
        ("rl", lambda d: d * (1.0 - 1e-4 * math.log(d))),  # at e^9999
        ("rl", lambda d: d * (1.0 - 0.3 * math.log(d))),  # at 10.3
        ("rl", lambda d: d * (0.1 - math.log(d))),  # at 0.41, nearer than every point
    ],
)
def test_a_maximum_that_no_point_is_near_is_not_told(form, gain) -> None:
    d = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    found = fit(d, [gain(x) for x in d], form=form)
    assert found is not None and found.beta.low > 0 and found.peak is None


def test_a_maximum_is_told_from_the_smallest_distance_to_twice_the_largest() -> None:
    d = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    tops = (0.49, 0.51, 5.9, 6.1)
    peaks = [found.peak for top in tops if (found := fit(d, [x * (2 * top - x) for x in d], form="best-of-n"))]
    assert [peak is None for peak in peaks] == [True, False, False, True]
    assert [round(peak.value, 9) for peak in peaks if peak is not None] == [0.51, 5.9]
    with_infinite = fit([*d, math.inf], [*[x * (4 - x) for x in d], 0.0], form="best-of-n")
    assert with_infinite is not None and with_infinite.points == 6


def test_numbers_of_one_evaluation_stay_together_where_another_lacks_one() -> None:
    rewards, proxies = [0, 1, 2, 3, 1.0, 0.5], [0, 1, 2, 3, 4, 5]
    whole = logs.evals(rewards, proxies=proxies)
    holed = [dict(event) for event in whole]
    holed[0]["eval/reward"], holed[1]["eval/proxy"], holed[2]["eval/reward_se"] = "NaN", math.nan, "Infinity"
    told = History(holed)
    assert told.together("eval/reward", "eval/reward_se", "eval/proxy") == [(3, 0.1, 3), (1, 0.1, 4), (0.5, 0.1, 5)]
    assert levels(holed)["over-optimization"] == "unknown"  # three whole ones


def test_an_evaluation_without_an_objective_is_told_and_not_taken_for_the_best(tmp_path: Path) -> None:
    events = logs.evals([0, 1, 2, 1], proxies=[0, 1, 2, 3])
    events[2]["eval/objective"] = events[3]["eval/objective"] = "NaN"
    found = of_events("run", events)
    assert found.best is not None and found.best["update"] == 10 and len(found.points) == 4
    assert "update 10 with 1, the last has no such number" in "\n".join(found.lines())
    for event in events:
        event["eval/objective"] = event["eval/kl"] = "NaN"
    none = of_events("run", events)
    assert none.best is None and none.as_json()["held_out"]["best_update"] is None
    run = folder(tmp_path / "run", logs.ill("cut") + events)
    assert "<h2>Health</h2>" in write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", ["dpo", "ra"])
def test_a_run_from_a_file_is_not_judged_by_its_datas_scores_and_pointed_elsewhere(recipe: str, tmp_path: Path) -> None:
    config = runs.config(tmp_path, recipe, updates=11)
    even = {"score": 0.5, "score_chosen": 0.5, "score_rejected": 0.5}
    rows = [json.loads(line) for line in Path(config.data).read_text(encoding="utf-8").splitlines()]
    runs.jsonl(Path(config.data), [row | {name: even[name] for name in row if name in even} for row in rows])
    loop.run(config, recipe, show="nothing")
    events = read(Path(config.out) / "events.jsonl")
    assert [e["score_std"] for e in events] == [0.0] * 11 and "completions/clipped_ratio" in events[0]
    found = of_events(recipe, events, folder="runs/it")
    first, hint = found.lines()
    assert found.offline and first == f"{recipe}: unknown (0 of {len(CHECKS)} checks known; 11 updates)"
    assert "no on-policy checks" in hint and "tokenward diagnose --model runs/it --data" in hint
    assert "<h2>Health</h2>" not in write_page([config.out], tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_verdict_says_how_much_it_rests_on() -> None:
    rolled_out = of_events("ppo", logs.updates(**logs.WELL))
    assert "  not known here: over-optimization, gain-by-length" in rolled_out.lines()
    assert not rolled_out.offline and rolled_out.as_json()["known"] == rolled_out.known == len(CHECKS) - 2


def test_the_caption_names_a_fit_only_where_there_is_one() -> None:
    many, few = (of_events("run", logs.evals(list(range(n)))) for n in (8, 3))
    assert "Fit:" in overoptimization(many).caption and many.fits
    points, curve = overoptimization(many).series  # the curve goes from the first point behind the start to the last
    assert (curve.x[0], curve.x[-1]) == pytest.approx((points.x[1], points.x[-1])) and points.x[0] == 0 < points.x[1]
    assert "Fit:" not in overoptimization(few).caption and not few.fits
    assert "Gain over the start on" in overoptimization(few).caption
    late = of_events("run", logs.evals([0, 1, 2])[1:])
    assert "Gain over the first evaluation, which is not of the start, on" in overoptimization(late).caption


def test_two_runs_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    both = [str(folder(tmp_path / one / "run", logs.ill("cut"))) for one in "ab"]
    with pytest.raises(InputError, match=r"a/run and .*b/run would both be written to .*run\.json") as error:
        command(both, {"out": str(tmp_path / "out")})
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert command(both, {}) == 0 and all((Path(one) / "health.json").is_file() for one in both)


def test_gains_are_over_the_start_and_length_is_taken_out() -> None:
    rewards = [5 + d * (2 - 0.5 * math.log(d)) if d else 5.0 for d in (math.sqrt(0.5 * i) for i in range(8))]
    found = of_events("run", logs.ill("gain-by-length") + logs.evals(rewards, proxies=rewards))
    assert math.isclose(found.fits["held-out reward"].alpha.value, 2, rel_tol=1e-9)
    assert math.isclose(found.fits["held-out reward"].beta.value, 0.5, rel_tol=1e-9)
    assert found.length is not None
    assert math.isclose(found.length.gain, 2) and math.isclose(found.length.by_length, 0.25 * 8)
    assert math.isclose(found.length.adjusted, 0, abs_tol=1e-12)
    for longer, words in ((5.8, "5.8 tokens longer,"), (-5.8, "5.8 tokens shorter,")):
        told = replace(found, length=replace(found.length, longer=longer)).lines()
        assert words in "\n".join(told) and "-5.8" not in "\n".join(told)


# ---------------------------------------------------------------------------------------------------------- the metrics


def rolled(*texts: tuple[int, ...], score: tuple[float, ...] | None = None):
    """A batch of these responses behind prompts of one token each, of different lengths of padding."""
    width = max(map(len, texts)) + 3
    tokens, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        start = 1 + row % 3
        tokens[row, :start] = torch.tensor(text[0])
        tokens[row, start : start + len(text)] = torch.tensor(text)
        mask[row, start : start + len(text)] = True
    batch = tiny.batch(lengths=(4,) * len(texts), prompts=(2,) * len(texts))
    return replace(
        batch, tokens=tokens, mask=mask, length=mask.sum(-1) + 3,
        score=None if score is None else torch.tensor(score), sampler_logp=torch.zeros(tokens.shape),
    )  # fmt: skip


def test_texts_that_come_again_are_counted_as_python_counts_them() -> None:
    random = np.random.default_rng(0)
    texts = [tuple(int(t) for t in random.integers(3, 6, size=random.integers(2, 14))) for _ in range(40)]
    texts += texts[:15]
    found = health_metrics(rolled(*texts), TokenStats())
    long = [text for text in texts if len(text) >= LONG]
    assert math.isclose(found["completions/duplicates"], 1 - len(set(long)) / len(long), abs_tol=1e-6)
    shares = []
    for text in texts:
        grams = [text[i : i + 4] for i in range(len(text) - 3)]
        if grams:
            shares.append(sum(n - 1 for n in Counter(grams).values()) / len(grams))
    assert len(shares) < len(texts) and math.isclose(
        found["completions/repeated"], float(np.mean(shares)), abs_tol=1e-6
    )


def test_a_text_that_copies_its_prompt_does_not_repeat_itself() -> None:
    row = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6]])
    assert float(repeated(row, torch.tensor([[False] * 4 + [True] * 4]))) == 0
    assert fingerprints(row, torch.tensor([[True] * 4 + [False] * 4])) == fingerprints(
        row, torch.tensor([[False] * 4 + [True] * 4])
    )
    assert fingerprints(torch.tensor([[3, 4]]), torch.ones(1, 2).bool()) != fingerprints(
        torch.tensor([[4, 3]]), torch.ones(1, 2).bool()
    )


def test_kl_by_quarter_gap_and_ratio_tail_as_loops_have_them() -> None:
    batch = tiny.batch(lengths=(12, 9, 11, 6), prompts=(1, 2, 4, 3))
    random = torch.Generator().manual_seed(0)
    old, ref, now, sampler = (torch.randn(batch.tokens.shape, generator=random) for _ in range(4))
    batch = replace(batch, sampler_logp=sampler)
    parts: list[list[float]] = [[], [], [], []]
    gaps, far = [], []
    for row in range(4):
        places = batch.mask[row].nonzero().flatten().tolist()
        for k, t in enumerate(places):
            parts[4 * k // len(places)].append(float(old[row, t] - ref[row, t]))
            gaps.append(abs(float(sampler[row, t] - old[row, t])))
            far.append(not 0.5 <= math.exp(float(now[row, t] - old[row, t])) <= 2)
    found = health_metrics(batch, TokenStats(old_logp=old, ref_logp=ref))
    assert np.allclose([found[f"kl/quarter_{i + 1}"] for i in range(4)], [np.mean(p) for p in parts], atol=1e-5)
    assert math.isclose(found["sampler/gap_mean"], np.mean(gaps), rel_tol=1e-5)
    assert math.isclose(found["sampler/gap_max"], max(gaps), rel_tol=1e-5)
    total, weight = ratio_tail(batch, TokenStats(logp=now, old_logp=old))["policy/ratio_far"]
    assert (float(total), float(weight)) == (sum(far), len(far))
    assert quarters(torch.zeros(2, 3), torch.zeros(2, 3).bool()).isnan().all()


def test_score_and_length() -> None:
    texts, score = [(5,) * n for n in (3, 6, 9, 4)], (1.0, 2.5, 2.0, -1.0)
    found = health_metrics(rolled(*texts, score=score), TokenStats())
    assert math.isclose(found["score/length_corr"], np.corrcoef([3, 6, 9, 4], score)[0, 1], rel_tol=1e-6)
    assert math.isclose(found["score/length_slope"], np.polyfit([3, 6, 9, 4], score, 1)[0], rel_tol=1e-6)
    flat = health_metrics(rolled((5,) * 3, (6,) * 3, score=(1.0, 2.0)), TokenStats())
    assert not {"score/length_corr", "score/length_slope"} & flat.keys()


def test_other_streams_and_files_have_no_such_numbers() -> None:
    texts = ((5,) * 9, (6,) * 9, (6,) * 9)
    batch = replace(rolled(*texts), origin=torch.tensor([0, 0, 1]))
    assert health_metrics(batch, TokenStats())["completions/duplicates"] == 0
    assert health_metrics(replace(batch, sampler_logp=None), TokenStats()) == {}


# ------------------------------------------------------------------------------------------------------------- warnings


def test_a_warning_comes_once_and_not_again_in_a_resumed_run() -> None:
    events = logs.ill("cut")
    watch = Watch()
    said = [(i, found.check.name) for i, event in enumerate(events) for found in watch.see(event)]
    assert said == [(9, "cut")]  # as soon as there are ten values
    again = Watch([*events[:12], {"event": "warning", "update": 10, "check": "cut"}])
    assert [found for event in events[12:] for found in again.see(event)] == []
    before = Watch(events[:5])  # taken back behind the warning: it comes again, where it came
    assert [i for i, event in enumerate(events[5:], 5) if before.see(event)] == [9]


# ----------------------------------------------------------------------------------------------------------- whole runs

GOLD = '''
def middle(prompts, completions, columns):
    """Best where three quarters of the words are even."""
    found = [[int(word[1:]) % 2 == 0 for word in text.split()] for text in completions]
    return [-abs(sum(even) / max(1, len(even)) - 0.75) for even in found]


def fails(prompts, completions, columns):
    raise ValueError("no gold today")
'''


def held(folder: Path, recipe: str = "reinforce_pp", **more: object):
    config = runs.config(folder, recipe, **{"updates": 8, "save_every": 1, "max_new_tokens": 8, **more})
    (folder / "gold.py").write_text(GOLD, encoding="utf-8")
    return replace(
        config, eval_data=config.data, eval_reward=f"{folder / 'gold.py'}:middle",
        eval_every=int(more.get("eval_every", 3)), eval_prompts=12,
    )  # fmt: skip


def test_looking_at_held_out_prompts_changes_nothing_in_training(tmp_path: Path) -> None:
    config = held(tmp_path)
    loop.run(config, "reinforce_pp", show="nothing")
    plain = replace(
        config, out=str(tmp_path / "plain"), eval_data=None, eval_reward=None, eval_every=50, eval_prompts=128
    )
    loop.run(plain, "reinforce_pp", show="nothing")
    weights = zip(runs.weights(tmp_path / "run" / "model"), runs.weights(tmp_path / "plain" / "model"), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    ours, theirs = facts(tmp_path / "run"), facts(tmp_path / "plain")
    assert [e for e in ours if e["event"] == "update"] == [e for e in theirs if e["event"] == "update"]
    assert [e["update"] for e in ours if e["event"] == "eval"] == [0, 3, 6, 8]
    first = next(e for e in ours if e["event"] == "eval")
    assert first["eval/kl"] == 0 and first["eval/best"] == 1 and -0.75 <= first["eval/reward"] < 0 < first["eval/proxy"]


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(np.random.standard_normal()), float(torch.rand(()))]


def test_every_global_generator_goes_back() -> None:
    np.random.standard_normal()  # leaves one in store
    numbers, tensors = rng_state()
    numbers = json.loads(json.dumps(numbers))  # as in a checkpoint
    first = draws()
    set_rng_state(numbers, tensors)
    assert draws() == first
    after = draws()
    set_rng_state({"python": numbers["python"]}, tensors)  # of a version that kept no more
    assert draws()[1:3] != after[1:3]


def test_a_reward_that_draws_moves_no_generator_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = held(tmp_path, updates=1, eval_every=1)
    (tmp_path / "gold.py").write_text(
        "import random\nimport numpy as np\n\n"
        "def middle(prompts, completions, columns):\n"
        "    return [random.random() + float(np.random.random()) for _ in completions]\n",
        encoding="utf-8",
    )
    plain, seen = HeldOut.measure, []

    def measure(one: HeldOut, roles: Roles) -> dict[str, float]:
        before = rng_state()[0]
        found = plain(one, roles)
        seen.append(rng_state()[0] == before)
        return found

    monkeypatch.setattr(HeldOut, "measure", measure)
    loop.run(config, "reinforce_pp", show="nothing")
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("recipe", "update"),
    [("ppo", 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("ppo", 2), ("grpo", 2), ("grpo", 4)))],
)
def test_a_resumed_run_keeps_the_same_best(
    recipe: str, update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"ppo": {"critic": "own"}, "grpo": {"lora_rank": 2}}[recipe]
    config = held(tmp_path, recipe, **more)
    loop.run(config, recipe, show="nothing")
    again = replace(config, out=str(tmp_path / "killed"))
    killed_after(update, again, recipe, monkeypatch)
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))
    one, two = (json.loads((Path(c.out) / "best" / "best.json").read_text()) for c in (config, again))
    assert one == two
    both = (runs.weights(Path(c.out) / "best" / "model") for c in (config, again))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def write_best(out: Path, update: int) -> None:
    with replaced(out / "best") as fresh:
        for name in ("model", "adapter"):
            (fresh / name).mkdir()
            (fresh / name / "config.json").write_text(str(update), encoding="utf-8")
        (fresh / "model" / "model.safetensors").write_text(str(update), encoding="utf-8")
        (fresh / "best.json").write_text(json.dumps({"update": update}), encoding="utf-8")


@pytest.mark.parametrize("step", range(1, 7))
def test_a_kill_while_the_best_is_replaced_leaves_the_old_or_the_new(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die before the first, the second … rename, or in the midst of a deletion."""
    write_best(tmp_path, 1)
    count, rename, rmtree = 0, Path.rename, shutil.rmtree

    def dies() -> bool:
        nonlocal count
        count += 1
        return count == step

    def renamed(path: Path, target: Path) -> Path:
        if dies():
            raise Killed
        return rename(path, target)

    def removed(path: Path, **more: bool) -> None:
        if dies():
            (path / "best.json").unlink(missing_ok=True)
            raise Killed
        rmtree(path, **more)

    with monkeypatch.context() as patch, nullcontext() if step == 6 else pytest.raises(Killed):
        patch.setattr(Path, "rename", renamed)
        patch.setattr(shutil, "rmtree", removed)
        write_best(tmp_path, 2)
    (tmp_path / "events.jsonl").write_text("", encoding="utf-8")
    (run,) = health([tmp_path])
    assert run.best_model is not None and (Path(run.best_model) / "config.json").read_text() == str(1 + step // 5)
    kept = stored(tmp_path)
    assert kept == {"update": 1 + step // 5}  # the new one stands once it has its name: step 5 deletes the old
    both = [(tmp_path / "best" / name / "config.json").read_text(encoding="utf-8") for name in ("model", "adapter")]
    assert both == [str(kept["update"])] * 2
    write_best(tmp_path, 3)
    assert stored(tmp_path) == {"update": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "events.jsonl"]


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_torn_best_model_is_none(gone: str, tmp_path: Path) -> None:
    write_best(tmp_path, 1)
    (tmp_path / "events.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "best" / "model" / gone).unlink()
    assert stored(tmp_path) is None and health([tmp_path])[0].best_model is None


def test_a_model_of_several_files_needs_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert not holds_model(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert holds_model(tmp_path)


def test_the_best_model_is_that_of_the_best_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.0, 1.0, 3.0, 2.0])
    asked: list[list[torch.Tensor]] = []

    def measure(held: HeldOut, roles: Roles) -> dict[str, float]:
        asked.append([p.detach().clone() for _, p in sorted(roles.policy.causal_lm.named_parameters())])
        names = ("reward", "objective", "kl", "length")
        value = next(told)
        return {f"eval/{name}": value for name in names} | {f"eval/{name}_se": 0.1 for name in names}

    monkeypatch.setattr(HeldOut, "measure", measure)
    config = held(tmp_path)
    loop.run(config, "reinforce_pp", show="nothing")
    found = [e for e in read(Path(config.out) / "events.jsonl") if e["event"] == "eval"]
    assert [(e["update"], e["eval/best"]) for e in found] == [(0, 1), (3, 1), (6, 1), (8, 0)]
    assert json.loads((Path(config.out) / "best" / "best.json").read_text())["update"] == 6
    kept = sum(float(x.double().abs().sum()) for x in runs.weights(Path(config.out) / "best" / "model"))
    sizes = [sum(float(x.double().abs().sum()) for x in weights) for weights in asked]
    assert math.isclose(kept, sizes[2], rel_tol=1e-12) and not math.isclose(kept, sizes[3], rel_tol=1e-9)


def test_a_gold_reward_that_fails_costs_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = held(tmp_path, save_every=0)
    file = tmp_path / "gold.py"
    plain = loop.look

    def breaking(run: object, place: object, journal: object) -> None:
        if place.update == 6:  # type: ignore[attr-defined]
            run.heldout.reward.function = lambda *_: (_ for _ in ()).throw(ValueError("no gold"))  # type: ignore
            monkeypatch.setattr(loop, "look", plain)
        plain(run, place, journal)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "look", breaking)
    with pytest.raises((RunError, InputError), match="saved at update 6"):
        loop.run(config, "reinforce_pp", show="nothing")
    assert file.is_file()
    loop.resume(Path(config.out), show="nothing")
    assert [e["update"] for e in read(Path(config.out) / "events.jsonl") if e["event"] == "eval"] == [0, 3, 6, 8]


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="eval_every = 3 has no effect here: there are no held-out prompts"):
        loop.run(runs.config(tmp_path, "ppo", eval_every=3), "ppo", show="nothing")
    with pytest.raises(InputError, match="eval_data"):
        loop.run(runs.config(tmp_path, "dpo", eval_data="x.jsonl"), "dpo", show="nothing")


@pytest.mark.slow
def test_the_best_model_is_kept_where_the_proxy_goes_on_rising(tmp_path: Path) -> None:
    more = {"updates": 40, "learning_rate": 1e-2, "rollout_rows": 32, "mini_rows": 32, "epochs": 1}
    config = replace(held(tmp_path, count=60, eval_every=4, **more), eval_prompts=60, eval_samples=4)
    loop.run(config, "reinforce_pp", keywords={"beta_kl": 0.0}, show="nothing")
    (found,) = health([config.out])
    assert found.best is not None and 0 < found.best["update"] < 40
    assert found.points[-1]["proxy"] > found.best["proxy"] > found.points[0]["proxy"]
    assert {f.check.name: f.level for f in found.findings}["over-optimization"] == "bad"
    told = [e for e in read(Path(config.out) / "events.jsonl") if e["event"] == "warning"]
    assert [e["check"] for e in told].count("over-optimization") == 1
    kept = json.loads((Path(config.out) / "best" / "best.json").read_text())
    assert kept["update"] == found.best["update"] and Path(found.best_model or "").is_dir()
    assert any(not torch.equal(a, b) for a, b in zip(
        runs.weights(Path(config.out) / "best" / "model"), runs.weights(Path(config.out) / "model"), strict=True
    ))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- outside


def folder(path: Path, events: list[dict[str, object]]) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("recipe: ppo\n", encoding="utf-8")
    log = RunLog(path / "events.jsonl")
    for event in events:
        log.append(event)
    return path


def test_the_command_prints_and_writes_what_the_manual_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    falling = logs.evals([0, 1, 2, 2.5, 1.0, 0.5], proxies=[0, 1, 2, 3, 4, 5])
    run = folder(tmp_path / "a run", logs.ill("cut") + falling)
    assert command([str(run)], {}) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("a run: bad (19 of 20 checks known; 30 updates)\n") and BY_NAME["cut"].do in printed
    assert "best on held-out prompts: update 30 with 2.5" in printed
    found = json.loads((run / "health.json").read_text(encoding="utf-8"))
    manual = DOC.read_text(encoding="utf-8")
    names = {*found, *found["findings"][0], *found["held_out"], *found["held_out"]["points"][0], *found["length"]}
    names |= {*found["held_out"]["fits"]["proxy"]}
    assert not [name for name in names if f"`{name}`" not in manual]
    assert found["worst"] == "bad" and len(found["findings"]) == len(CHECKS)
    with pytest.raises(InputError, match="holds no run"):
        health([tmp_path])
    with pytest.raises(InputError, match="cannot be written"):
        write(health([run])[0], run / "events.jsonl" / "x")


def test_the_page_tells_of_health_and_escapes_it(tmp_path: Path) -> None:
    nasty = "a <b> & $\\no$"
    run = folder(tmp_path / nasty, logs.ill("cut") + logs.evals([0, 1, 2, 2.5, 1.0, 0.5], proxies=[0, 1, 2, 3, 4, 5]))
    text = write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>Health</h2>" in text and "a &lt;b&gt; &amp;" in text and "<b> &" not in text
    assert "■ <b>cut</b>" in text and "Reward over √KL" in text
    quiet = folder(tmp_path / "quiet", [{"event": "update", "update": i, "loss": 0.1} for i in range(1, 30)])
    assert "<h2>Health</h2>" not in write_page([quiet], tmp_path / "quiet.html").read_text(encoding="utf-8")


def test_a_constant_score_beside_a_guide_is_no_alarm():
    """RTO with its guide's token rewards alone scores every text 0."""
    flat = [{"event": "update", "update": n, "score_std": 0.0} for n in range(20)]
    check = BY_NAME["constant-score"]
    assert check.reading(History(flat)) == 0.0
    assert check.reading(History([{**event, "guide": 0.5} for event in flat])) is None
