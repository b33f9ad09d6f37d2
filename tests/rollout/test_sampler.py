"""rollout/sampler.py: what is recorded is the law that was sampled from."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GenerationConfig

from tests.tiny import EOS, PAD, llama, tiny
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.adapters import adapters_off, add_lora
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.types import Batch

PROMPTS = [
    Prompt(id=4, tokens=(2, 9, 11), text="a"),
    Prompt(id=7, tokens=(2, 30), text="b"),
    Prompt(id=5, tokens=(2, 8, 8, 21, 13, 5), text="c"),
]


def sampler(scorer=None, **changes):
    settings = {"end_ids": (EOS,), "pad_id": PAD, "max_new_tokens": 12, "rows": 8, "seed": 3} | changes
    return GenerateSampler(scorer or tiny(), **settings)


def scored(scorer, rollouts, *, temperature: float = 1.0):
    """The trainer's own logp of the same tokens, right-padded."""
    rows = [torch.tensor([*r.prompt_tokens, *r.response_tokens]) for r in rollouts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    length = torch.tensor([len(row) for row in rows])
    place = torch.arange(tokens.shape[1])[None]
    start = torch.tensor([len(r.prompt_tokens) for r in rollouts])[:, None]
    mask = (place >= start) & (place < length[:, None])
    batch = Batch(tokens=tokens, length=length, mask=mask, group=torch.zeros_like(length), weight=torch.ones(len(rows)))
    logp = scorer(batch, fields=frozenset({"logp"}), temperature=temperature).logp.detach()
    return [logp[i][mask[i]] for i in range(len(rows))]


def check_logp(scorer, rollouts, *, temperature: float = 1.0) -> None:
    for rollout, want in zip(rollouts, scored(scorer, rollouts, temperature=temperature), strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logp), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_recorded_logp_is_the_trainers_own(temperature):
    scorer = tiny()
    groups = list(sampler(scorer, law=Law(temperature=temperature)).generate(PROMPTS, group=5, version=2))
    assert [[r.prompt_id for r in g] for g in groups] == [[4] * 5, [7] * 5, [5] * 5]
    rollouts = [r for g in groups for r in g]
    assert len({r.response_tokens for r in rollouts}) > 10
    assert {r.version for r in rollouts} == {2}
    assert {r.finish for r in rollouts} == {"stop", "length"}
    for r in rollouts:
        assert all(r.trainable) and EOS not in r.response_tokens[:-1]
        assert (r.finish == "stop") == (r.response_tokens[-1] == EOS)
        assert r.finish == "stop" or len(r.response_tokens) == 12
    check_logp(scorer, rollouts, temperature=temperature)


@pytest.mark.parametrize(("top_k", "top_p"), [(4, None), (None, 0.6), (6, 0.7)])
def test_with_a_kept_set_logp_is_renormalized_over_it(top_k, top_p):
    scorer = tiny()
    law = Law(temperature=1.3, top_k=top_k, top_p=top_p)
    rollouts = [r for g in sampler(scorer, law=law).generate(PROMPTS, group=6, version=0) for r in g]
    kept_sizes = set()
    for r in rollouts:
        ids = torch.tensor([[*r.prompt_tokens, *r.response_tokens]])
        probabilities = (scorer.causal_lm(ids).logits[0].double() / 1.3).softmax(-1)
        for i, token in enumerate(r.response_tokens):
            order = sorted(enumerate(probabilities[len(r.prompt_tokens) - 1 + i].tolist()), key=lambda x: -x[1])
            order = order[:top_k] if top_k else order
            if top_p:
                total, kept = sum(p for _, p in order), []
                for pair in order:
                    kept.append(pair)
                    if sum(p for _, p in kept) >= top_p * total:
                        break
                order = kept
            kept_sizes.add(len(order))
            law_here = dict(order)
            want = torch.tensor(law_here[token] / sum(law_here.values())).log()
            torch.testing.assert_close(torch.tensor(r.logp[i]), want.float(), rtol=1e-4, atol=1e-5)
    assert max(kept_sizes) < 40
    assert top_p is None or min(kept_sizes) < max(kept_sizes)


def test_draws_follow_the_law():
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5, -30.0])
    law = Law(temperature=0.8, top_p=0.9)
    rows = 40_000
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    token, logp = law.draw(logits.expand(rows, -1), uniform)
    want = law.logp(logits[None])[0].exp()
    seen = torch.bincount(token, minlength=5) / rows
    assert (want == 0).tolist() == [False, False, True, False, True]
    assert (seen[want == 0] == 0).all()
    assert float((seen - want).abs().max()) < 4 * (0.25 / rows) ** 0.5
    torch.testing.assert_close(logp, want.log()[token])


def test_the_ends_of_the_interval_never_draw_a_token_of_probability_zero():
    law = Law(top_k=2)
    logits = torch.tensor([[-torch.inf, 3.0, 1.0, 2.0, -torch.inf]]).expand(2, -1)
    token, _ = law.draw(logits, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64))
    assert token.tolist() == [1, 3]


def test_a_tiny_tail_is_drawn_where_float32_sums_would_lose_it():
    """One token of mass ≈ 1 and then 1000 of 1e-8: float32's step below 1 is 6e-8."""
    logits = torch.full((1, 1001), 1e-8).log()
    logits[0, 0] = 0.0
    wanted = torch.tensor([1, 2, 499, 500, 501, 999, 1000])
    from_the_end = (1000 - wanted.double() + 0.5) * 1e-8 / (1 + 1e-5)
    token, _ = Law().draw(logits.expand(len(wanted), -1), 1 - from_the_end)
    assert token.tolist() == wanted.tolist()


def test_temperature_zero_is_transformers_greedy():
    scorer = tiny()
    rollouts = [r for g in sampler(scorer, law=Law(temperature=0.0)).generate(PROMPTS, group=1, version=0) for r in g]
    for r, prompt in zip(rollouts, PROMPTS, strict=True):
        config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
        greedy = scorer.causal_lm.generate(torch.tensor([prompt.tokens]), generation_config=config)
        assert list(r.response_tokens) == greedy[0, len(prompt.tokens) :].tolist()
        assert set(r.logp) == {0.0}


def test_the_models_own_generation_settings_do_not_interfere():
    plain, meddled = tiny(), tiny()
    meddled.causal_lm.generation_config = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=[3, 4, 5], min_new_tokens=10, top_k=2,
        temperature=0.1, do_sample=True, num_beams=1, eos_token_id=[17, 3], max_length=5, forced_eos_token_id=6,
    )  # fmt: skip
    own = meddled.causal_lm.generation_config
    one, two = (list(sampler(s).generate(PROMPTS, group=4, version=0)) for s in (plain, meddled))
    assert one == two
    assert meddled.causal_lm.generation_config is own


def test_the_random_state_can_be_saved_and_does_not_depend_on_when_rows_stop():
    first = sampler()
    list(first.generate(PROMPTS, group=2, version=0))
    state = json.loads(json.dumps(first.state()))
    second = sampler(seed=99)
    second.load_state(state)
    one, two = (list(s.generate(PROMPTS, group=3, version=1)) for s in (first, second))
    assert one == two
    assert first.state() == second.state()
    stopping, running = sampler(end_ids=range(40), seed=5), sampler(end_ids=(), seed=5)
    short, long = (list(s.generate(PROMPTS, group=3, version=1)) for s in (stopping, running))
    assert {len(r.response_tokens) for g in short for r in g} == {1}
    assert {len(r.response_tokens) for g in long for r in g} == {12}
    assert stopping.state() == running.state()


def test_several_end_tokens_and_padding_is_not_one_of_them():
    scorer = tiny()
    with torch.no_grad():
        scorer.lm_head.weight[PAD] = scorer.lm_head.weight[3]  # padding is as likely as a word
    rollouts = [
        r for g in sampler(scorer, end_ids=(EOS, 22, 30), max_new_tokens=30).generate(PROMPTS, group=40, version=0)
        for r in g
    ]  # fmt: skip
    ends = {r.response_tokens[-1] for r in rollouts if r.finish == "stop"}
    assert ends == {EOS, 22, 30}
    assert any(PAD in r.response_tokens[:-1] for r in rollouts)
    check_logp(scorer, rollouts)


def test_a_model_whose_begin_is_its_end():
    """As in stories260K: the prompt starts with the end token, and only a second one ends the response."""
    scorer = tiny()
    prompts = [Prompt(id=0, tokens=(EOS,), text=""), Prompt(id=1, tokens=(EOS, 9, 4), text="x")]
    rollouts = [r for g in sampler(scorer).generate(prompts, group=20, version=0) for r in g]
    assert any(r.finish == "stop" and len(r.response_tokens) > 1 for r in rollouts)
    assert all(r.prompt_tokens[0] == EOS and len(r.response_tokens) >= 1 for r in rollouts)
    check_logp(scorer, rollouts)


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_groups_stay_whole_however_rows_are_cut(rows):
    groups = list(sampler(rows=rows).generate(PROMPTS, group=5, version=0))
    assert [[r.prompt_id for r in g] for g in groups] == [[4] * 5, [7] * 5, [5] * 5]


def test_lora_policies_sample_with_their_adapters_on():
    model = llama()
    policy = load.scorer(model, peft=add_lora(model, rank=2, alpha=4.0, targets=None, seed=1))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    rollouts = [r for g in sampler(policy).generate(PROMPTS, group=2, version=0) for r in g]
    check_logp(policy, rollouts)
    with adapters_off(policy), pytest.raises(AssertionError):
        check_logp(policy, rollouts)


def test_it_samples_the_weights_that_train_now():
    scorer = tiny()
    source = sampler(scorer)
    list(source.generate(PROMPTS, group=2, version=0))
    with torch.no_grad():
        scorer.lm_head.weight.mul_(0.5)
    source.push(None, 1)
    assert source.state()["version"] == 1
    check_logp(scorer, [r for g in source.generate(PROMPTS, group=2, version=1) for r in g])


def test_bfloat16_samples_in_the_precision_that_trains():
    scorer = tiny()
    scorer.compute = torch.bfloat16
    seen = []
    scorer.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    list(sampler(scorer).generate(PROMPTS, group=2, version=0))
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": lambda: Law(temperature=-1.0)}, "temperature must be 0"),
        ({"law": lambda: Law(top_k=0)}, "top_k must be 1 or more"),
        ({"law": lambda: Law(top_p=1.2)}, "top_p must be above 0 and at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens and rows must be 1 or more"),
        ({"max_new_tokens": 60}, "prompt 5 has 6 tokens; with --max-new-tokens 60 that is 66, beyond .* context of 64"),
        ({"prompts": [Prompt(id=3, tokens=(), text="")]}, "prompt 3 has no tokens"),
        ({"group": 0}, "group must be 1 or more"),
    ],
)
def test_refusals(change, message):
    prompts, group = change.pop("prompts", PROMPTS), change.pop("group", 1)
    with pytest.raises(InputError, match=message):
        settings = {k: v() if k == "law" else v for k, v in change.items()}
        list(sampler(**settings).generate(prompts, group=group, version=0))


def test_a_critic_cannot_sample():
    critic = tiny(value_head=True)
    critic._owners = (None, None)
    with pytest.raises(InputError, match="needs a causal language model"):
        sampler(critic)


def test_stories260k_logp_is_the_trainers_own(shared):
    path = str(shared / "models" / "stories260K")
    scorer, tok = load.policy(path), load.tokenizer(path)
    prompts = [
        Prompt(id=i, tokens=tuple(tok(text).input_ids), text=text) for i, text in enumerate(("", "Once", "The dog sat"))
    ]
    source = GenerateSampler(scorer, end_ids=load.end_ids(scorer, tok), pad_id=tok.pad_token_id, max_new_tokens=40)
    check_logp(scorer, [r for g in source.generate(prompts, group=3, version=0) for r in g])
