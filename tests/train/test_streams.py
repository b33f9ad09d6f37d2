"""Rollouts of several laws: who writes them, how they stand in a batch, which groups are dropped."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import runs
from tests.rollout.test_sampler import PROMPTS, sampler, scored
from tests.tiny import llama, tiny
from tests.train.test_loop import column
from tests.train.test_resume import killed_after, same
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, RunError
from tokenward.models.adapters import adapters_off, add_lora
from tokenward.models.load import scorer as scorer_of
from tokenward.objective.recipe import Stream
from tokenward.recipes import RECIPES, build, idle
from tokenward.rollout.mixture import Mixture
from tokenward.rollout.sampler import Law
from tokenward.rollout.source import RolloutSource, Writer
from tokenward.train import loop
from tokenward.train.assemble import assemble
from tokenward.train.fit import check
from tokenward.train.runtime import session
from tokenward.train.schedule import minis
from tokenward.train.settings import Settings
from tokenward.types import Rollout

DROPPING = '''
from tokenward.objective.recipe import Stream
from tokenward.recipes import build
from dataclasses import replace


def dropping(*, beta_kl: float = 0.05):
    """RLOO on groups of 3 whose scores differ."""
    streams = (Stream("rollouts", group=3, keep="mixed"),)
    return replace(build("rloo", beta_kl=beta_kl), name="dropping", streams=streams)
'''


# ------------------------------------------------------------------------------------------------- who writes an answer


def mixed_law(one, other, tokens, share, temperature=1.0):
    """log of ∝ π^{1−c}·π_other^c at each place of the rows, from two plain forward passes."""
    logits = [model.causal_lm(tokens).logits.double() / temperature for model in (one, other)]
    return ((1 - share) * logits[0].detach() + share * logits[1].detach()).log_softmax(-1)


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1.0), (0.7, 0.6), (0.0, 1.0), (1.0, 1.0)])
def test_a_mixture_writes_down_the_law_it_drew_from(share, temperature):
    one, other = tiny(), tiny(seed=5)
    writer = sampler(one, law=Law(temperature=temperature), mixture=Mixture(other, share))
    rollouts = [r for g in writer.generate(PROMPTS, group=4, version=0) for r in g]
    assert {len(r.response_tokens) for r in rollouts} != {12}
    for r in rollouts:
        law = mixed_law(one, other, torch.tensor([[*r.prompt_tokens, *r.response_tokens]]), share, temperature)[0]
        start = len(r.prompt_tokens) - 1
        want = [float(law[start + i, token]) for i, token in enumerate(r.response_tokens)]
        torch.testing.assert_close(torch.tensor(r.logp), torch.tensor(want), rtol=1e-4, atol=1e-5)


def test_the_ends_of_a_mixture_are_its_two_models():
    one, other = tiny(), tiny(seed=5)

    def written(scorer, **more):
        return [r.response_tokens for g in sampler(scorer, **more).generate(PROMPTS, group=3, version=0) for r in g]

    assert written(one, mixture=Mixture(other, 0.0)) == written(one)
    assert written(one, mixture=Mixture(other, 1.0)) == written(other)
    assert written(one) != written(other)


def adapted():
    """A policy whose adapters say something, and the model that it had been."""
    model = llama(seed=3)
    base = scorer_of(llama(seed=3))
    policy = scorer_of(model, peft=add_lora(model, rank=2, alpha=4.0, targets=None, seed=0))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    return policy, base


def test_without_its_adapters_a_policy_writes_what_its_reference_says_and_mixes_with_it():
    policy, base = adapted()
    rollouts = [r for g in sampler(policy, adapters="off").generate(PROMPTS, group=3, version=0) for r in g]
    for rollout, want in zip(rollouts, scored(base, rollouts), strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logp), want, rtol=1e-4, atol=1e-4)
    both = sampler(policy, mixture=Mixture(policy, 0.4, "off"))
    for r in next(iter(both.generate(PROMPTS[:1], group=3, version=0))):
        tokens = torch.tensor([[*r.prompt_tokens, *r.response_tokens]])
        with torch.no_grad():
            on = policy.causal_lm(tokens).logits.double()
            with adapters_off(policy):
                off = policy.causal_lm(tokens).logits.double()
        law = (0.6 * on + 0.4 * off).log_softmax(-1)[0]
        start = len(r.prompt_tokens) - 1
        want = [float(law[start + i, token]) for i, token in enumerate(r.response_tokens)]
        torch.testing.assert_close(torch.tensor(r.logp), torch.tensor(want), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ rows of a batch


class Fixed:
    """A sampler that writes one token per answer: a running number, which is also its score."""

    def __init__(self, first: int, step: int = 1) -> None:
        self.next, self.step, self.asked = first, step, 0

    def generate(self, prompts, *, group, version):
        for prompt in prompts:
            self.asked += 1
            found = []
            for _ in range(group):
                token, score = 3 + self.next % 30, float(self.next)
                found.append(Rollout(prompt.id, prompt.tokens, (token,), (True,), (0.0,), "stop", version, score))
                self.next += self.step
            yield found

    def push(self, weights, version):
        del weights, version

    def metrics(self):
        return {}

    def state(self):
        return {"next": self.next}

    def load_state(self, state):
        self.next = int(state["next"])


def prompts(number):
    return [Prompt(id=i, tokens=(2, 5), text=f"p{i}", where=f"line {i + 1}") for i in range(number)]


def test_all_rows_of_a_prompt_stand_together_stream_after_stream():
    source = RolloutSource(
        prompts(5),
        sampler=Fixed(100),
        beside=[Writer(Fixed(0, step=0), 1), Writer(Fixed(500), 3)],
        reward=None,
        pad_id=0,
        group=2,
        prompts_per_batch=2,
        compared={(0, 1), (0, 0)},
        order="file",
    )
    batch = source.next()
    assert batch.origin.tolist() == [0, 0, 1, 2, 2, 2] * 2
    assert batch.group.tolist() == [0] * 6 + [1] * 6
    assert batch.score.tolist() == [100, 101, 0, 500, 501, 502, 102, 103, 0, 503, 504, 505]
    assert batch.pairs.tolist() == [[1, 0], [0, 2], [1, 2], [7, 6], [6, 8], [7, 8]]
    state = source.state()
    after = source.next()
    assert after.group.tolist() == [2] * 6 + [3] * 6
    source.load_state(state)
    assert torch.equal(source.next().score, after.score)


def test_mini_rows_count_the_first_stream_and_rows_that_no_term_reads_stay_out(tmp_path):
    config = runs.config(tmp_path, "remax", mini_rows=4, rollout_rows=8, epochs=1)
    with session(config) as runtime:
        for name, per_prompt in (("remax", 1), ("xpo", 2)):
            run = assemble(Settings(name, {}, config), runtime)
            batch = run.source.next()
            assert batch.rows == 16
            parts = minis(batch, recipe=run.recipe, config=config, number=1)
            assert [len(rows) for rows in parts] == [4 * per_prompt] * 2
            origin = {int(o) for rows in parts for o in batch.origin[rows]}
            assert origin == ({0} if name == "remax" else {0, 1})


def test_equal_models_write_different_answers_for_policy_and_reference(tmp_path):
    """At the start π = π_ref: with one seed for both streams every pair would be an answer and itself."""
    config = runs.config(tmp_path, "xpo", rollout_rows=8)
    with session(config) as runtime:
        batch = assemble(Settings("xpo", {}, config), runtime).source.next()
    same_tokens = (batch.tokens[0::2] == batch.tokens[1::2]).all(-1)
    assert int(same_tokens.sum()) <= 1
    assert batch.pairs.sort(-1).values.tolist() == [[2 * i, 2 * i + 1] for i in range(8)]
    first, second = batch.score[batch.pairs].unbind(-1)
    assert (first >= second).all()


def test_a_greedy_row_is_the_likeliest_token_at_each_place(tmp_path):
    config = runs.config(tmp_path, "remax", rollout_rows=4, mini_rows=4)
    with session(config) as runtime:
        run = assemble(Settings("remax", {"beta_kl": 0.0}, config), runtime)
        assert run.roles.reference is None  # no KL and no answers of it
        batch = run.source.next()
        for row in (batch.origin == 1).nonzero().flatten().tolist():
            tokens, n = batch.tokens[row], int(batch.length[row])
            best = run.roles.policy.causal_lm(tokens[None, :n]).logits[0].argmax(-1)
            places = batch.mask[row].nonzero().flatten()
            assert torch.equal(best[places - 1], tokens[places])


# ----------------------------------------------------------------------------------------------------- dynamic sampling


class Levels:
    """Scores by prompt: all answers alike, but for prompts in `mixed`."""

    def __init__(self, mixed) -> None:
        self.mixed = mixed

    def score(self, rollouts, prompts):
        return [replace(r, score=float(i % 2) if r.prompt_id in self.mixed else 1.0) for i, r in enumerate(rollouts)]


def dropping(number, mixed, **more):
    return RolloutSource(
        prompts(number),
        sampler=Fixed(0),
        reward=Levels(mixed),
        pad_id=0,
        group=2,
        prompts_per_batch=3,
        keep="mixed",
        order="file",
        **more,
    )


def test_flat_groups_are_dropped_and_the_next_prompts_take_their_place():
    source = dropping(8, {1, 4, 6, 7})
    batch = source.next()
    assert batch.group.unique().tolist() == [1, 4, 6]  # 0 2 3 5 are flat
    assert source.metrics()["groups/dropped"] == pytest.approx(1 - 3 / 7)
    assert source.sampler.asked == 7 == source.state()["taken"]
    assert source.where(4) == "line 5"
    again = source.next()  # goes on at prompt 7, then in the next pass
    assert again.group.tolist()[:4] == [7, 7, 1, 1]
    assert source.where(int(again.group[-1])) == "line 5"
    assert source.metrics()["groups/dropped"] == pytest.approx(1 - 3 / 6)
    later = dropping(8, {1, 4, 6, 7})
    later.load_state(source.state())  # goes on in the middle of a batch
    assert (later.where(4), later.where(99)) == ("line 5", "a prompt that the batch holds twice")


def test_a_cap_on_the_prompts_asked_is_one_line():
    with pytest.raises(RunError) as error:
        dropping(8, {1}, max_rounds=2).next()
    assert str(error.value) == (
        "dynamic sampling: 5 of the 6 prompts asked for one batch have scores that are all equal, so 1 of 3 groups are "
        "there: give a reward that tells answers apart, a larger --group, or a larger --max-rounds"
    )


def test_a_run_that_drops_groups_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(DROPPING, encoding="utf-8")
    reward = "def coarse(prompts, completions, columns):\n    return [float('w7' in text) for text in completions]\n"
    name = f"{tmp_path / 'own.py'}:dropping"
    made = {"rollout_rows": 6, "mini_rows": 3, "group": 3, "updates": 7, "save_every": 1, "max_rounds": 60}
    config = runs.config(tmp_path, "rloo", **made)
    (tmp_path / "reward.py").write_text(reward, encoding="utf-8")
    config = replace(config, reward=f"{tmp_path / 'reward.py'}:coarse")
    loop.run(config, name, show="nothing")
    assert max(column(tmp_path, "groups/dropped")) > 0
    assert all(0 < score < 1 for score in column(tmp_path, "score"))
    again = replace(config, out=str(tmp_path / "again"))
    killed_after(3, again, name, monkeypatch)
    torch.manual_seed(9)
    random.seed(9)
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))


# --------------------------------------------------------------------------------------------------- what cannot be run


def test_what_cannot_be_run_is_said_in_one_line(tmp_path):
    config = runs.config(tmp_path, "xpo")
    rloo = build("rloo")
    mixed = replace(rloo, streams=(Stream("rollouts", group=2, keep="mixed"),))
    for recipe, settings, text in [
        (build("xpo"), {"max_rounds": 3}, "max_rounds = 3 has no effect: xpo drops no groups"),
        (build("xpo"), {"reward": None}, "xpo: PairTerm needs score"),
        (build("nash_md"), {"reward": None}, "nash_md: WinRate needs score"),
        (mixed, {"reward": None, "group": 2}, "rloo drops groups of equal scores and nothing scores"),
        (mixed, {"group": 1}, "group = 1: rloo needs 2 or more completions of a prompt"),
        (build("nash_md"), {"ref": "cached"}, "ref = cached serves recipes that read ref_logp of the rows of a file"),
        (build("remax", beta_kl=0.0), {"ref": "copy"}, "ref = 'copy' has no effect here"),
    ]:
        with pytest.raises(InputError) as error:
            check(recipe, replace(config, **settings))
        assert text in str(error.value)
    check(build("nash_md", beta_kl=0.0), replace(config, ref="copy"))  # its opponent is half the reference


@pytest.mark.slow
def test_online_dpo_raises_a_simple_reward(tmp_path: Path) -> None:
    made = {"updates": 40, "rollout_rows": 32, "mini_rows": 32, "epochs": 1, "learning_rate": 3e-3}
    config = runs.config(tmp_path, "online_dpo", **made)
    loop.run(config, "online_dpo", keywords={"beta": 0.05, "label_temperature": 0.1}, show="nothing")
    score = column(tmp_path, "score")
    assert sum(score[-5:]) / 5 > sum(score[:5]) / 5 + 0.15


def test_keywords_that_change_nothing_are_told(tmp_path, capsys):
    """Each differs from its default, and the recipe is the same without it."""
    keywords = {"placement": "sentence", "beta_guide": 0.0, "beta_score": 0.5}
    assert idle("rto", keywords) == ["rto: placement = sentence has no effect with these settings"]
    assert idle("rto", {"placement": "sentence"}) == [] == idle("ppo", {"kl_target": 3.0, "kl_horizon": 50.0})
    assert idle("pra", {"label_temperature": 2.0, "labels": "hard"}) == [
        "pra: label_temperature = 2.0 has no effect with these settings"
    ]
    assert all(idle(name, {}) == [] for name in RECIPES)
    made = runs.config(tmp_path, "ppo", updates=1)
    loop.run(made, "ppo", keywords={"kl_horizon": 50.0}, show="lines")
    assert "ppo: kl_horizon = 50.0 has no effect with these settings\n" in "".join(capsys.readouterr())
