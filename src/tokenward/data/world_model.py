"""The built-in world's tokenizer, model shape, and the two training stages by which a fresh model learns its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from tokenward.data.world import vocabulary

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + ' ' }}{% endif %}{% endfor %}"
)


@final
@dataclass(frozen=True)
class Stage:
    """One run of supervised training from a fresh optimizer; the names are RunConfig's."""

    corpus: Literal["copy", "reviews"]
    updates: int
    rows_per_update: int
    learning_rate: float
    warmup_updates: int
    schedule: Literal["cosine"] = "cosine"
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    @property
    def rows(self) -> int:
        """Rows that the stage reads, each once."""
        return self.updates * self.rows_per_update


SFT_STAGES: tuple[Stage, ...] = (
    Stage("copy", updates=250, rows_per_update=32, learning_rate=3e-3, warmup_updates=20),
    Stage("reviews", updates=250, rows_per_update=32, learning_rate=3e-3, warmup_updates=20),
)


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the world's vocabulary."""
    return word_tokenizer(vocabulary())


def word_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one id per word, distinct <bos>, <eos>, <pad>, <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [PAD, BOS, EOS, UNK, *vocabulary]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, words.index(BOS))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK,
        model_max_length=128, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = CHAT_TEMPLATE
    return made


def model_config(made: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of 0.44 million parameters for this tokenizer; its embeddings are tied, which makes copying easy."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(made),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
