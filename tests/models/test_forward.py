"""models/forward.py: the statistics and their gradients equal the plain path over full logits."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.tiny import batch, llama, ruled_out, tiny
from tokenward.errors import InputError
from tokenward.models.adapters import adapters_off, add_lora
from tokenward.models.divergence import mean_under
from tokenward.models.forward import CHUNK_FLOATS, Scorer
from tokenward.models.load import scorer
from tokenward.types import present

TOKEN_FIELDS = ("logp", "entropy", "value", "kl_ref")
ALL = frozenset({*TOKEN_FIELDS, "model_score"})


def plain(model: Scorer, rows, *, temperature: float = 1.0, reference=None):
    """The textbook path: full logits of every position, then everything is read off them."""
    mask = (torch.arange(rows.tokens.shape[1])[None] < rows.length[:, None]).long()
    hidden = model.backbone(rows.tokens, attention_mask=mask).last_hidden_state
    law = (model.causal_lm(rows.tokens, attention_mask=mask).logits / temperature).log_softmax(-1)[:, :-1]
    out = {"logp": law.gather(-1, rows.tokens[:, 1:, None]).squeeze(-1), "entropy": -(law.exp() * law).sum(-1)}
    if model.value_head is not None:
        scores = model.value_head(hidden).squeeze(-1)
        out["value"] = scores[:, :-1]
        out["model_score"] = scores[torch.arange(len(scores)), rows.length - 1]
    if reference is not None:
        with torch.no_grad():
            ref = (reference(rows.tokens, attention_mask=mask).logits / temperature).log_softmax(-1)[:, :-1]
        out["kl_ref"] = (law.exp() * (law - ref)).sum(-1)
    zero = torch.zeros(len(rows.tokens), 1, dtype=law.dtype)
    return {
        name: value if value.ndim == 1 else torch.where(rows.mask, torch.cat([zero, value], 1), 0.0)
        for name, value in out.items()
    }


def gradients(model: Scorer, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=value.dtype)
    (value * weight).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_floats", [1, 200, 2**24])
def test_values_and_gradients_equal_the_plain_path(dtype, tolerance, temperature, chunk_floats):
    model, reference = tiny(dtype=dtype, value_head=True), tiny(seed=9, dtype=dtype)
    model.chunk_floats = chunk_floats
    rows = batch()
    want = plain(model, rows, temperature=temperature, reference=reference.causal_lm)
    got = present(model(rows, fields=ALL, temperature=temperature, reference=reference))
    assert set(got) == set(want) == ALL
    for name in sorted(ALL):
        torch.testing.assert_close(got[name], want[name], rtol=tolerance, atol=tolerance)
    for name in sorted(ALL):
        stats = model(rows, fields=frozenset({name}), temperature=temperature, reference=reference)
        ours = gradients(model, present(stats)[name])
        theirs = gradients(model, plain(model, rows, temperature=temperature, reference=reference.causal_lm)[name])
        assert set(ours) == set(theirs)
        for parameter, gradient in theirs.items():
            scale = float(gradient.norm())
            assert scale > 0
            assert float((ours[parameter] - gradient).norm()) <= tolerance * scale, (name, parameter)
    assert all(p.grad is None for p in reference.parameters())


def test_a_temperature_of_one_half_sharpens_the_law():
    model, rows = tiny(), batch()
    warm = model(rows, fields=frozenset({"entropy"})).entropy.sum()
    assert model(rows, fields=frozenset({"entropy"}), temperature=0.5).entropy.sum() < warm


def test_zero_outside_the_mask_and_padding_is_not_read():
    model, rows = tiny(value_head=True), batch()
    other = dataclasses.replace(
        rows, tokens=torch.where(torch.arange(12)[None] < rows.length[:, None], rows.tokens, 17)
    )
    one, two = (present(model(b, fields=ALL, reference=tiny(seed=4))) for b in (rows, other))
    for name in ALL:
        assert torch.equal(one[name], two[name])
        if name != "model_score":
            assert (one[name][~rows.mask] == 0).all()
            assert (one[name][rows.mask] != 0).all()


def test_extra_padding_columns_change_nothing():
    model, rows = tiny(), batch()
    wide = dataclasses.replace(
        rows,
        tokens=torch.nn.functional.pad(rows.tokens, (0, 5)),
        mask=torch.nn.functional.pad(rows.mask, (0, 5)),
    )
    one, two = (model(b, fields=frozenset({"logp"})).logp for b in (rows, wide))
    assert torch.equal(two[:, :12], one)
    assert (two[:, 12:] == 0).all()


def test_the_head_sees_trainable_states_only_and_in_chunks():
    model, rows = tiny(), batch()
    shapes = []
    model.lm_head.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    model.chunk_floats = 4 * 40
    model(rows, fields=frozenset({"logp", "entropy"})).logp.sum().backward()
    forward, again = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    assert sum(n for n, _ in forward) == int(rows.mask.sum()) == sum(n for n, _ in again)
    assert max(n for n, _ in forward) == 4
    assert all(v == 40 for _, v in shapes)


def test_no_tensor_of_the_full_logits_size_is_kept_for_backward():
    model, rows = tiny(vocabulary=500), batch(vocabulary=500)
    model.chunk_floats = 3 * 500
    sizes = []

    def note(tensor):
        sizes.append(0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(rows, fields=frozenset({"logp", "entropy"}))
    assert max(sizes) < 3 * 500 < rows.tokens.numel() * 500


def test_a_batch_without_trainable_tokens_reaches_every_parameter():
    model = tiny(value_head=True)
    rows = batch()
    empty = dataclasses.replace(rows, mask=torch.zeros_like(rows.mask))
    stats = model(empty, fields=frozenset({*TOKEN_FIELDS}), reference=tiny(seed=2))
    total = sum(value.sum() for value in present(stats).values())
    assert float(total.detach()) == 0
    total.backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_a_row_of_length_zero_gives_no_nan():
    model, rows = tiny(), batch()
    rows = dataclasses.replace(rows, length=torch.tensor([9, 5, 12, 0]))
    gradient = gradients(model, model(rows, fields=frozenset({"logp"})).logp)
    assert all(torch.isfinite(g).all() for g in gradient.values())


@pytest.mark.parametrize("targets", [None, ("v_proj", "lm_head")])
def test_the_adapter_off_self_as_reference(targets):
    model = llama(dtype=torch.float64)
    wrapped = add_lora(model, rank=2, alpha=4.0, targets=targets, seed=1)
    base = llama(dtype=torch.float64)
    policy = scorer(model, peft=wrapped)
    rows, fields = batch(), frozenset({"kl_ref", "logp"})
    assert float(policy(rows, fields=fields, reference=policy).kl_ref.detach().abs().max()) == 0.0
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    policy.chunk_floats = 100
    stats = policy(rows, fields=fields, reference=policy)
    want = plain(policy, rows, reference=base)
    torch.testing.assert_close(stats.kl_ref, want["kl_ref"], rtol=1e-10, atol=1e-10)
    ours, theirs = gradients(policy, stats.kl_ref), gradients(policy, want["kl_ref"])
    assert ours and set(ours) == set(theirs) and all("lora_" in name for name in ours)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12)
    policy.chunk_floats = CHUNK_FLOATS  # the same products as below: equal to the bit
    with adapters_off(policy):
        off = policy(rows, fields=frozenset({"logp"})).logp
    assert torch.equal(off, scorer(base)(rows, fields=frozenset({"logp"})).logp)


@pytest.mark.parametrize("family", ["gemma2", "cohere", "gpt2"])
def test_architectures_that_change_their_logits(family):
    torch.manual_seed(0)
    small = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    if family == "gemma2":
        config = Gemma2Config(**small, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
        model = Gemma2ForCausalLM(config)
    elif family == "cohere":
        model = CohereForCausalLM(CohereConfig(**small, logit_scale=0.25, pad_token_id=0))
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    ours, rows = scorer(model.eval().double()), batch()
    got = ours(rows, fields=frozenset({"logp", "entropy"}))
    want = plain(ours, rows)
    torch.testing.assert_close(got.logp, want["logp"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.entropy, want["entropy"], rtol=1e-9, atol=1e-9)


def test_bfloat16_products_keep_a_float32_softmax():
    model, rows = tiny(value_head=True), batch()
    exact = model(rows, fields=ALL, reference=tiny(seed=3))
    model.compute = torch.bfloat16
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    half = model(rows, fields=ALL, reference=tiny(seed=3))
    assert seen == [torch.bfloat16]
    for name, value in present(half).items():
        assert value.dtype == torch.float32
        assert 0 < float((value - present(exact)[name]).detach().abs().max()) < 0.2
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_dropout_is_off_in_training_too():
    model = copy.deepcopy(tiny())
    model.backbone.layers[0].self_attn.attention_dropout = 0.9
    rows, fields = batch(), frozenset({"logp"})
    before = model(rows, fields=fields).logp
    model.train()
    assert torch.equal(model(rows, fields=fields).logp, before)
    assert not any(module.training for module in model.modules())


def test_under_ddp_an_empty_batch_gives_zero_gradients():
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = tiny(value_head=True)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        rows = batch()
        empty = dataclasses.replace(rows, mask=torch.zeros_like(rows.mask))
        for part in (rows, empty):
            stats = wrapped(part, fields=frozenset({"logp", "value"}))
            (stats.logp.sum() + stats.value.sum()).backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": frozenset({"logits"})}, "a model gives logp"),
        ({"fields": frozenset({"value"})}, "needs a value head"),
        ({"fields": frozenset({"logp"}), "temperature": 0.0}, "temperature must be above 0"),
        ({"fields": frozenset({"kl_ref"})}, "needs the reference as a model"),
        ({"fields": frozenset({"kl_ref"}), "reference": "self"}, "no adapters to switch off"),
        ({"fields": frozenset({"kl_ref"}), "reference": "large"}, "policy has 40 tokens and the reference 41"),
    ],
)
def test_refusals(change, message):
    model = tiny()
    others = {"self": model, "large": tiny(vocabulary=41)}
    if "reference" in change:
        change = change | {"reference": others[change["reference"]]}
    with pytest.raises(InputError, match=message):
        model(batch(), **change)


def test_impossible_masks_and_rows_beyond_the_context_are_named():
    model, rows = tiny(), batch()
    first = rows.mask.clone()
    first[1, 0] = True
    with pytest.raises(InputError, match="row 1 marks token 0 as trainable, but nothing precedes it"):
        model(dataclasses.replace(rows, mask=first), fields=frozenset({"logp"}))
    late = rows.mask.clone()
    late[1, 8] = True
    with pytest.raises(InputError, match="row 1 marks token 8 as trainable, but the row has 5 tokens"):
        model(dataclasses.replace(rows, mask=late), fields=frozenset({"logp"}))
    with pytest.raises(InputError, match="70 tokens does not fit the model's context of 64"):
        model(batch(lengths=(70,), prompts=(3,)), fields=frozenset({"logp"}))


SUMS = ("entropy", "kl_ref", "kl_old", "kl_of_old")


@pytest.mark.parametrize("field", SUMS)
def test_a_logit_of_minus_infinity_leaves_values_and_gradients_as_without_the_token(field):
    """As a model whose logit of the token is −1e4 in float64: its probability is 0 there, to the bit."""
    rows, found = batch(vocabulary=30), []
    for low in (-torch.inf, -1e4):
        policy, other = (ruled_out(tiny(seed=seed, dtype=torch.float64), 35) for seed in (0, 9))
        for one in (policy, other):
            with torch.no_grad():
                one.lm_head.bias[35] = low
        value = getattr(policy(rows, fields=frozenset({field}), reference=other, old=other), field)
        found.append((value.detach(), gradients(policy, value)))
    (value, slopes), (want, slopes_wanted) = found
    assert torch.isfinite(value).all() and torch.equal(value, want) and value.abs().max() > 0.1
    for name, slope in slopes.items():
        assert torch.isfinite(slope).all(), name
        torch.testing.assert_close(slope, slopes_wanted[name], rtol=0, atol=1e-12)


def test_a_token_that_only_the_reference_rules_out_makes_the_kl_infinite():
    rows, other = batch(vocabulary=30), ruled_out(tiny(seed=9), 35)
    found = tiny()(rows, fields=frozenset({"kl_ref"}), reference=other).kl_ref
    assert bool((found[rows.mask] == torch.inf).all())


def test_means_over_the_vocabulary_are_the_plain_sums_to_the_bit():
    random = torch.Generator().manual_seed(3)
    for dtype, size in ((torch.float32, 1.0), (torch.float32, 200.0), (torch.float64, 2000.0)):
        law, other = (size * torch.randn(2, 50, 64, generator=random, dtype=dtype)).log_softmax(-1)
        assert torch.equal(mean_under(law, law - other), (law.exp() * (law - other)).sum(-1))
        assert torch.equal(mean_under(law, law), (law.exp() * law).sum(-1))
