"""Reference diagnostics: numbers against numpy, the identities over seeds, each rule on a case of its own."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import runs
from tests.tiny import BOS, EOS, PAD, batch, laws, llama, ruled_out, saved, tiny, word_tokenizer
from tokenward.cli import main
from tokenward.data.tokenize import Demonstration, Labeled, Pair, Prompt, Response, StepPair, StepResponse
from tokenward.diagnose.evaluate import Evaluation
from tokenward.diagnose.lens.run_directory import opened
from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.files import diagnose_files, seen
from tokenward.diagnose.reference.findings import RULES, judge
from tokenward.diagnose.reference.identity import Identity, identity
from tokenward.diagnose.reference.mass import mass
from tokenward.diagnose.reference.measure import Sampling, fresh, measured, reference_report
from tokenward.diagnose.reference.numbers import Numbers, numbers
from tokenward.diagnose.reference.record import OF_POLICY, OF_REFERENCE, Measured, ReferenceReport
from tokenward.diagnose.reference.student import CHANCE, limit, outside
from tokenward.diagnose.reference.texts import Text, by_prompt, repetition, scored
from tokenward.errors import InputError
from tokenward.models.two_laws import COLUMNS, two_laws
from tokenward.report.reference_page import reference_page
from tokenward.runlog import read
from tokenward.train import loop

ENDS = (EOS,)


def columns(policy, reference, prompt, response, temperature=1.0):
    """The columns of `TwoLaws`, token by token, by their definitions."""
    ours, theirs = (laws(model, [*prompt, *response], temperature=temperature) for model in (policy, reference))
    found = {name: [] for name in COLUMNS}
    for i, token in enumerate(response):
        p, q = ours[len(prompt) + i - 1], theirs[len(prompt) + i - 1]
        row = {
            "logp": p[token], "ref_logp": q[token], "entropy": -(np.exp(p) * p).sum(),
            "ref_entropy": -(np.exp(q) * q).sum(), "kl": (np.exp(p) * (p - q)).sum(),
            "back": (np.exp(q) * (q - p)).sum(), "rank": (q > q[token]).sum(),
        }  # fmt: skip
        for name, value in row.items():
            found[name].append(float(value))
    return found


@pytest.fixture(scope="module")
def models():
    return tiny(seed=1), tiny(seed=0)


TEXTS = [
    Text((BOS, 4, 5), (6, 7, 8, EOS), True),
    Text((BOS, 4, 5), (9, EOS), True),
    Text((BOS, 11), (12, 13, 14, 15, 16), False, (True, False, False, True, True)),
    Text((BOS, 20, 21, 22), (23, 23, EOS), True),
]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_column_is_numpys(models, monkeypatch, temperature):
    monkeypatch.setattr(models[0], "chunk_floats", 80 if temperature < 1 else 2**24)  # two tokens at a time, or all
    found = scored(TEXTS, policy=models[0], reference=models[1], pad_id=PAD, temperature=temperature, micro_tokens=12)
    for row, text in enumerate(TEXTS):
        want = columns(*models, text.prompt, text.tokens, temperature)
        kept = [i for i in range(len(text.tokens)) if text.trainable is None or text.trainable[i]]
        assert int(found.valid[row].sum()) == len(kept)
        for name in COLUMNS:
            got = getattr(found.laws, name)[row]
            assert got[: len(kept)].tolist() == pytest.approx([want[name][i] for i in kept], abs=2e-5), name
            assert not got[len(kept) :].any()


def test_numbers_of_a_set_are_their_definitions(models):
    found = scored(TEXTS, policy=models[0], reference=models[1], pad_id=PAD)
    got = numbers(found)
    rows = [columns(*models, text.prompt, text.tokens) for text in TEXTS]
    kept = [[i for i in range(len(t.tokens)) if t.trainable is None or t.trainable[i]] for t in TEXTS]
    each = {name: [[row[name][i] for i in k] for row, k in zip(rows, kept, strict=True)] for name in COLUMNS}
    flat = {name: np.array([x for row in table for x in row]) for name, table in each.items()}
    ratio = [sum(a) - sum(b) for a, b in zip(each["logp"], each["ref_logp"], strict=True)]
    assert (got.texts, got.prompts, got.tokens) == (4, 3, 12)
    assert got.ratio.mean == pytest.approx(np.mean(ratio), abs=1e-4)
    assert got.kl.mean == pytest.approx(np.mean([sum(x) for x in each["kl"]]), abs=1e-4)
    assert got.back.mean == pytest.approx(np.mean([sum(x) for x in each["back"]]), abs=1e-4)
    assert got.token_ratio.mean == pytest.approx((flat["logp"] - flat["ref_logp"]).mean(), abs=1e-5)
    assert got.surprise.mean == pytest.approx((-flat["ref_logp"] - flat["ref_entropy"]).mean(), abs=1e-5)
    assert got.perplexity == pytest.approx(np.exp(-flat["ref_logp"].mean()), rel=1e-5)
    assert got.rare.mean == pytest.approx((np.exp(flat["ref_logp"]) < 1e-3).mean())
    assert got.deep.mean == pytest.approx((flat["rank"] >= 10).mean())
    assert got.likeliest.mean == pytest.approx((flat["rank"] == 0).mean())
    assert got.cut.mean == 0.25 and got.length.mean == 3
    # texts of one prompt are one cluster: residuals x − m·n are summed over them
    sums = np.array([sum(x) for x in each["ref_logp"]])
    residual = sums - flat["ref_logp"].mean() * np.array([len(k) for k in kept])
    clusters = np.array([residual[0] + residual[1], residual[2], residual[3]])
    assert got.token_ref_logp.se == pytest.approx(math.sqrt(3 / 2 * (clusters**2).sum()) / 12, rel=1e-4)
    assert [(p.first, p.last, p.tokens) for p in got.places] == [(0, 0, 4), (1, 1, 4), (2, 3, 4)]
    first = [row[0] for row in each["back"]]
    assert got.places[0].back == pytest.approx(np.mean(first), abs=1e-5)


def test_differences_are_taken_prompt_by_prompt(models):
    one = scored(TEXTS, policy=models[0], reference=models[1], pad_id=PAD)
    two = scored(TEXTS[:3], policy=models[0], reference=models[1], pad_id=PAD)
    found = by_prompt(one, torch.tensor([1.0, 3.0, 5.0, 9.0]), two, torch.tensor([10.0, 30.0, 50.0]))
    assert (found.mean, found.count) == (pytest.approx(((2 - 20) + (5 - 50)) / 2), 2)
    with pytest.raises(InputError, match="share no prompt"):
        by_prompt(
            scored(TEXTS[3:], policy=models[0], reference=models[1], pad_id=PAD), torch.ones(1), two, torch.ones(3)
        )


def test_repetition_is_of_trigrams():
    assert repetition([1, 2, 3, 4]) == 0 and repetition([1, 1]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)


# --- the identities ------------------------------------------------------------------------------------------------

PROMPTS = [Prompt(i, (BOS, 3 + i, 7), "", where=f"p:{i}") for i in range(20)]


def samples(model, *, seed, temperature=1.0, each=100):
    asked = Sampling(samples=each, max_new_tokens=6, temperature=temperature, seed=seed, rows=4000)
    return fresh(model, PROMPTS, end_ids=ENDS, pad_id=PAD, asked=asked)


@pytest.mark.parametrize("which", ["reference", "policy"])
def test_the_identity_of_fresh_samples_has_z_scores_of_size_one(models, which):
    """40 groups of 50 fresh texts: the squares of their z-scores average to about 1, none is beyond 4."""
    model = models[which == "reference"]
    texts = samples(model, seed=5)
    found = [
        identity(scored(texts[i::40], policy=models[0], reference=models[1], pad_id=PAD), law=which) for i in range(40)
    ]
    assert all(one.holds and one.gap.count == 50 for one in found)
    assert 0.5 < sum(one.z**2 for one in found) / 40 < 1.8
    every = scored(texts, policy=models[0], reference=models[1], pad_id=PAD)
    whole = identity(every, law=which)
    exact = -every.laws.back if which == "reference" else every.laws.kl
    assert whole.kl.mean == pytest.approx(float(exact.sum(-1).mean()))
    sign = -1 if which == "reference" else 1
    assert sign * whole.kl.mean > 1 and abs(whole.z) < 4
    assert sign * whole.ratio.mean == pytest.approx(sign * whole.kl.mean, abs=5 * whole.gap.se)


def test_few_texts_are_held_against_students_t():
    """One and two degrees of freedom in closed form; many as the normal law; 2 texts with z = 5.02 are no finding."""
    assert limit(1) == pytest.approx(1 / math.tan(math.pi * CHANCE / 2))
    inside = 1 - CHANCE
    assert limit(2) == pytest.approx(inside * math.sqrt(2 / (1 - inside**2)))
    assert limit(10_000) == pytest.approx(4, abs=0.003)
    for freedom in (5, 6):  # against the density, by the trapezoid rule
        x = np.linspace(0, 3, 20_001)
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi * freedom) * math.gamma(freedom / 2))
        inside = np.trapezoid(scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2), x)
        assert outside(3.0, freedom) == pytest.approx(1 - 2 * inside, abs=1e-7)

    def of(z, count):
        return Identity("reference", sure(-0.5), sure(-0.5), Estimate(z, 1.0, count, count))

    assert of(5.02, 2).holds and of(5.02, 8).holds and not of(5.02, 64).holds and not of(9.0, 8).holds
    assert "5 texts" not in of(3.9, 5).line() and "they agree (z = +3.90)" in of(3.9, 5).line()
    assert "2 texts are too few to tell whether they agree (z = +9.53, by chance at most" in of(9.53, 2).line()
    found = replace(case(), identities=(of(5.02, 2),))
    assert "broken-identity" not in {one.rule for one in judge(found)[1]}
    alike = Identity("policy", sure(1), sure(1), Estimate(0.1, 0.0, 2, 2))  # two equal texts tell of no error
    assert alike.holds is None and replace(alike, gap=Estimate(0.1, 0.0, 9, 9)).holds is False


def test_an_identity_that_is_not_known_hides_no_other_and_says_so():
    one = Estimate(0.5, math.nan, 1, 1)
    unknown = Identity("reference", one, one, one)
    assert unknown.holds is None and "DIFFER" not in unknown.line() and "not known" in unknown.line()
    assert unknown.as_json()["holds"] is None and unknown.as_json()["z"] is None
    bad = Identity("policy", sure(1), sure(1), sure(0.5))
    verdict, findings = judge(replace(case(), identities=(unknown, bad)))
    assert verdict == "damage" and findings[0].rule == "broken-identity" and findings[0].number == pytest.approx(50)


def test_an_error_that_is_not_known_is_not_written(models):
    alone = Estimate(0.123, math.nan, 3, 1)
    assert str(alone) == "0.123 (one prompt: no error)"
    assert "nan" not in str(Evaluation("pairs", {"margin": alone}))
    sets = {
        name: scored(TEXTS[:1], policy=models[0], reference=models[1], pad_id=PAD)
        for name in ("data", OF_REFERENCE, OF_POLICY)
    }
    found = measured(sets)
    report = ReferenceReport(found, *judge(found))
    assert "nan" not in "\n".join(report.lines()) + reference_page(report).partition("<img")[0]
    assert "standard error" in "\n".join(report.lines()) and "standard error" in reference_page(report)


def test_a_token_ruled_out_by_both_models_changes_no_number():
    """Entropies and KLs are those over the rest of the vocabulary, and a moved policy is not called unmoved."""
    ours, theirs = ruled_out(tiny(seed=1), 30), ruled_out(tiny(seed=0), 30)
    found = scored(TEXTS, policy=ours, reference=theirs, pad_id=PAD)
    assert all(bool(getattr(found.laws, name).isfinite().all()) for name in COLUMNS)
    rest = [i for i in range(40) if i != 30]
    p, q = (laws(model, [*TEXTS[0].prompt])[-1][rest] for model in (tiny(seed=1), tiny(seed=0)))
    p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
    first = {"entropy": -(np.exp(p) * p).sum(), "kl": (np.exp(p) * (p - q)).sum(), "back": (np.exp(q) * (q - p)).sum()}
    for name, value in first.items():
        assert float(getattr(found.laws, name)[0, 0]) == pytest.approx(value, abs=2e-5), name
    sets = dict.fromkeys(("data", OF_REFERENCE, OF_POLICY), found)
    assert "unmoved" not in {one.rule for one in judge(measured(sets))[1]}


@pytest.mark.parametrize("side", ["policy", "reference"])
def test_a_token_ruled_out_by_one_model_is_a_finding(side):
    ours, theirs = tiny(seed=1), tiny(seed=0)
    ruled_out(ours if side == "policy" else theirs, 8)  # TEXTS[0] has it
    found = scored(TEXTS, policy=ours, reference=theirs, pad_id=PAD)
    now = measured(dict.fromkeys(("data", OF_REFERENCE, OF_POLICY), found))
    infinite = now.sets["data"].kl if side == "reference" else now.sets["data"].back
    assert infinite.mean == math.inf
    verdict, findings = judge(now)
    assert verdict == "damage" and findings[0].rule == "not-finite" and findings[0].remedy
    report = ReferenceReport(now, verdict, findings)
    json.dumps(report.as_json(), allow_nan=False)
    assert "not finite" in reference_page(report) and "whether they agree is not known" in "".join(report.lines())


def test_samples_of_another_law_are_found_out(models):
    cold = scored(samples(models[1], seed=1, temperature=0.5), policy=models[0], reference=models[1], pad_id=PAD)
    assert not identity(cold, law="reference").holds
    wrong = scored(samples(models[0], seed=1), policy=models[0], reference=models[1], pad_id=PAD)
    assert not identity(wrong, law="reference").holds


def test_equal_models_have_z_zero_and_a_finite_report(models):
    same = tiny(seed=0)
    examples = [Pair(p, Response((5, EOS), "stop"), Response((6, EOS), "stop")) for p in PROMPTS]
    found = reference_report(
        same, models[1], examples, end_ids=ENDS, pad_id=PAD, sampling=Sampling(max_new_tokens=5, samples=1)
    )
    assert found.verdict == "unmoved" and [one.z for one in found.measured.identities] == [0, 0]
    json.dumps(found.as_json(), allow_nan=False)
    drawn = [scored_set.ref_logp.mean for name, scored_set in found.measured.sets.items() if "samples" in name]
    assert drawn[0] != drawn[1]  # the two samplers do not draw the same numbers


# --- where the mass went --------------------------------------------------------------------------------------------


def test_masses_are_sums_of_probabilities_of_whole_texts(models):
    chosen = [Text((BOS, 4), (5, EOS), True)] * 2 + [Text((BOS, 4), (6, EOS), True), Text((BOS, 9), (7,), False)]
    rejected = [Text((BOS, 4), (5, EOS), True), Text((BOS, 9), (8, EOS), True)]
    wrote = [*chosen[:3], rejected[1], Text((BOS, 9), (7,), False), Text((BOS, 9), (7, 7, EOS), True)]
    sets = {
        name: scored(texts, policy=models[0], reference=models[1], pad_id=PAD)
        for name, texts in (("chosen", chosen), ("rejected", rejected), (OF_POLICY, wrote))
    }
    found = mass({name: sets[name] for name in ("chosen", "rejected")}, sets[OF_POLICY])

    def probability(model, text):
        rows = laws(model, [*text.prompt, *text.tokens])
        return math.exp(sum(rows[len(text.prompt) + i - 1, t] for i, t in enumerate(text.tokens)))

    for part, model in ((found.before, models[1]), (found.after, models[0])):
        distinct = probability(model, chosen[0]) + probability(model, chosen[2])
        assert part["chosen"].mean == pytest.approx(distinct / 2, rel=1e-4)  # the second prompt's text was cut
        assert part["rejected"].mean == pytest.approx(probability(model, rejected[1]) / 2, rel=1e-4)
    assert {name: value.mean for name, value in found.sampled.items()} == pytest.approx(
        {"chosen": 3 / 6, "rejected": 1 / 6, "elsewhere": 1 / 6, "cut": 1 / 6}
    )
    assert found.new is not None and found.new["length"].mean == 3
    rows = [columns(*models, text.prompt, text.tokens)["ref_logp"] for text in wrote[5:]]
    assert found.new["token_ref_logp"].mean == pytest.approx(sum(map(sum, rows)) / 3, abs=1e-4)


def test_masses_are_means_over_all_prompts_and_of_whole_texts_alone(models):
    """Labels may give a prompt one side only; an answer of one own turn is whole, a dialogue and a cut text are not."""
    one, two = (BOS, 4), (BOS, 9)
    texts = {
        "chosen": [Text(one, (EOS,), True, (True,)), *(Text(one, (v, EOS), True) for v in range(3, 40))],
        "rejected": [Text(two, (EOS,), True)],
        "cut": [Text(one, (7,), False), Text(two, (8, 9, EOS), True, (True, False, True))],
        OF_POLICY: [Text(one, (EOS,), True), Text(two, (5, EOS), True)],
    }
    sets = {name: scored(rows, policy=models[0], reference=models[1], pad_id=PAD) for name, rows in texts.items()}
    policy = sets.pop(OF_POLICY)
    found = mass(sets, policy)
    for part, column in ((found.before, "ref_logp"), (found.after, "logp")):
        assert [*part] == ["chosen", "rejected"]  # nothing can be said of a set without whole texts
        for name, value in part.items():
            of = getattr(sets[name].laws, column).sum(-1).exp()
            assert (value.mean, value.count) == (pytest.approx(float(of.sum()) / 2), 2)
    assert {name: value.mean for name, value in found.sampled.items()} == pytest.approx(
        {"chosen": 1 / 2, "rejected": 0, "elsewhere": 1 / 2, "cut": 0}
    )
    assert mass({"data": sets["cut"]}, policy) is None and mass({}, policy) is None


def test_masses_of_many_texts_are_made_in_one_reading_of_their_prompts(models, monkeypatch):
    data, policy = (scored(TEXTS, policy=models[0], reference=models[1], pad_id=PAD) for _ in range(2))
    reads = []
    monkeypatch.setattr(type(data), "prompts", property(lambda of: reads.append(of) or [t.prompt for t in of.texts]))
    mass({"data": data}, policy)
    assert sum(of is data for of in reads) == 1


# --- rules ----------------------------------------------------------------------------------------------------------


def sure(mean, se=0.01):
    return Estimate(float(mean), float(se), 100, 50)


def plain(**changes):
    """A set of texts of which nothing strange is known, at 10 tokens a text."""
    same = dict.fromkeys(Numbers.__dataclass_fields__, sure(0.0))
    quiet = {
        "texts": 100, "prompts": 50, "tokens": 1000, "places": (), "length": sure(10.0), "entropy": sure(1.0),
        "ref_entropy": sure(1.0), "token_ref_logp": sure(-1.0), "kl": sure(0.5), "back": sure(0.5),
    }  # fmt: skip
    return Numbers(**{**same, **quiet, **changes})


def case(*, chosen=None, reference=None, policy=None, gap=0.0, apart=1.0, margin=1.0, z=0.0, beyond=0.0):
    """Chosen answers that stand (log-ratio 0 ± 1: no sign), off the reference's law in length alone."""
    sets = {
        "chosen": plain(**{"ratio": sure(0.0, 1.0), **(chosen or {})}),
        "rejected": plain(),
        OF_REFERENCE: plain(**(reference or {})),
        OF_POLICY: plain(**(policy or {})),
    }
    differences = {"ref_logp": sure(apart), "token_ref_logp": sure(0.0), "ratio": sure(0.0), "token_ratio": sure(gap)}
    identities = (Identity("reference", sure(-0.5), sure(-0.5), sure(0.01 * z)), Identity("policy", *[sure(0.0)] * 3))
    return Measured(
        sets, {"chosen": differences}, identities, None, sure(margin), {"chosen": sets["chosen"].ratio}, 64, beyond
    )


CASES = [
    ("not-finite", "damage", {"policy": {"kl": Estimate(math.inf, math.nan, 100, 50)}}),
    ("not-finite", "damage", {"reference": {"back": Estimate(math.nan, math.nan, 100, 50)}}),
    ("broken-identity", "damage", {"z": 4.5}),
    ("poor-coverage", "warning", {"chosen": {"rare": sure(0.06), "ratio": sure(0, 1)}}),
    ("long-answers", "note", {"beyond": 0.1}),
    ("off-policy", "note", {"chosen": {"surprise": sure(0.2), "ratio": sure(0, 1)}}),
    ("on-policy", "note", {"apart": 0.0}),
    ("expected-fall", "fine", {"chosen": {"ratio": sure(-1)}, "reference": {"ratio": sure(-2)}}),
    ("fell-more", "warning", {"chosen": {"ratio": sure(-3), "token_ratio": sure(-0.3)}, "gap": -0.1}),
    ("fell-more", "damage", {"chosen": {"ratio": sure(-8), "token_ratio": sure(-0.8)}, "gap": -0.1}),
    ("chosen-rises", "fine", {"chosen": {"ratio": sure(0.5)}}),
    (
        "margin-by-collapse", "damage",
        {"chosen": {"ratio": sure(-6), "token_ratio": sure(-0.6)}, "reference": {"token_ratio": sure(-0.6)}},
    ),
    (
        "large-fall", "warning",
        {"chosen": {"token_ratio": sure(-0.6)}, "reference": {"token_ratio": sure(-0.6)}, "margin": 0.0},
    ),
    ("wrong-way", "damage", {"margin": -0.5}),
    ("entropy-collapse", "warning", {"policy": {"entropy": sure(0.4)}}),
    ("entropy-collapse", "damage", {"policy": {"entropy": sure(0.2)}}),
    ("mass-elsewhere", "damage", {"policy": {"token_ref_logp": sure(-2.5)}}),
    ("repetition", "warning", {"policy": {"repetition": sure(0.3)}}),
    ("length", "warning", {"policy": {"length": sure(16.0)}}),
    ("length", "warning", {"policy": {"cut": sure(0.3)}}),
]  # fmt: skip
FALLS = {"expected-fall", "fell-more", "wrong-way", "entropy-collapse"}  # these apply below their threshold


@pytest.mark.parametrize(("rule", "severity", "changes"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_each_rule_has_its_case(rule, severity, changes):
    verdict, found = judge(case(**changes))
    assert rule in {one.rule: one for one in found}
    one = next(one for one in found if one.rule == rule)
    assert one.severity == severity and one.text and (one.remedy or severity == "fine")
    if rule == "on-policy":
        assert one.number == one.threshold == 0  # it cannot be told from 0
    else:
        assert one.number < one.threshold if rule in FALLS else one.number > one.threshold
    if severity == "damage":
        assert verdict == "damage" and found[0].severity == "damage"


def test_nothing_is_found_where_nothing_is():
    assert judge(case()) == ("unclear", ())
    assert {rule for rule, _, _ in CASES} | {"unmoved"} == {
        one.rule for _, _, changes in [*CASES, ("", "", {})] for one in judge(case(**changes))[1]
    } | {"unmoved"}
    assert len(RULES) == len({rule for rule, _, _ in CASES}) + 1
    verdict, (one,) = judge(_still())
    assert (verdict, one.rule, one.number <= one.threshold) == ("unmoved", "unmoved", True)
    no_number = Estimate(math.nan, math.nan, 100, 50)
    unknown = {name: replace(one, kl=no_number, back=no_number) for name, one in _still().sets.items()}
    verdict, findings = judge(replace(_still(), sets=unknown))
    assert verdict == "damage" and [one.rule for one in findings] == ["not-finite"]


def _still():
    found = case()
    return replace(found, sets={name: replace(one, kl=sure(0.0), back=sure(0.0)) for name, one in found.sets.items()})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"z": 3.9}, "broken-identity"),
        ({"chosen": {"rare": sure(0.06)}, "reference": {"rare": sure(0.04)}}, "poor-coverage"),
        ({"chosen": {"ratio": sure(-1)}, "gap": -0.1}, "expected-fall"),
        ({"chosen": {"ratio": sure(-1)}, "gap": -0.015}, "fell-more"),
        ({"chosen": {"ratio": sure(0.5, 0.3)}}, "chosen-rises"),
        ({"chosen": {"ratio": sure(-6), "token_ratio": sure(-0.6)}}, "margin-by-collapse"),
        ({"chosen": {"ratio": sure(-6), "token_ratio": sure(-0.6)}, "margin": 0.0}, "large-fall"),
        ({"chosen": {"token_ratio": sure(-0.6)}, "reference": {"token_ratio": sure(-0.6)}}, "large-fall"),
        ({"apart": 0.0, "chosen": {"surprise": Estimate(0.0, math.nan, 1, 1)}}, "on-policy"),
    ],
)
def test_rules_know_their_limits(changes, rule):
    assert rule not in {one.rule for one in judge(case(**changes))[1]}


def test_verdicts():
    assert judge(case(chosen={"ratio": sure(-1)}))[0] == "expected"
    assert judge(case(chosen={"ratio": sure(1)}))[0] == "rising"
    assert judge(case(chosen={"ratio": sure(1)}, margin=-1.0))[0] == "damage"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("reference")
    saved(made / "policy", seed=1)
    saved(made / "base")
    runs.jsonl(made / "<img src=x onerror=alert(1)>.jsonl", runs.rows("pairs"))
    runs.jsonl(made / "prompts.jsonl", runs.rows("rollouts"))
    return made


def test_the_command_writes_a_report_and_a_page_without_scripts(folder, capsys):
    data = folder / "<img src=x onerror=alert(1)>.jsonl"
    words = [
        "diagnose",
        "--model",
        folder / "policy",
        "--ref",
        folder / "base",
        "--data",
        data,
        "--out",
        folder / "out",
    ]
    assert main([*map(str, words), "--samples", "4", "--prompts", "12", "--max-new-tokens", "6"]) == 0
    told = capsys.readouterr().out
    assert "E_ref[log π/π_ref]" in told and "verdict: " in told
    plain_ = json.loads((folder / "out" / "reference.json").read_text())
    assert set(plain_) == {"about", "verdict", "findings", "sets", "against", "first", "margin", "identities", "mass"}
    assert set(plain_["sets"]) == {"chosen", "rejected", OF_REFERENCE, OF_POLICY}
    assert plain_["about"]["kind"] == "pairs" and plain_["about"]["prompts"] == 12
    assert plain_["sets"]["chosen"]["texts"] == 12 and plain_["sets"][OF_POLICY]["texts"] == 48
    assert set(plain_["mass"]["sampled"]) == {"chosen", "rejected", "elsewhere", "cut"}
    page = (folder / "out" / "reference.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and "<script" not in page.lower()


def test_prompts_alone_and_demonstrations_will_do(folder, models):
    words = ["diagnose", "--model", folder / "policy", "--ref", folder / "base", "--data", folder / "prompts.jsonl"]
    assert main([*map(str, words), "--out", str(folder / "p"), "--max-new-tokens", "4"]) == 0
    plain_ = json.loads((folder / "p" / "reference.json").read_text())
    assert set(plain_["sets"]) == {OF_REFERENCE, OF_POLICY} and plain_["mass"] is None and plain_["margin"] is None
    assert (folder / "p" / "reference.html").is_file()
    demos = [Demonstration(p, Response((5, 6, EOS), "stop")) for p in PROMPTS]
    labeled = [Labeled(p, Response((5 + p.id % 2, EOS), "stop"), bool(p.id % 2)) for p in PROMPTS]
    bad = [Labeled(p, Response((5, EOS), "stop"), False) for p in PROMPTS]
    for kind, examples, names in (
        ("demonstrations", demos, {"data"}), ("labels", labeled, {"chosen", "rejected"}), ("labels", bad, {"rejected"}),
    ):  # fmt: skip
        found = reference_report(
            *models, examples, end_ids=ENDS, pad_id=PAD, sampling=Sampling(samples=1, max_new_tokens=3)
        )
        assert set(found.measured.sets) == {*names, OF_REFERENCE, OF_POLICY} and found.about["kind"] == kind
        assert examples is bad or "log π/π_ref" in reference_page(found)


def test_two_ids_that_changed_places_are_refused(folder, tmp_path, capsys):
    """The vocabularies are of one size: only their entries tell."""
    saved(tmp_path / "moved")
    text = (tmp_path / "moved" / "tokenizer.json").read_text()
    words = {'"w7": 7': '"w7": 8', '"w8": 8': '"w8": 7'}
    for old, new in words.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "moved" / "tokenizer.json").write_text(text)
    capsys.readouterr()
    words = ["--model", folder / "policy", "--ref", tmp_path / "moved", "--data", folder / "prompts.jsonl"]
    assert main(["diagnose", *map(str, words), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "has another tokenizer than the policy (4 entries differ)" in told and told.count("\n") == 1


def test_rows_of_the_training_are_said_to_be_such(folder, tmp_path, capsys):
    runs.jsonl(tmp_path / "train.jsonl", runs.rows("pairs"))
    (tmp_path / "copy.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    runs.jsonl(tmp_path / "held.jsonl", runs.rows("pairs", count=9))
    shutil.copytree(folder / "policy", tmp_path / "run" / "model")
    settings = f"recipe: dpo\nmodel: {folder / 'base'}\ndata: {tmp_path / 'train.jsonl'}\n"
    (tmp_path / "run" / "config.yaml").write_text(settings)
    run = opened(str(tmp_path / "run")).settings
    for name, rule in (("train", "training-data"), ("copy", "training-data"), ("held", None)):
        found = seen(str(tmp_path / f"{name}.jsonl"), "train", run)
        assert (found and found.rule) == rule
    hub = {"data": "some/set", "split": "train"}
    assert seen("some/set", "train", hub) and not seen("some/set", "test", hub) and not seen("x", "train", {})
    words = ["--model", tmp_path / "run", "--data", tmp_path / "train.jsonl", "--prompts", 4, "--samples", 1]
    words = ["diagnose", *map(str, words), "--max-new-tokens", "3", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert "[warning] The policy was trained on these very rows" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "reference.json").read_text())["findings"]
    assert "training-data" in {one["rule"] for one in found}
    assert main([*words, str(tmp_path / "out")]) == 0  # its own output may be replaced
    capsys.readouterr()
    assert main([*words, str(tmp_path / "run")]) == 2  # a run's directory may not be written into
    assert "which is no output of diagnose --model: give another --out" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "model"]


def test_masses_are_written_so_that_something_is_said(models):
    found = scored(TEXTS, policy=models[0], reference=models[1], pad_id=PAD)
    now = measured(dict.fromkeys(("chosen", OF_REFERENCE, OF_POLICY), found))
    tiny_ = replace(now.mass, before={"chosen": Estimate(3e-20, 1e-21, 4, 3)})
    page = reference_page(ReferenceReport(replace(now, mass=tiny_), *judge(now)))
    assert '3.0e-20 <span class="se">± 1.0e-21</span>' in page and "0.000 " not in page.partition("Every number")[0]


def test_a_run_is_scored_at_the_temperature_it_was_trained_at(folder, tmp_path):
    shutil.copytree(folder / "policy", tmp_path / "run" / "model")

    def found(told, **given):
        (tmp_path / "run" / "config.yaml").write_text(f"recipe: dpo\nmodel: {folder / 'base'}\ntemperature: {told}\n")
        given = {"model": str(tmp_path / "run"), "prompts": 2, "samples": 1, "max_new_tokens": 2, **given}
        return diagnose_files(data=str(folder / "prompts.jsonl"), **given)

    alone = {"model": str(folder / "policy"), "ref": str(folder / "base")}
    for report, used in ((found(0.5), 0.5), (found(0.5, temperature=2.0), 2.0), (found(0.5, **alone), 1.0)):
        assert report.about["temperature"] == used
        assert f"all texts are drawn and scored at temperature {used:g}" in report.lines()
    with pytest.raises(InputError, match="temperature must be above 0"):
        found(0.5, temperature=0.0)
    for told, wrong in (("hot", "must be a number, got 'hot'"), (-1, "must be > 0, got -1"), (0, "must be > 0, got 0")):
        with pytest.raises(InputError, match=f"config.yaml: temperature {wrong}"):
            found(told)
        assert found(told, temperature=2.0).about["temperature"] == 2.0  # one that is given needs none of the run


ALL = ["--model", "{policy}", "--ref", "{base}", "--data", "{data}", "--out", "{out}"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "diagnose needs RUN_DIR…, or --model M"),
        (["run", "--model", "m"], "diagnose takes run directories, or --model M"),
        (["--model", "m"], "diagnose --model needs out: give --out DIR"),
        (["--model", "{policy}", "--data", "{data}", "--out", "{out}"], "is no run directory, so its reference is not"),
        (["--model", "{policy}", "--data", "{data}", "--out", "{data}"], "is a file: give a directory"),
        (["--model", "{policy}", "--ref", "{base}", "--out", "{out}"], "diagnose needs data: give --data"),
        ([*ALL, "--sampels", "2"], "no flag --sampels. Did you mean 'samples'?"),
        ([*ALL, "--samples", "0"], "1 or more"),
        (ALL, "leaves no room"),
        (["--model", "{policy}", "--ref", "{small}", "--data", "{data}", "--out", "{out}", "--max-new-tokens", "4"],
         "another tokenizer than the policy (10 entries differ): both models score the same token ids"),
        (["--model", "{unfinished}", "--data", "{data}", "--out", "{out}"], "is a run that has not written its model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(folder, tmp_path, capsys, words, complaint):
    if "{small}" in words:
        llama(vocabulary=30).save_pretrained(tmp_path / "small")
        word_tokenizer(size=30).save_pretrained(tmp_path / "small")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("model: x\n")
    names = {"policy": folder / "policy", "base": folder / "base", "data": folder / "prompts.jsonl"}
    names |= {"out": tmp_path / "out", "small": tmp_path / "small", "unfinished": tmp_path / "unfinished"}
    capsys.readouterr()
    assert main(["diagnose", *(word.format(**names) for word in words)]) == 2
    assert complaint in (told := capsys.readouterr().err) and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ref", "known"),
    [("null", "start"), ("copy", "start"), ("adapter", "start"), ("cached", "start"), ("other", "other")],
)
def test_a_run_knows_its_reference(tmp_path, ref, known):
    assert (opened(str(tmp_path)).model, opened(str(tmp_path)).reference) == (str(tmp_path), None)
    (tmp_path / "config.yaml").write_text(f"model: start\nref: {ref}\n")
    saved(tmp_path / "model")
    found = opened(str(tmp_path))
    assert (found.model, found.reference) == (str(tmp_path / "model"), known)
    for text, complaint in (("[", "cannot be read as YAML"), ("beta: 1", "not the settings of a run")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=complaint):
            opened(str(tmp_path))


def test_steps_of_two_models_are_refused(models):
    step = StepResponse(0, PROMPTS[0], Response((5, EOS), "stop"))
    with pytest.raises(InputError, match="steps of two models"):
        reference_report(*models, [StepPair((step,), (step,))], end_ids=ENDS, pad_id=PAD)


def test_without_adapters_a_model_is_no_reference_of_itself(models):
    with pytest.raises(InputError, match="no adapters to switch off"):
        two_laws(models[0], models[0], batch())


def test_a_set_of_one_text_gives_a_report_that_is_json(models):
    sets = {
        name: scored(TEXTS[:1], policy=models[0], reference=models[1], pad_id=PAD)
        for name in ("data", OF_REFERENCE, OF_POLICY)
    }
    found = measured(sets)
    json.dumps(ReferenceReport(found, *judge(found)).as_json(), allow_nan=False)


# --- what the trainer logs -------------------------------------------------------------------------------------------


def events(out):
    return [
        {k: v for k, v in event.items() if not k.startswith(("timing_s/", "perf/"))}
        for event in read(out / "events.jsonl")
        if event["event"] == "update"
    ]


@pytest.mark.parametrize(("recipe", "more"), [("dpo", {}), ("dpo", {"lora_rank": 2}), ("ppo", {})])
def test_the_probe_is_made_again_on_resume_and_changes_nothing(tmp_path, recipe, more):
    settings = {"updates": 5, "save_every": 3, "probe_every": 2, **more}
    config = runs.config(tmp_path, recipe, probe_samples=6, **settings)
    loop.run(config, recipe)
    out = tmp_path / "run"
    whole, weights = events(out), runs.weights(out / "model")
    shutil.rmtree(out / "model")
    loop.resume(out)
    assert events(out) == whole
    (tmp_path / "run").rename(tmp_path / "probed")
    bare = runs.config(tmp_path, recipe, **{k: v for k, v in settings.items() if k != "probe_every"})
    loop.run(bare, recipe)
    kept = [{k: v for k, v in event.items() if not k.startswith("reference/")} for event in whole]
    assert events(tmp_path / "run") == kept
    for one, two in zip(weights, runs.weights(tmp_path / "run" / "model"), strict=True):
        assert torch.equal(one, two)
    looks = [event["update"] for event in whole if "reference/kl" in event]
    assert looks == [1, 3, 5] and whole[0]["reference/log_ratio"] == 0 and whole[0]["reference/z"] == 0
    assert whole[-1]["reference/kl"] > 0 and whole[-1]["reference/log_ratio_se"] > 0


def test_the_numbers_of_the_probe_are_those_of_its_texts(tmp_path):
    """reference/kl and log_ratio by numpy on the very texts, and the drift of pairs from the rewards."""
    from tokenward.data import dataset
    from tokenward.models.load import policy
    from tokenward.models.roles import Roles
    from tokenward.train.probe import make_probe

    config = runs.config(tmp_path, "dpo", probe_samples=7, probe_every=3)
    data = dataset.load(config.data, tokenizer=word_tokenizer(), kind="pairs")
    base, moved = policy(config.model).requires_grad_(False), tiny(seed=3)
    probe = make_probe(data, config, roles=Roles(policy=moved, reference=base))
    again = make_probe(data, config, roles=Roles(policy=tiny(seed=4), reference=base))
    assert torch.equal(probe.batch.tokens, again.batch.tokens)  # the reference's texts, whoever trains
    found = probe.numbers(Roles(policy=moved, reference=base))
    ratios, kls = [], []
    for ids, mask, length in zip(probe.batch.tokens, probe.batch.mask, probe.batch.length, strict=True):
        row, start = ids[:length].tolist(), int(mask.to(torch.int8).argmax())
        table = columns(moved, base, row[:start], row[start:])
        ratios.append(sum(table["logp"]) - sum(table["ref_logp"]))
        kls.append(sum(table["back"]))
    gap = np.array(ratios) + np.array(kls)
    assert found["reference/log_ratio"] == pytest.approx(np.mean(ratios), abs=1e-4)
    assert found["reference/log_ratio_se"] == pytest.approx(np.std(ratios, ddof=1) / math.sqrt(7), rel=1e-4)
    assert found["reference/kl"] == pytest.approx(np.mean(kls), abs=1e-4)
    assert found["reference/z"] == pytest.approx(gap.mean() / (gap.std(ddof=1) / math.sqrt(7)), rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "more", "complaint"),
    [
        ("dpo", {"probe_samples": 1}, "probe_samples = 1 has no error"),
        ("dpo", {"probe_samples": 4, "ref": "cached"}, "ref = cached holds the rows of the file"),
        ("dpo", {"probe_every": 5}, "probe_every = 5 has no effect here: there is no probe"),
        ("sft", {"probe_samples": 4}, "probe_samples = 4 has no effect here: the recipe reads no reference"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(tmp_path, recipe, more, complaint):
    with pytest.raises(InputError, match=complaint):
        loop.run(runs.config(tmp_path, recipe, **more), recipe)


def test_drift_is_the_log_ratio_of_a_token():
    """rewards/… is β times the sum over a text, drift/… the mean over tokens, on the same rows."""
    from tokenward.data.collate import pairs_batch
    from tokenward.objective.metrics import step_metrics
    from tokenward.recipes import build
    from tokenward.types import Signal, TokenStats

    pairs = [Pair(p, Response((5,) * (1 + p.id % 3) + (EOS,), "stop"), Response((6, EOS), "stop")) for p in PROMPTS[:4]]
    batch = pairs_batch(pairs, pad_id=PAD)
    logp, ref = -torch.rand(2, *batch.tokens.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = step_metrics(build("dpo", beta=0.5), batch, TokenStats(logp=logp, ref_logp=ref), Signal())
    for side, rows in (("chosen", slice(0, None, 2)), ("rejected", slice(1, None, 2))):
        inside = batch.mask[rows]
        total, number = found[f"drift/{side}"]
        want = (logp - ref)[rows][inside]
        assert float(total / number) == pytest.approx(float(want.mean()))
        reward, of = found[f"rewards/{side}"]
        assert float(reward / of) == pytest.approx(0.5 * float(want.sum()) / 4)


# --- the exact study -------------------------------------------------------------------------------------------------


def test_the_table_of_the_exact_study_by_plain_sums():
    """D_w, π* and the means of one reference, β by β, with loops."""
    from tokenward.studies.reference import BETAS, Cell, Laws, chain

    world = chain()
    mu, r = world.ref[0].numpy(), world.reward[0].numpy()
    number = len(mu)
    chosen, rejected = np.zeros(number), np.zeros(number)
    for i in range(number):
        for j in range(number):
            win = 1 / (1 + math.exp(r[j] - r[i]))
            for winner, loser, p in ((i, j, win), (j, i, 1 - win)):
                chosen[winner] += mu[i] * mu[j] * p
                rejected[loser] += mu[i] * mu[j] * p
    laws = Laws.of(world)
    assert laws.chosen[0].numpy() == pytest.approx(chosen, abs=1e-14)
    assert laws.rejected[0].numpy() == pytest.approx(rejected, abs=1e-14)
    for name, ref in (("chosen", chosen), ("both", mu), ("rejected", rejected), ("none", np.full(number, 1 / number))):
        for beta in BETAS:
            star = ref * np.exp((r - r.max()) / beta)
            ratio = beta * np.log(star / star.sum() / ref)
            want = {
                "chosen": chosen @ ratio,
                "rejected": rejected @ ratio,
                "both": mu @ ratio,
                "reference": ref @ ratio,
            }
            assert Cell.of(world, laws, name, beta).means == pytest.approx(want, abs=1e-10)


@pytest.mark.slow
def test_a_tiny_story_runs_and_draws_its_page(tmp_path):
    from tokenward.report.study_page import write_study
    from tokenward.studies.study import read as read_study
    from tokenward.trained.reference import story
    from tokenward.trained.reference.plan import REFERENCES, Plan

    plan = Plan(
        betas=(0.5,), train_prompts=40, held_prompts=12, pair_prompts=16, pair_samples=6,
        tuned={"updates": 20, "rows_per_update": 8, "learning_rate": 1e-3},
        offline={"updates": 40, "rows_per_update": 8, "learning_rate": 1e-3, "probe_samples": 16, "probe_every": 2},
    )  # fmt: skip
    told = story.study(out=str(tmp_path / "a"), scale=0.1, plan=plan)
    found = json.loads((tmp_path / "a" / "results.json").read_text())
    assert set(found["runs"]) == {f"dpo-{name}-0.5" for name in REFERENCES} and "results.json" in told
    for row in found["runs"].values():
        own = row["report"]["identities"][0]
        assert own["holds"] and own["kl"]["mean"] < 0
        assert row["curve"]["update"] == [1, 3] and len(row["curve"]["chosen"]) == 4
        assert row["report"]["sets"]["chosen"]["texts"] == found["pairs"]["heldout-pairs"]
    study = read_study(tmp_path / "a" / "data.jsonl")
    assert len(study.claims) == 13 and len(study.figures) == 4
    assert "When do chosen log-probs fall" in write_study(tmp_path / "a").read_text()
