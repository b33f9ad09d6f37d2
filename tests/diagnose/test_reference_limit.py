"""Reference diagnostics at the limit of fresh texts: long answers, samples that were cut, shares at 0 and 1."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.diagnose.test_reference import BOS, ENDS, EOS, PAD, PROMPTS, TEXTS, case, plain, samples, sure, tiny
from tokenward.data.tokenize import Demonstration, Labeled, Response
from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.findings import judge
from tokenward.diagnose.reference.mass import Mass, mass
from tokenward.diagnose.reference.measure import Sampling, measured, reference_report
from tokenward.diagnose.reference.record import OF_POLICY, OF_REFERENCE
from tokenward.diagnose.reference.texts import Text, scored
from tokenward.report.reference_page import NO_ANSWERS, reference_page


@pytest.fixture(scope="module")
def models():
    return tiny(seed=1), tiny(seed=0)


def test_first_tokens_are_compared_as_if_the_answers_had_no_more(models):
    """Against texts that end there; whole answers keep every number of their own."""

    def of(texts):
        return scored(texts, policy=models[0], reference=models[1], pad_id=PAD)

    whole = [TEXTS[0], TEXTS[1], TEXTS[3]]
    data, ends = of(whole), of([replace(text, tokens=text.tokens[:2]) for text in whole])
    fresh = {OF_REFERENCE: ends, OF_POLICY: ends}
    found, wanted = measured({"data": data, **fresh}, limit=2), measured({"data": ends, **fresh})
    for name, value in wanted.against["data"].items():
        assert found.against["data"][name].mean == pytest.approx(value.mean, abs=1e-5) == pytest.approx(0, abs=1e-5)
    assert found.first["data"].mean == pytest.approx(wanted.sets["data"].ratio.mean, abs=1e-5)
    assert found.sets["data"].ratio.mean == pytest.approx(float(data.ratio.mean()))
    assert (found.beyond, wanted.beyond, measured({"data": data, **fresh}).beyond) == (pytest.approx(2 / 3), 0, 0)


def test_the_references_own_texts_are_on_policy_at_any_limit(models):
    """Answers of six tokens, fresh texts of two: their fall is explained and called that of their first two."""
    drawn = samples(models[1], seed=3, each=2)
    rows = {prompt.tokens: prompt for prompt in PROMPTS}
    demos = [Demonstration(rows[text.prompt], Response(text.tokens, "stop")) for text in drawn]
    asked = Sampling(samples=4, max_new_tokens=2, seed=11)
    found = reference_report(*models, demos, end_ids=ENDS, pad_id=PAD, sampling=asked)
    rules = {one.rule: one for one in found.findings}
    assert {"on-policy", "long-answers"} <= rules.keys() and rules["long-answers"].number > 0.8
    assert "log π_ref of the first 2 tokens of the answers" in rules["on-policy"].text
    assert "Data (first 2 tokens) minus" in reference_page(found)
    longer = reference_report(*models, demos, end_ids=ENDS, pad_id=PAD, sampling=replace(asked, max_new_tokens=6))
    assert "long-answers" not in {one.rule for one in longer.findings}
    json.dumps(found.as_json(), allow_nan=False)


def test_an_expected_fall_speaks_of_what_was_compared():
    """The first tokens fell too, and beside them stands the exact KL, not the mean of the texts that estimates it."""
    fell = case(chosen={"ratio": sure(-5)}, reference={"ratio": sure(-0.16), "back": sure(1.27)}, gap=-0.002)
    fell = replace(fell, first={"chosen": sure(-1.5)}, limit=7, beyond=0.4)
    (told,) = [one.text for one in judge(fell)[1] if one.rule == "expected-fall"]
    assert "The first 7 tokens of the chosen answers fell by 1.50" in told and "KL(π_ref‖π) = 1.27" in told
    assert "no more than they, as far as 50 prompts tell (-0.002 ± 0.010)" in told and "0.16" not in told
    verdict, findings = judge(replace(fell, first={"chosen": sure(0.0)}))
    assert verdict == "unclear" and [one.rule for one in findings] == ["long-answers"]


@pytest.mark.parametrize("margin", [None, sure(4.1, 2.5)])
def test_a_large_fall_without_a_margin_is_not_called_expected(margin):
    """Demonstrations have no margin at all; of pairs it may be uncertain."""
    low = {"ratio": sure(-13), "token_ratio": sure(-1.3)}
    verdict, (one,) = judge(replace(case(chosen=low, reference=low), margin=margin))
    assert (verdict, one.rule, one.severity) == ("unclear", "large-fall", "warning")
    assert "lost 1.30 nats" in one.text


def test_samples_that_were_cut_are_not_called_elsewhere(models):
    data, cut = [Text((BOS, 4), (5, EOS), True)], [Text((BOS, 4), (5,), False), Text((BOS, 9), (7, 7), False)]
    sets = [scored(texts, policy=models[0], reference=models[1], pad_id=PAD) for texts in (data, cut)]
    found = mass({"data": sets[0]}, sets[1])
    assert {name: one.mean for name, one in found.sampled.items()} == {"data": 0, "elsewhere": 0, "cut": 1}
    assert found.new is None


def test_shares_stay_between_0_and_1_and_none_of_n_has_a_bound():
    near = {"data": Estimate(0.01, 0.01, 128, 64), "elsewhere": Estimate(0.99, 0.01, 128, 64)}
    plain_ = Mass(near, near, {**near, "cut": Estimate(0.0, 0.0, 128, 64)}, None).as_json()
    for part in ("before", "after", "sampled"):
        assert plain_[part]["data"] == {"mean": 0.01, "low": 0.0, "high": pytest.approx(0.0296), "se": 0.01}
        assert plain_[part]["elsewhere"]["high"] == 1
    none = plain_["sampled"]["cut"]
    assert (none["mean"], none["low"], none["se"]) == (0, 0, None)
    assert (1 - none["high"]) ** 64 == pytest.approx(0.05)  # 64 prompts would all show none in 1 of 20 draws
    every = Mass({}, {}, {"cut": Estimate(1.0, 0.0, 9, 9)}, None).as_json()["sampled"]["cut"]
    assert (every["low"] ** 9, every["high"], every["se"]) == (pytest.approx(0.05), 1, None)
    assert plain(rare=sure(0.01)).as_json()["rare"]["low"] == 0
    assert plain(surprise=sure(0.01)).as_json()["surprise"]["low"] < 0


@pytest.mark.parametrize("kind", ["prompts", "labels"])
def test_a_page_without_answers_to_raise_says_so(models, kind):
    bad = [Labeled(prompt, Response((5, EOS), "stop"), False) for prompt in PROMPTS]
    examples = PROMPTS if kind == "prompts" else bad
    asked = Sampling(samples=1, max_new_tokens=3)
    found = reference_report(*models, examples, end_ids=ENDS, pad_id=PAD, sampling=asked)
    found = replace(found, verdict="unclear")  # random models are damage
    assert NO_ANSWERS in reference_page(found) and "explained fall" not in reference_page(found)
