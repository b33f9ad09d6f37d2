"""The temperature that is asked for reaches everything that reads a model: fresh texts, alternatives, a guide."""

from __future__ import annotations

import pytest

from tests import tiny
from tests.diagnose.test_lens import laws, rows_of
from tests.diagnose.test_reference import ENDS, PROMPTS
from tokenward.diagnose.reference.measure import Sampling, reference_report
from tokenward.models.save import save_reward_model
from tokenward.recipes import build


def test_fresh_texts_are_scored_at_the_temperature_they_are_drawn_at():
    asked = Sampling(temperature=0.5, samples=50, max_new_tokens=6, rows=500)
    found = reference_report(tiny.tiny(seed=1), tiny.tiny(), PROMPTS, end_ids=ENDS, pad_id=tiny.PAD, sampling=asked)
    assert [one.holds for one in found.measured.identities] == [True, True]


def test_alternatives_and_a_guide_are_read_at_the_temperature_of_the_lens(tmp_path):
    seeds = {"m": 0, "r": 1, "g": 2}
    paths = {name: str(tiny.saved(tmp_path / name, seed=seed)) for name, seed in seeds.items()}
    recipe = build("rto", beta_guide=0.2, beta_kl=0.1, lam=0.0)
    critic = str(save_reward_model(tiny.tiny(seed=3, value_head=True), tiny.word_tokenizer(), tmp_path / "critic"))
    data = [{"prompt": "w3 w4", "completion": "w5 w6", "score": 0.0}]
    more = {"guide": paths["g"], "critic": critic, "temperature": 2.0}
    (row,), _ = rows_of(tmp_path, paths, data, recipe=recipe, **more)
    tokens = [3, 4, 5, 6, tiny.EOS]
    ours, theirs, its = (laws(tiny.tiny(seed=seed), tokens, temperature=2.0) for seed in seeds.values())
    places = [(t, tokens[t]) for t in (2, 3, 4)]
    wanted = [0.2 * (its[at] - theirs[at]) - 0.1 * (ours[at] - theirs[at]) for at in places]
    assert row.values["reward"] == pytest.approx(wanted, abs=1e-5)
    best = [(float(ours[t].max()), float(theirs[t, ours[t].argmax()])) for t, _ in places]
    first = [(there[0].logp, there[0].ref_logp) for there in row.alternatives]
    assert first == [pytest.approx(pair, abs=1e-5) for pair in best]
