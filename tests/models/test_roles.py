"""models/roles.py, cache.py and frozen.py: who says what, only what is asked, and the same however it is computed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from tests.tiny import batch, llama, saved, tiny
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.adapters import add_lora
from tokenward.models.cache import RefCache
from tokenward.models.frozen import pieces, score
from tokenward.models.roles import AdapterOff, Roles, frozen_copy
from tokenward.models.two_laws import two_laws
from tokenward.types import present

LOGP = frozenset({"logp"})


def adapted(*, seed: int = 0, trained: bool):
    model = llama(seed=seed)
    policy = load.scorer(model, peft=add_lora(model, rank=2, alpha=4.0, targets=None, seed=1))
    if trained:
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return policy


def counted(scorer):
    """Count the calls of a Scorer's forward."""
    calls = []
    scorer.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs["fields"]), with_kwargs=True)
    return calls


def test_only_what_is_needed_is_computed_and_by_whom():
    policy, critic, reference, guide = tiny(), tiny(seed=1, value_head=True), tiny(seed=2), tiny(seed=3)
    critic.lm_head = None
    roles = Roles(policy=policy, critic=critic, reference=reference, guide=guide)
    calls = {name: counted(s) for name, s in vars(roles).items() if hasattr(s, "backbone")}
    rows = batch()
    stats = roles.frozen(rows, frozenset({"ref_logp", "logp", "pairs"}))
    assert set(present(stats)) == {"ref_logp"}
    assert {name: len(c) for name, c in calls.items()} == {"policy": 0, "critic": 0, "reference": 1, "guide": 0}
    needs = frozenset({"old_logp", "old_value", "ref_logp", "guide_logp", "guide_ref_logp"})
    stats = roles.frozen(rows, needs)
    assert set(present(stats)) == needs
    assert not any(v.requires_grad for v in present(stats).values())
    assert torch.equal(stats.guide_ref_logp, stats.ref_logp)  # the reference, and not computed twice
    assert {name: len(c) for name, c in calls.items()} == {"policy": 1, "critic": 1, "reference": 2, "guide": 1}
    for name, scorer, field in (
        ("old_logp", policy, "logp"),
        ("old_value", critic, "value"),
        ("ref_logp", reference, "logp"),
        ("guide_logp", guide, "logp"),
    ):
        want = present(scorer(rows, fields=frozenset({field})))[field]
        torch.testing.assert_close(present(stats)[name], want.detach(), rtol=1e-5, atol=1e-6)


def test_guide_ref_is_its_own_model_where_given():
    rows, other = batch(), tiny(seed=5)
    roles = Roles(policy=tiny(), reference=tiny(seed=2), guide_ref=other)
    stats = roles.frozen(rows, frozenset({"ref_logp", "guide_ref_logp"}))
    want = other(rows, fields=LOGP).logp
    torch.testing.assert_close(stats.guide_ref_logp, want.detach(), rtol=1e-5, atol=1e-6)


def test_a_shared_trunk_gives_logp_and_value_in_one_pass():
    policy = tiny(value_head=True)
    roles, calls = Roles(policy=policy), counted(policy)
    roles.frozen(batch(), frozenset({"old_logp", "old_value"}))
    assert calls == [frozenset({"logp", "value"})]
    stats = roles.current(batch(), frozenset({"logp", "value", "entropy"}))
    assert len(calls) == 2 and all(v.requires_grad for v in present(stats).values())
    assert set(roles.trainable_modules()) == {"policy"}


def test_current_merges_policy_and_critic_with_gradient():
    policy, critic = tiny(), tiny(seed=1, value_head=True)
    roles = Roles(policy=policy, critic=critic, reference=tiny(seed=2))
    stats = roles.current(batch(), frozenset({"logp", "value", "kl_ref", "entropy"}))
    assert set(present(stats)) == {"logp", "value", "kl_ref", "entropy"}
    sum(v.sum() for v in present(stats).values()).backward()
    assert policy.lm_head.weight.grad is not None and critic.value_head.weight.grad is not None
    assert all(p.grad is None for p in roles.reference.parameters())
    assert roles.trainable_modules() == {"policy": policy, "critic": critic}
    assert set(present(roles.current(batch(), frozenset({"value"})))) == {"value"}


def test_one_temperature_holds_for_every_role():
    policy = tiny()
    roles = Roles(policy=policy, reference=frozen_copy(policy), temperature=0.5)
    rows = batch()
    assert roles.step0_gap(rows) == 0.0
    want = policy(rows, fields=LOGP, temperature=0.5).logp.detach()
    got = roles.frozen(rows, frozenset({"ref_logp"})).ref_logp
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    now = roles.current(rows, LOGP).logp.detach()
    torch.testing.assert_close(now, want, rtol=1e-5, atol=1e-6)
    assert float(roles.current(rows, frozenset({"kl_ref"})).kl_ref.detach().abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["adapter-off", "model", "cached"])
def test_step_zero_is_zero_on_every_path_and_not_after_a_step(kind):
    policy = adapted(trained=False)
    base, rows = tiny(), batch()
    cache = RefCache({"model": "tiny"})
    cache.fill(base, [rows], temperature=1.0, micro_tokens=7)
    reference = {"adapter-off": AdapterOff(), "model": frozen_copy(base), "cached": cache}[kind]
    roles = Roles(policy=policy, reference=reference, micro_tokens=20)
    assert roles.reference_kind() == kind
    assert roles.step0_gap(rows) <= roles.step0_tolerance() <= 1e-4
    trained = dataclasses.replace(roles, policy=adapted(trained=True))
    assert trained.step0_gap(rows) > 0.1
    torch.testing.assert_close(
        trained.frozen(rows, frozenset({"ref_logp"})).ref_logp,
        base(rows, fields=LOGP).logp.detach(),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_guide_may_be_read_against_the_policy_without_adapters():
    policy, rows = adapted(trained=True), batch()
    roles = Roles(policy=policy, guide_ref=AdapterOff())
    got = roles.frozen(rows, frozenset({"guide_ref_logp"})).guide_ref_logp
    torch.testing.assert_close(got, tiny()(rows, fields=LOGP).logp.detach(), rtol=1e-5, atol=1e-5)


def test_a_frozen_copy_shares_nothing_and_samples_from_itself():
    policy = adapted(trained=True)
    twin = frozen_copy(policy)
    assert twin.causal_lm.base_model is twin.backbone is not policy.backbone
    assert {id(p) for p in twin.causal_lm.parameters()} == {id(p) for p in twin.parameters()}
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in policy.parameters()}
    assert not any(p.requires_grad for p in twin.parameters())
    assert any(p.requires_grad for p in policy.parameters())


def test_pieces_cover_every_row_once_within_the_budget():
    length = torch.tensor([3, 9, 1, 9, 4, 20, 2])
    got = list(pieces(length, micro_tokens=18))
    assert sorted(int(i) for piece in got for i in piece) == list(range(7))
    assert all(len(piece) * int(length[piece].max()) <= 18 for piece in got if len(piece) > 1)
    assert [p.tolist() for p in got] == [[5], [1, 3], [4, 0, 6, 2]]


@pytest.mark.parametrize("micro_tokens", [1, 20, 10_000])
def test_scoring_in_pieces_equals_scoring_at_once(micro_tokens):
    scorer, rows = tiny(dtype=torch.float64, value_head=True), batch()
    fields = frozenset({"logp", "value", "entropy", "model_score"})
    once = present(scorer(rows, fields=fields, temperature=0.8))
    parts = present(score(scorer, rows, fields, temperature=0.8, micro_tokens=micro_tokens))
    for name, value in once.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-10, atol=1e-10)


def test_a_cache_survives_its_file_and_finds_rows_in_any_order(tmp_path):
    base, rows, key = tiny(), batch(), {"model": "abc", "dtype": "float32"}
    cache = RefCache(key)
    cache.fill(base, [rows, batch(seed=1)], temperature=1.0, micro_tokens=64)
    assert len(cache) == 8
    cache.save(tmp_path / "ref.safetensors")
    assert not list(tmp_path.glob("*.partial"))
    with safe_open(tmp_path / "ref.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["key"]) == key
    again = RefCache.load(tmp_path / "ref.safetensors", key=key)
    want = base(rows, fields=LOGP).logp.detach()
    torch.testing.assert_close(again.lookup(rows), want, rtol=1e-5, atol=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = dataclasses.replace(rows, tokens=rows.tokens[order], length=rows.length[order], mask=rows.mask[order])
    assert torch.equal(again.lookup(shuffled), again.lookup(rows)[order])
    before = counted(base)
    again.fill(base, [rows], temperature=1.0, micro_tokens=64)
    assert not before  # nothing is scored twice


def test_a_cache_of_something_else_is_refused(tmp_path):
    rows = batch()
    cache = RefCache({"model": "abc"})
    cache.fill(tiny(), [rows], temperature=1.0, micro_tokens=64)
    cache.save(tmp_path / "ref.safetensors")
    with pytest.raises(InputError, match="was made with model = abc, this run has xyz"):
        RefCache.load(tmp_path / "ref.safetensors", key={"model": "xyz"})
    with pytest.raises(InputError, match="was made with dtype = None, this run has float32"):
        RefCache.load(tmp_path / "ref.safetensors", key={"model": "abc", "dtype": "float32"})
    (tmp_path / "broken").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="cannot read the reference cache"):
        RefCache.load(tmp_path / "broken", key={})
    shifted = rows.mask.clone()
    shifted[0, 3] = False  # the same tokens, another prompt boundary
    for other in (dataclasses.replace(rows, mask=shifted), batch(seed=9)):
        with pytest.raises(InputError, match="row 0 of the batch is not among the 4 cached reference rows"):
            cache.lookup(other)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("ref_logp", "ref_logp is needed and there is no reference; give --ref"),
        ("guide_logp", "there is no guide; give --guide MODEL"),
        ("guide_ref_logp", "guide_ref_logp is needed and there is no reference"),
        ("old_value", "needs a value head"),
    ],
)
def test_a_missing_role_is_named(needs, message):
    with pytest.raises(InputError, match=message):
        Roles(policy=tiny()).frozen(batch(), frozenset({needs}))


def test_an_exact_kl_needs_the_reference_as_a_model():
    cache = RefCache({})
    cache.fill(tiny(), [batch()], temperature=1.0, micro_tokens=64)
    with pytest.raises(InputError, match="needs the reference as a model, not cached logp"):
        Roles(policy=tiny(), reference=cache).current(batch(), frozenset({"kl_ref"}))
    with pytest.raises(InputError, match="'adapter off' was asked of a model without adapters"):
        Roles(policy=tiny(), reference=AdapterOff()).frozen(batch(), frozenset({"ref_logp"}))


def test_each_of_two_laws_is_read_in_its_own_precision():
    policy, reference, rows = tiny(seed=0), tiny(seed=1), batch()
    full = two_laws(policy, reference, rows)
    policy.compute = torch.bfloat16
    mixed = two_laws(policy, reference, rows)
    assert torch.equal(mixed.ref_logp, full.ref_logp) and not torch.equal(mixed.logp, full.logp)


def test_bfloat16_keeps_step_zero_at_zero(tmp_path):
    source, rows = str(saved(tmp_path / "base")), batch()
    for lora_rank in (0, 2):
        policy = load.policy(source, dtype="bfloat16", lora_rank=lora_rank)
        reference = AdapterOff() if lora_rank else frozen_copy(policy)
        roles = Roles(policy=policy, reference=reference)
        assert roles.step0_gap(rows) == 0.0
        assert roles.step0_tolerance() == 0.1
