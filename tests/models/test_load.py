"""models/load.py, save.py and adapters.py: directories in and out, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from tests.tiny import EOS, PAD, batch, llama, saved, word_tokenizer
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.adapters import adapters_off
from tokenward.models.save import save_policy, save_reward_model

LOGP = frozenset({"logp"})


def move(scorer, *, only: str = "", seed: int = 3) -> None:
    """Stand for training: add noise to the parameters that train."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in scorer.named_parameters():
            if parameter.requires_grad and only in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))


def test_a_policy_goes_through_a_directory_unchanged(tmp_path):
    source = saved(tmp_path / "base")
    policy, tok = load.policy(str(source)), load.tokenizer(str(source))
    move(policy)
    assert save_policy(policy, tok, tmp_path / "model") == tmp_path / "model"
    again = load.policy(str(tmp_path / "model"))
    assert torch.equal(policy(batch(), fields=LOGP).logp, again(batch(), fields=LOGP).logp)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(plain(batch().tokens).logits, policy.causal_lm(batch().tokens).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == tok.get_vocab()
    assert not list(tmp_path.glob("*.partial"))
    assert not list((tmp_path / "model").glob("*.bin"))


def test_lora_starts_as_its_base_and_is_saved_merged_with_the_adapter_beside(tmp_path):
    source = str(saved(tmp_path / "base"))
    base = load.policy(source)
    policy = load.policy(source, lora_rank=4, lora_alpha=8.0, seed=1)
    rows = batch()
    assert torch.equal(policy(rows, fields=LOGP).logp, base(rows, fields=LOGP).logp)
    assert all("lora_" in n for n, p in policy.named_parameters() if p.requires_grad)
    move(policy, only="lora_")
    moved = policy(rows, fields=LOGP).logp
    assert float((moved - base(rows, fields=LOGP).logp).detach().abs().max()) > 0.01
    save_policy(policy, load.tokenizer(source), tmp_path / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(load.scorer(merged)(rows, fields=LOGP).logp, moved, rtol=1e-5, atol=1e-5)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    # training goes on where it was: still adapters over the same base
    assert torch.equal(policy(rows, fields=LOGP).logp, moved)
    with adapters_off(policy):
        assert torch.equal(policy(rows, fields=LOGP).logp, base(rows, fields=LOGP).logp)


def test_the_adapter_seed_decides_a(tmp_path):
    source = str(saved(tmp_path / "base"))
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same, other = (load.policy(source, lora_rank=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    a = [next(p for n, p in s.named_parameters() if "lora_A" in n) for s in (one, same, other)]
    assert torch.equal(a[0], a[1]) and not torch.equal(a[0], a[2])


def test_adapters_off_restores_gradient_flags_also_after_an_error(tmp_path):
    policy = load.policy(str(saved(tmp_path / "base")), lora_rank=2)
    flags = {n: p.requires_grad for n, p in policy.named_parameters()}
    with pytest.raises(RuntimeError), adapters_off(policy), adapters_off(policy):
        raise RuntimeError
    assert {n: p.requires_grad for n, p in policy.named_parameters()} == flags
    move(policy, only="lora_")
    on = policy(batch(), fields=LOGP).logp
    policy.requires_grad_(False)
    with adapters_off(policy):
        assert not torch.equal(policy(batch(), fields=LOGP).logp, on)
    assert not any(p.requires_grad for p in policy.parameters())


def test_lora_in_bfloat16_merges_in_float32(tmp_path):
    policy = load.policy(str(saved(tmp_path / "base")), lora_rank=2, dtype="bfloat16")
    assert {p.dtype for n, p in policy.named_parameters() if "lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in policy.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-5)  # far below bfloat16's step at a weight of 0.2
    save_policy(policy, word_tokenizer(), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    stored = dict(policy.causal_lm.named_parameters())[name.replace(".weight", ".base_layer.weight")]
    assert weights[name].dtype == torch.float32
    assert 0 < float((weights[name] - stored.float()).abs().max()) < 1e-4


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_reward_model_scores_the_same_in_transformers(tmp_path, lora_rank):
    source = str(saved(tmp_path / "base"))
    trained = load.policy(source, value_head=True, lora_rank=lora_rank)
    move(trained)
    rows, fields = batch(), frozenset({"model_score"})
    scores = trained(rows, fields=fields).model_score
    assert float(scores.detach().abs().min()) > 0
    save_reward_model(trained, load.tokenizer(source), tmp_path / "reward")
    weights = load_file(tmp_path / "reward" / "model.safetensors")
    assert "score.weight" in weights and not any("lm_head" in n or "lora" in n for n in weights)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    mask = (torch.arange(12)[None] < rows.length[:, None]).long()
    assert theirs.config.num_labels == 1 and theirs.config.pad_token_id == PAD
    torch.testing.assert_close(theirs(rows.tokens, attention_mask=mask).logits[:, 0], scores, rtol=1e-5, atol=1e-5)
    ours = load.reward_model(str(tmp_path / "reward"))
    torch.testing.assert_close(ours(rows, fields=fields).model_score, scores.detach(), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in ours.parameters())
    critic = load.critic(str(tmp_path / "reward"))
    assert all(p.requires_grad for p in critic.parameters())
    assert float(critic(rows, fields=frozenset({"value"})).value.detach().abs().max()) > 0


def test_where_padding_is_the_end_token_a_saved_reward_model_refuses_batches_in_transformers(tmp_path):
    trained = load.scorer(llama(), value_head=torch.nn.Linear(16, 1, bias=False))
    tok = word_tokenizer(pad="<eos>")
    save_reward_model(trained, tok, tmp_path / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    row = batch(lengths=(6,), prompts=(2,))
    row.tokens[0, -1] = EOS
    score = trained(row, fields=frozenset({"model_score"})).model_score
    torch.testing.assert_close(theirs(row.tokens).logits[:, 0], score, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no padding token"):
        theirs(row.tokens.repeat(2, 1))


def test_a_critic_from_a_language_model_starts_at_zero_and_trains(tmp_path):
    critic = load.critic(str(saved(tmp_path / "base")))
    value = critic(batch(), fields=frozenset({"value"})).value
    assert float(value.detach().abs().max()) == 0
    (value - 1).square().sum().backward()
    assert float(critic.value_head.weight.grad.norm()) > 0
    with pytest.raises(InputError, match="needs a language-model head"):
        critic(batch(), fields=LOGP)


def test_end_ids_join_the_tokenizer_and_the_generation_settings(tmp_path):
    policy, tok = load.scorer(llama()), word_tokenizer()
    assert load.end_ids(policy, tok) == (EOS,)
    policy.causal_lm.generation_config.eos_token_id = [7, EOS, 5]
    assert load.end_ids(policy, tok) == (EOS, 5, 7)


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path):
    source = saved(tmp_path / "base")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load.tokenizer(str(source)).pad_token_id == EOS


def test_fingerprints_follow_the_weights(tmp_path):
    one, two, copy = saved(tmp_path / "a"), saved(tmp_path / "b", seed=1), tmp_path / "c"
    shutil.copytree(one, copy)
    assert load.fingerprint(str(one)) == load.fingerprint(str(copy)) != load.fingerprint(str(two))


def test_the_directory_of_a_run_stands_for_its_model(tmp_path):
    run, lone = tmp_path / "run", tmp_path / "run" / "model"
    saved(lone)
    (run / "config.yaml").write_text("recipe: dpo\n")
    assert load.located(str(run)) == str(lone) == load.located(str(lone))
    assert load.fingerprint(str(run)) == load.fingerprint(str(lone)) and load.holds_tokenizer(str(run))
    shutil.rmtree(lone)
    refused("run is a run that has not written its model: give a finished run", lambda: load.policy(str(run)))


def test_the_built_tiny_model_of_the_shared_folder(shared):
    path = str(shared / "models" / "stories260K")
    policy, tok = load.policy(path), load.tokenizer(path)
    assert (load.end_ids(policy, tok), tok.pad_token_id) == ((1,), 2)
    story = tok("Once upon a time, there was a little girl named Lily.").input_ids
    rows = batch(lengths=(len(story),), prompts=(1,))
    rows.tokens[0] = torch.tensor(story)
    assert float(policy(rows, fields=LOGP).logp.sum().detach()) / (len(story) - 1) > -0.5


def refused(message: str, call) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_paths_that_hold_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("no directory ./nowhere$", lambda: load.policy("./nowhere"))
    refused("no directory who/what, it is not in the hub's cache", lambda: load.policy("who/what"))
    (tmp_path / "empty").mkdir()
    refused("has no config.json: not a model directory", lambda: load.policy(str(tmp_path / "empty")))
    (tmp_path / "file").write_text("x")
    refused("is a file; give a model directory", lambda: load.policy(str(tmp_path / "file")))
    source = saved(tmp_path / "base")
    refused("unknown dtype 'float23'. Did you mean 'float32'", lambda: load.policy(str(source), dtype="float23"))
    for read in (load.policy, load.critic):
        refused("unknown device 'tpu'. Did you mean 'cpu'", lambda read=read: read(str(source), device="tpu"))
        refused("unknown device 'cpu:zz'", lambda read=read: read(str(source), device="cpu:zz"))
    refused("--lora-rank must be 0", lambda: load.policy(str(source), lora_rank=-1))
    refused(
        "--lora-targets nothing fit no layer of this model; its linear layers: down_proj",
        lambda: load.policy(str(source), lora_rank=2, lora_targets=("nothing",)),
    )
    refused("base is not a reward model: its architecture is LlamaForCausalLM", lambda: load.reward_model(str(source)))
    (source / "adapter_config.json").write_text("{}")
    refused("holds a LoRA adapter: merge it", lambda: load.policy(str(source)))


def test_an_unreachable_hub_is_one_line_and_quick(monkeypatch):
    def unreachable():
        class Session:
            def get(self, *args, **kwargs):
                raise ConnectionError("Name or service not known\nretry")

        return Session()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", unreachable)
    refused(r"no directory who/what, and the hub cannot be reached.*ConnectionError", lambda: load.policy("who/what"))


def test_broken_directories(tmp_path):
    source = saved(tmp_path / "base")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    refused("1 weights are missing in its files, the first is model.layers.0", lambda: load.policy(str(source)))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    refused("no .safetensors file in it; weights in pickle form", lambda: load.policy(str(source)))
    (source / "config.json").write_text("{")
    refused("cannot read the configuration", lambda: load.policy(str(source)))


def test_classifiers_of_several_labels_and_as_policies(tmp_path):
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    config.num_labels = 3
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "three")
    refused("gives 3 labels; a reward model gives 1", lambda: load.reward_model(str(tmp_path / "three")))
    refused("is a reward model without a language-model head", lambda: load.policy(str(tmp_path / "three")))


def test_an_unknown_change_of_the_logits_is_refused(monkeypatch):
    config = GraniteConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=4.0,
    )  # fmt: skip
    model = GraniteForCausalLM(config).eval()
    load.checked(load.scorer(model), "granite")
    monkeypatch.setattr("tokenward.models.forward._logit_law", lambda config: (None, 1.0))
    refused(
        r"granite \(GraniteForCausalLM\) changes its logits after the head",
        lambda: load.checked(load.scorer(model), "granite"),
    )


def test_a_model_that_sees_the_future_is_refused():
    model = llama()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model.config.is_causal = False
    model.set_attn_implementation("eager")
    original = model.model.forward

    def two_sided(input_ids=None, **kwargs):
        size = input_ids.shape[1]
        kwargs["attention_mask"] = torch.zeros(len(input_ids), 1, size, size)
        return original(input_ids=input_ids, **kwargs)

    model.model.forward = two_sided
    refused("made-up is not causal", lambda: load.checked(load.scorer(model), "made-up"))


def test_a_model_that_already_carries_adapters_is_refused(tmp_path):
    from tokenward.models.adapters import add_lora

    policy = load.policy(str(saved(tmp_path / "base")), lora_rank=2)
    refused(
        "already carries a LoRA adapter", lambda: add_lora(policy.causal_lm, rank=2, alpha=1.0, targets=None, seed=0)
    )


def test_a_head_shared_with_the_embeddings_takes_no_adapter(tmp_path):
    model = llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    path = str(tmp_path / "tied")
    for target in ("lm_head", "embed_tokens"):
        refused("which this model shares", lambda t=target: load.policy(path, lora_rank=2, lora_targets=(t, "q_proj")))
    policy = load.policy(path, lora_rank=2, lora_targets=("q_proj",))
    assert {n.split(".")[-4] for n, p in policy.named_parameters() if p.requires_grad} == {"q_proj"}


def test_a_critic_cannot_be_saved_as_a_policy(tmp_path):
    source = str(saved(tmp_path / "base"))
    refused("has no language-model head", lambda: save_policy(load.critic(source), word_tokenizer(), tmp_path / "out"))
    refused("has no value head", lambda: save_reward_model(load.policy(source), word_tokenizer(), tmp_path / "out"))
