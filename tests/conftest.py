"""The shared folder of real data and models, and three tokenizers made on the spot, each with its trap."""

from __future__ import annotations

import os
from pathlib import Path

import jaxtyping
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:!?<>/|_'0123456789\n▁"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models: $TOKENWARD_SHARED, or ../shared beside the checkout."""
    given = os.environ.get("TOKENWARD_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared data at {folder}: set TOKENWARD_SHARED to the folder with models/ and data/")
    return folder


@pytest.fixture(scope="session")
def spaced() -> PreTrainedTokenizerFast:
    """Like stories260K: a space before every text, <s> begins and ends it, </s> pads; `ti|me` and two spaces merge."""
    names = ["<unk>", "<s>", "</s>", *LETTERS, "ti", "me", "time", "▁▁"]
    inner = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)},
            [("t", "i"), ("m", "e"), ("ti", "me"), ("▁", "▁")],
            unk_token="<unk>",
        )
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<s>", pad_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def chatty() -> PreTrainedTokenizerFast:
    """Bytes (two line breaks merge) and a template that trims contents; a turn ends with the end token and a break."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|im_start|>", "<|im_end|>", "<|pad|>", *alphabet, "ĊĊ"]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def worded() -> PreTrainedTokenizerFast:
    """One word, one id: the word `<s>` is in the vocabulary, so its text cannot be anything but the control token."""
    names = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "."]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


SOLVES = {  # modules whose tests evaluate a loss thousands of times, with shapes checked in the others
    "test_verify", "test_targets_given", "test_theory_udrra", "test_theory_token_level", "test_fixed_points",
    "test_groups", "test_rate", "test_corrections", "test_pessimism", "test_joint_learning", "test_finite_sample",
    "test_bounds", "test_trust_region", "test_compositions", "test_rto", "test_games", "test_on_policy",
    "test_remembered", "test_scenarios", "test_advice", "test_advice_reward", "test_studies", "test_frontier",
    "test_theory",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def shapes_unchecked_where_solved(request):
    """Solving runs as users run it; tests/lab/test_policy.py runs every recipe once with its shapes checked."""
    yield from _unchecked(request.module.__name__.rpartition(".")[2] in SOLVES)


@pytest.fixture(autouse=True)
def shapes_unchecked_where_slow(request):
    """Slow tests run as users run: the same calls have had their shapes checked in the fast ones."""
    yield from _unchecked(request.node.get_closest_marker("slow") is not None)


def _unchecked(wanted):
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", before or wanted)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
