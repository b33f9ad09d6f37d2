"""Estimates with clustered errors, preferences, a model's own samples, and the ceiling, each against a known answer."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.tiny import BOS, EOS, PAD, saved, tiny, word_tokenizer
from tokenward.data.tokenize import Pair, Prompt, Response
from tokenward.diagnose.evaluate import completions, evaluate, preferences, sample
from tokenward.diagnose.measures.ceiling import ceiling, gibbs_point, reward_at
from tokenward.diagnose.measures.intervals import estimate
from tokenward.errors import InputError
from tokenward.models.save import save_reward_model
from tokenward.rollout.sampler import GenerateSampler


def test_the_standard_error_of_independent_values():
    """1, 2, 3, 6: mean 3, s² = (4 + 1 + 0 + 9)/3, s.e. = √(14/3)/2."""
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert (found.mean, found.count, found.clusters) == (3.0, 4, 4)
    assert found.se == pytest.approx(math.sqrt(14 / 3) / 2)


def test_copies_within_a_cluster_add_nothing():
    alone = estimate([1.0, 2.0, 3.0, 6.0])
    copied = estimate([1.0, 2.0, 3.0, 6.0] * 5, clusters=[0, 1, 2, 3] * 5)
    assert copied.mean == alone.mean and copied.se == pytest.approx(alone.se)
    assert (copied.count, copied.clusters) == (20, 4)
    assert estimate([1.0, 2.0, 3.0, 6.0] * 5).se < alone.se / 2


def test_one_cluster_has_no_standard_error():
    assert math.isnan(estimate([1.0, 2.0], clusters=["a", "a"]).se)
    with pytest.raises(InputError, match="a mean needs at least one value"):
        estimate([])


# --- preferences -------------------------------------------------------------------------------------------------

PAIRS = [
    Pair(Prompt(i, (BOS, *prompt), ""), Response((*chosen, EOS), "stop"), Response((*rejected, EOS), "stop"))
    for i, (prompt, chosen, rejected) in enumerate(
        [((4,), (5, 6), (7,)), ((4,), (9,), (8, 8)), ((5, 6), (10, 11), (12, 13)), ((9,), (3,), (3, 4, 5))]
    )
]


def logp(model, prompt, response):
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        law = model.causal_lm(input_ids=ids).logits.log_softmax(-1)[0]
    return sum(float(law[len(prompt) + i - 1, token]) for i, token in enumerate(response))


def test_preferences_count_positive_margins_beside_the_longer_answer():
    policy, reference = tiny(seed=0), tiny(seed=1)
    margins = []
    for pair in PAIRS:
        worth = [
            0.5 * (logp(policy, pair.prompt.tokens, r.tokens) - logp(reference, pair.prompt.tokens, r.tokens))
            for r in (pair.chosen, pair.rejected)
        ]
        margins.append(worth[0] - worth[1])
    found = preferences(PAIRS, model=policy, reference=reference, beta=0.5, pad_id=PAD)
    assert found.numbers["margin"].mean == pytest.approx(sum(margins) / 4, abs=1e-5)
    assert found.numbers["accuracy"].mean == sum(m > 0 for m in margins) / 4
    assert 0 < found.numbers["accuracy"].mean < 1  # or the test above could not fail
    assert found.numbers["longer_wins"].mean == (1 + 0 + 0.5 + 0) / 4
    assert found.numbers["accuracy"].clusters == 3  # two pairs share their prompt


def test_a_model_that_is_its_reference_prefers_nothing():
    assert preferences(PAIRS, model=tiny(), reference=tiny(), beta=0.1, pad_id=PAD).numbers["accuracy"].mean == 0.5


def test_a_reward_model_is_judged_by_its_scores():
    model = tiny(value_head=True)
    found = preferences(PAIRS, model=model, reference=None, beta=0.1, pad_id=PAD)

    def score(pair, response):
        with torch.no_grad():
            hidden = model.backbone(input_ids=torch.tensor([[*pair.prompt.tokens, *response.tokens]])).last_hidden_state
            return float(model.value_head(hidden[0, -1]))

    margins = [score(pair, pair.chosen) - score(pair, pair.rejected) for pair in PAIRS]
    assert found.numbers["margin"].mean == pytest.approx(sum(margins) / 4, abs=1e-5)


# --- samples -----------------------------------------------------------------------------------------------------

PROMPTS = [Prompt(i, (BOS, 3 + i), f"w{3 + i}") for i in range(4)]


class Length:
    def score(self, rollouts, prompts):

        return [
            replace(r, score=float(len(r.response_tokens)), parts={"first": float(r.response_tokens[0])})
            for r in rollouts
        ]


def rollouts(policy, *, samples=3, new=5):
    sampler = GenerateSampler(policy, end_ids=[EOS, *range(20, 30)], pad_id=PAD, max_new_tokens=new, seed=1)
    return sample(sampler, PROMPTS, samples=samples, reward=Length())


def test_samples_give_reward_parts_kl_and_length():
    policy, reference = tiny(seed=0), tiny(seed=1)
    texts = rollouts(policy)
    found = completions(texts, policy=policy, reference=reference, pad_id=PAD).numbers
    ratios = [
        sum(r.logp) - logp(reference, r.prompt_tokens, r.response_tokens) for r in texts
    ]  # the sampler's own law is the policy's
    assert found["kl"].mean == pytest.approx(sum(ratios) / len(ratios), abs=1e-4)
    assert (
        found["reward"]
        == found["length"]
        == estimate([float(len(r.response_tokens)) for r in texts], clusters=[r.prompt_id for r in texts])
    )
    assert found["reward/first"].mean == pytest.approx(sum(r.response_tokens[0] for r in texts) / 12)
    assert 0 < found["cut"].mean == sum(r.finish == "length" for r in texts) / 12 < 1
    assert (found["kl"].count, found["kl"].clusters) == (12, 4)


def test_the_kl_is_the_exact_one_within_its_error():
    """One token: KL = Σ_v π log π/π_ref from the logits, against the mean over samples."""
    policy, reference = tiny(seed=0), tiny(seed=1)
    texts = rollouts(policy, samples=200, new=1)
    found = completions(texts, policy=policy, reference=reference, pad_id=PAD).numbers["kl"]
    ids = torch.tensor([p.tokens for p in PROMPTS])
    with torch.no_grad():
        ours, theirs = (m.causal_lm(input_ids=ids).logits[:, -1].log_softmax(-1) for m in (policy, reference))
    exact = float((ours.exp() * (ours - theirs)).sum(-1).mean())
    ratio = ours - theirs
    variance = (ours.exp() * ratio.square()).sum(-1) - (ours.exp() * ratio).sum(-1).square()
    assert abs(found.mean - exact) < 4 * math.sqrt(float(variance.sum()) * 200) / 800 < 0.3 * exact


def test_without_reference_or_reward_their_numbers_are_absent():
    texts = [r.__class__(**{**vars(r), "score": None, "parts": None}) for r in rollouts(tiny())]
    assert set(completions(texts, policy=tiny(), reference=None, pad_id=PAD).numbers) == {"length", "cut"}
    with pytest.raises(InputError, match="there is no completion"):
        completions([], policy=tiny(), reference=None, pad_id=PAD)


# --- the command's work --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    saved(folder / "model"), saved(folder / "ref", seed=1)
    scorer = tiny(value_head=True)
    save_reward_model(scorer, word_tokenizer(), folder / "judge")
    pairs = [
        {"prompt": "w4", "chosen": "w5 w6", "rejected": "w7"},
        {"prompt": "w5", "chosen": "w9", "rejected": "w8 w8"},
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "prompts.jsonl").write_text('{"prompt": "w4"}\n{"prompt": "w5 w6"}\n')
    (folder / "demos.jsonl").write_text('{"prompt": "w4", "completion": "w5"}\n')
    (folder / "judge.py").write_text(
        "def count(prompts, texts, columns):\n    return [len(t.split()) for t in texts]\n"
    )
    return folder


def test_pairs_and_prompts_are_told_apart_by_their_columns(world):
    pairs = evaluate(str(world / "model"), data=str(world / "pairs.jsonl"), ref=str(world / "ref"))
    assert pairs.kind == "pairs" and pairs.plain()["count"] == 2 and pairs.plain()["longer_wins"] == 0.5
    prompts = evaluate(
        str(world / "model"), data=str(world / "prompts.jsonl"), ref=str(world / "ref"),
        reward=f"{world / 'judge.py'}:count", samples=3, max_new_tokens=4,
    )  # fmt: skip
    plain = prompts.plain()
    assert plain["kind"] == "prompts" and (plain["count"], plain["prompts"]) == (6, 2)
    assert set(prompts.numbers) == {"reward", "kl", "length", "cut"}
    assert "6 texts, 2 prompts; mean ± s.e., clustered by prompt" in str(prompts)
    assert evaluate(str(world / "judge"), data=str(world / "pairs.jsonl")).kind == "pairs"


@pytest.mark.parametrize(
    ("model", "data", "given", "message"),
    [
        ("model", "pairs.jsonl", {}, "holds pairs: the implicit reward .* give --ref"),
        ("model", "demos.jsonl", {}, "holds demos; eval reads pairs, or prompts"),
        ("judge", "prompts.jsonl", {}, "is a reward model and writes no texts"),
        ("judge", "pairs.jsonl", {"ref": "ref"}, "is a reward model: .* leave out --ref"),
        ("model", "pairs.jsonl", {"ref": "ref", "reward": "judge.py:count"}, "holds pairs, and --reward .* leave it"),
    ],
)
def test_what_cannot_be_evaluated_is_said(world, model, data, given, message):
    with pytest.raises(InputError, match=message):
        evaluate(str(world / model), data=str(world / data), **{name: str(world / v) for name, v in given.items()})


def test_a_reference_that_reads_other_tokens_is_refused(world, tmp_path):
    other = saved(tmp_path / "other", seed=1, words=38)
    for data in ("pairs.jsonl", "prompts.jsonl"):
        with pytest.raises(
            InputError, match=r"^--ref \S+other has another tokenizer .*2 entries differ.*the same base$"
        ):
            evaluate(str(world / "model"), data=str(world / data), ref=str(other))


def test_a_run_directory_stands_for_its_model(world, tmp_path):
    for name in ("model", "ref"):
        shutil.copytree(world / name, tmp_path / name / "model")
    one, two = (
        evaluate(str(folder / "model"), data=str(world / "pairs.jsonl"), ref=str(folder / "ref")).plain()
        for folder in (world, tmp_path)
    )
    assert one == two


# --- the ceiling ---------------------------------------------------------------------------------------------------


def bandit(seed=0, *, prompts=6, outcomes=5, size=600):
    """Rewards of samples that stand in exact proportion to a law, the law, and the reward of each outcome."""
    random = torch.Generator().manual_seed(seed)
    counts = torch.stack([torch.randperm(outcomes, generator=random) * 20 + 80 for _ in range(prompts)])
    reward = torch.randn(prompts, outcomes, generator=random, dtype=torch.float64)
    rows = [[float(reward[p, k]) for k in range(outcomes) for _ in range(int(counts[p, k]))] for p in range(prompts)]
    assert {len(row) for row in rows} == {size}
    return rows, counts.double() / size, reward


def test_a_gibbs_point_on_exact_proportions_is_the_gibbs_policy():
    rows, law, reward = bandit()
    point = gibbs_point(torch.tensor(rows), beta=0.7)
    gibbs = (law.log() + reward / 0.7).softmax(-1)
    assert point.reward == pytest.approx(float((gibbs * reward).sum(-1).mean()), abs=1e-6)
    assert point.kl == pytest.approx(float((gibbs * (gibbs / law).log()).sum(-1).mean()), abs=1e-6)


def test_no_policy_is_above_the_ceiling():
    rows, law, reward = bandit()
    points = ceiling(rows)
    random = torch.Generator().manual_seed(1)
    compared = 0
    for size in torch.linspace(0.05, 2.0, 400).tolist():
        policy = (
            law.log() + size * torch.randn(law.shape, generator=random, dtype=torch.float64) + 0.3 * size * reward
        ).softmax(-1)
        value = float((policy * reward).sum(-1).mean())
        top = reward_at(points, float((policy * (policy / law).log()).sum(-1).mean()))
        if top is not None:
            compared += 1
            assert value <= top[0] + 0.01  # chords of the curve
    assert compared > 100


def test_the_ceiling_starts_at_the_sft_policy_and_rises():
    rows, law, reward = bandit()
    points = ceiling(rows)
    assert points[0].kl < 1e-3 and points[0].reward == pytest.approx(float((law * reward).sum(-1).mean()), abs=0.05)
    assert all(a.kl < b.kl and a.reward < b.reward and a.effective > b.effective for a, b in pairwise(points))


def test_the_ceiling_stops_where_samples_run_out():
    rows, _, _ = bandit()
    assert all(point.effective >= 200 for point in ceiling(rows, least=200.0))
    assert ceiling(rows, least=200.0)[-1].kl < ceiling(rows)[-1].kl
    assert reward_at(ceiling(rows, least=200.0), 100.0) is None
    with pytest.raises(InputError, match=r"same number of samples, 50 or more, of every prompt; got \[10\]"):
        ceiling([[0.0] * 10])
    with pytest.raises(InputError, match=r"got \[60, 70\]"):
        ceiling([[0.0] * 60, [1.0] * 70])
