"""Losses that couple the whole batch, in the trainer: one gradient however the batch is cut, and what is logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import runs
from tokenward.data.collate import split
from tokenward.data.sentences import with_sentences
from tokenward.errors import InputError
from tokenward.train import loop
from tokenward.train.assemble import assemble
from tokenward.train.runtime import session
from tokenward.train.schedule import minis
from tokenward.train.settings import Settings
from tokenward.train.update import Learner, Outcome, Piece

SPANS = {"atoms": "span", "rho": 0.3}


def updated(
    folder: Path, keywords: dict, *, name: str = "drto", micro_tokens: int, drift: float = 0.0
) -> tuple[int, torch.Tensor, Outcome]:
    """(forward passes with gradient, gradient, outcome) of the first update in float64; `drift` moves the policy first.

    Moved away from the policy that sampled, some ratios are clipped and no two losses agree.
    """
    config = runs.config(
        folder, name, dtype="float64", mini_rows=8, **({"sentence_ends": "3579"} if "atoms" in keywords else {})
    )
    config = replace(config, micro_tokens=micro_tokens, grad_clip=None)
    with session(config) as runtime:
        run = assemble(Settings(name, keywords, config), runtime)
        torch.manual_seed(0)
        torch.nn.init.normal_(run.roles.policy.value_head.weight)
        batch = with_sentences(run.source.next(), ends=run.sentence_ends)
        frozen = run.roles.frozen(batch, run.recipe.needs)
        with torch.no_grad():
            for parameter in run.roles.policy.parameters():
                parameter += drift * torch.randn_like(parameter)
        piece = Piece(batch, frozen, run.recipe.signal(batch, frozen))
        learner = Learner(run.recipe, roles=run.roles, optimizer=run.optimizer, runtime=runtime, config=config)
        calls: list[bool] = []
        plain = run.roles.current
        run.roles.current = lambda *given: (calls.append(torch.is_grad_enabled()), plain(*given))[1]
        outcome = learner.step(piece.rows(minis(batch, recipe=run.recipe, config=config, number=1)[0]))
        found = [p.grad.flatten() for m in run.modules.values() for p in m.parameters() if p.grad is not None]
        return sum(calls), torch.cat(found), outcome


@pytest.mark.parametrize(("keywords", "micro_tokens"), [({"rho": 0.3}, 48), (SPANS, 48), ({"rho": 0.3}, 1)], ids=str)
def test_the_gradient_and_the_metrics_are_the_same_however_the_batch_is_cut(
    keywords: dict, micro_tokens: int, tmp_path: Path
) -> None:
    one, whole, told = updated(tmp_path, keywords, micro_tokens=10_000, drift=0.02)
    assert one == 1 and whole.abs().max() > 1e-6
    many, gradient, again = updated(tmp_path, keywords, micro_tokens=micro_tokens, drift=0.02)
    assert many > 1
    torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-12)
    assert again.loss == pytest.approx(told.loss, rel=1e-10)
    assert again.values == pytest.approx(told.values, rel=1e-9)
    assert {"robust/atoms", "robust/effective_atoms", "clip_ratio/high", "terms/policy", "entropy"} <= set(told.values)


def test_parts_apart_would_be_another_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would miss if the worst of each part were what is computed."""
    _, whole, _ = updated(tmp_path, {"rho": 0.3}, micro_tokens=10_000, drift=0.02)
    monkeypatch.setattr(Learner, "_coupled", lambda self, tally, piece, parts, weights: [
        self._apart(tally, piece.rows(index), weights) for index in parts
    ])  # fmt: skip
    _, apart, _ = updated(tmp_path, {"rho": 0.3}, micro_tokens=48, drift=0.02)
    assert float((apart - whole).abs().max()) > 1e-3 * float(whole.abs().max())


def test_rho_zero_is_rto(tmp_path: Path) -> None:
    _, plain, told = updated(tmp_path, {}, name="rto", micro_tokens=10_000, drift=0.02)
    for micro_tokens in (10_000, 48):
        _, robust, again = updated(tmp_path, {"rho": 0.0}, micro_tokens=micro_tokens, drift=0.02)
        torch.testing.assert_close(robust, plain, rtol=1e-9, atol=1e-12)
        assert again.loss == pytest.approx(told.loss, rel=1e-10)


def test_a_robust_run_logs_its_weights_and_the_guides_share(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "drto", updates=4, sentence_ends="3579", micro_tokens=40)
    loop.run(config, "drto", keywords={**SPANS, "placement": "sentence"}, show="nothing")
    told = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    updates = [event for event in told if "update" in event]
    assert len(updates) == 4
    for event in updates:
        assert 1 <= event["robust/effective_atoms"] <= event["robust/atoms"]
        assert event.get("robust/eta", 1.0) > 0
    shares = [{k: v for k, v in event.items() if k.startswith("reward_share/")} for event in updates]
    shares = [s for s in shares if s]
    assert shares and all(set(s) == {"reward_share/score", "reward_share/kl", "reward_share/guide"} for s in shares)
    assert all(sum(s.values()) == pytest.approx(1.0) for s in shares)
    assert shares[0]["reward_share/kl"] == pytest.approx(0.0, abs=1e-6)  # the policy starts as its reference


@pytest.mark.parametrize("placement", ["sentence", "end", "residual"])
def test_every_placement_trains(placement: str, tmp_path: Path) -> None:
    ends = {"sentence_ends": "3579"} if placement == "sentence" else {}
    config = runs.config(tmp_path, "rto", updates=2, **ends)
    result = loop.run(config, "rto", keywords={"placement": placement, "beta_score": 0.5}, show="nothing")
    assert result.updates == 2


def test_without_a_token_that_ends_a_sentence_it_is_said(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "rto", updates=1)
    with pytest.raises(InputError, match=r"no token of .* ends with one of .* give --sentence-ends"):
        loop.run(config, "rto", keywords={"placement": "sentence"}, show="nothing")
    with pytest.raises(InputError, match="sentence_ends = '7' has no effect here"):
        loop.run(replace(config, sentence_ends="7"), "rto", show="nothing")


def test_a_separate_reference_of_the_guide_is_read(tmp_path: Path) -> None:
    """The guide as its own reference pays nothing; the policy's reference would."""
    config = runs.config(tmp_path, "rto", updates=1)
    told = loop.run(replace(config, guide_ref=config.guide), "rto", show="nothing").event
    assert told["guide"] == pytest.approx(0.0, abs=1e-6) and told["reward_share/guide"] == pytest.approx(0.0, abs=1e-6)
    (tmp_path / "b").mkdir()
    other = loop.run(replace(config, out=str(tmp_path / "b")), "rto", show="nothing").event
    assert abs(other["guide"]) > 1e-2 and other["reward_share/guide"] > 1e-3


def test_the_whole_batch_is_one_unit(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "drto")
    with session(config) as runtime:
        run = assemble(Settings("drto", {}, config), runtime)
        assert run.recipe.scope == "batch"
        batch = run.source.next()
        assert [part.tolist() for part in split(batch, max_tokens=1, scope=run.recipe.scope)] == [
            list(range(batch.rows))
        ]
