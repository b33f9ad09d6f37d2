"""From a batch of tokens to log-probabilities: the one module that touches a model's parameters.

Index t of every result speaks about token t: it comes from the hidden state at t−1. Only states before trainable
tokens reach the head, in chunks that are computed again in the backward pass, so no float copy of [B, T, V] exists.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenward.errors import InputError
from tokenward.models.adapters import adapters_off, has_adapters
from tokenward.models.divergence import mean_under
from tokenward.types import Batch, TokenStats

HEAD_FIELDS = ("logp", "entropy", "kl_ref", "kl_old", "kl_of_old")  # need the vocabulary
OLD_FIELDS = frozenset({"kl_old", "kl_of_old"})  # need the policy as it was
VALUE_FIELDS = ("value", "model_score")  # need the value head
CHUNK_FLOATS = 2**24  # largest head output held at once: 64 MiB in float32


@final
class Scorer(nn.Module):
    """log π(token | prefix), entropies, values and KLs at the trainable positions of a batch.

    `backbone` gives hidden states [B T D], `lm_head` logits [N V], `value_head` [N 1]; either head may be absent.
    `causal_lm` is the model that `generate` is called on: the owner of the same modules, not a second registration.
    `compute` = bfloat16 runs the backbone and the head under autocast; log-softmax is float32 at least, always.
    Dropout stays off, in training too: it would make policy and reference differ at the first step.
    """

    def __init__(
        self,
        backbone: nn.Module,
        lm_head: nn.Module | None,
        value_head: nn.Module | None = None,
        *,
        causal_lm: nn.Module | None = None,
        peft: nn.Module | None = None,
        compute: torch.dtype | None = None,
        chunk_floats: int = CHUNK_FLOATS,
    ) -> None:
        super().__init__()
        self.backbone, self.lm_head, self.value_head = backbone, lm_head, value_head
        self._owners = (causal_lm, peft)  # a tuple, so that torch does not register their parameters again
        self.compute, self.chunk_floats = compute, chunk_floats
        self._cap, self._scale = _logit_law(self.config)
        self.train(False)

    def train(self, mode: bool = True) -> Scorer:
        """Keep every submodule in evaluation mode: no dropout, whatever is asked."""
        del mode
        super().train(False)
        return self

    @property
    def config(self) -> Any:
        """The backbone's text configuration."""
        return self.backbone.config.get_text_config()  # type: ignore[union-attr,operator]

    @property
    def causal_lm(self) -> nn.Module | None:
        """The whole causal language model, for `generate`; None for a critic or a reward model."""
        return self._owners[0]

    @property
    def peft(self) -> nn.Module | None:
        """The PeftModel that owns the adapters, or None."""
        return self._owners[1]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def context(self) -> int | None:
        """Longest row the model was made for, in tokens; None when its configuration does not say."""
        return getattr(self.config, "max_position_embeddings", None)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of every matrix product of this model, sampling included."""
        if self.compute is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    def logits(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The head with the architecture's own scaling and soft cap, in float32 at least."""
        assert self.lm_head is not None  # checked where fields are
        raw = self.lm_head(states)
        out = raw.to(torch.promote_types(raw.dtype, torch.float32)) * self._scale
        return out if self._cap is None else self._cap * torch.tanh(out / self._cap)

    def hidden(self, batch: Batch) -> Float[Tensor, "B W D"]:
        """Last hidden states up to the longest row (W ≤ T).

        No attention mask: rows are padded on the right and attention is causal, so no real token sees padding, the
        result is the same to the bit, and attention keeps its faster causal kernel.
        """
        width = max(int(batch.length.max()), 1) if batch.rows else 1
        if self.context is not None and width > self.context:
            raise InputError(
                f"a row of {width} tokens does not fit the model's context of {self.context}; lower --max-tokens"
            )
        return self.backbone(input_ids=batch.tokens[:, :width], use_cache=False).last_hidden_state

    def forward(
        self,
        batch: Batch,
        *,
        fields: frozenset[str],
        temperature: float = 1.0,
        reference: Scorer | None = None,
        old: Scorer | None = None,
    ) -> TokenStats:
        """The named statistics of a batch, 0 outside its mask.

        logp[t] = log softmax(logits[t−1] / temperature)[token t] · entropy[t] = −Σ_v π log π ·
        kl_ref[t] = Σ_v π (log π − log π_ref), with `reference` another Scorer, or this one for its adapters switched
        off · kl_old[t] = Σ_v π (log π − log π_old), kl_of_old[t] = Σ_v π_old (log π_old − log π), with `old` another
        Scorer, or this one for its own law of this moment (both 0; the Hessian of kl_of_old is the Fisher matrix); no
        gradient enters reference or old · value[t] = value_head(hidden[t−1]) ·
        model_score[b] = value_head(hidden[length_b − 1]). A batch without trainable tokens gives zeros that are
        connected to every parameter used.
        """
        self._check(fields, temperature, reference, old)
        rows, columns = _trainable(batch)
        with self.autocast():
            hidden = self.hidden(batch)
            states = hidden[rows, columns - 1]
            parts: dict[str, Tensor] = {}
            wanted = tuple(name for name in HEAD_FIELDS if name in fields)
            if wanted:
                ref_states = old_states = None
                if "kl_ref" in wanted and reference is not None:
                    with torch.no_grad(), self._other(reference):
                        ref_states = reference.hidden(batch)[rows, columns - 1]
                if old is not None and old is not self and fields & OLD_FIELDS:
                    with torch.no_grad():
                        old_states = old.hidden(batch)[rows, columns - 1]
                head = self._head(wanted, temperature, reference, old)
                pieces = self._chunked(head, states, batch.tokens[rows, columns], ref_states, old_states)
                parts = dict(zip(wanted, pieces, strict=True))
            if "value" in fields:
                parts["value"] = self._value(states)
            placed = {name: _place(value, batch, rows, columns) for name, value in parts.items()}
            if "model_score" in fields:
                every = torch.arange(batch.rows, device=hidden.device)
                placed["model_score"] = self._value(hidden[every, (batch.length - 1).clamp(min=0)])
        return TokenStats(**placed)

    def _check(self, fields: frozenset[str], temperature: float, reference: Scorer | None, old: Scorer | None) -> None:
        unknown = fields - {*HEAD_FIELDS, *VALUE_FIELDS}
        if unknown or not fields:
            raise InputError(f"a model gives {', '.join(HEAD_FIELDS + VALUE_FIELDS)}; asked for {sorted(fields)}")
        if not temperature > 0:
            raise InputError(f"temperature must be above 0 to score tokens, got {temperature}")
        if fields & set(HEAD_FIELDS) and self.lm_head is None:
            raise InputError(f"{sorted(fields & set(HEAD_FIELDS))} needs a language-model head; this model has none")
        if fields & set(VALUE_FIELDS) and self.value_head is None:
            raise InputError(f"{sorted(fields & set(VALUE_FIELDS))} needs a value head; this model has none")
        if fields & OLD_FIELDS and (old is None or old.lm_head is None):
            raise InputError(f"{sorted(fields & OLD_FIELDS)} needs the policy as it was, as a model; none is held")
        if "kl_ref" not in fields:
            return
        if reference is None or reference.lm_head is None:
            raise InputError("kl_ref sums over the vocabulary: it needs the reference as a model, not cached logp")
        if reference is self and not has_adapters(self):
            raise InputError("the reference is the policy itself, but it has no adapters to switch off")

    def _other(self, reference: Scorer) -> AbstractContextManager[object]:
        return adapters_off(self) if reference is self else nullcontext()

    def _value(self, states: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        assert self.value_head is not None  # checked where fields are
        dtype = next(self.value_head.parameters()).dtype
        with torch.autocast(states.device.type, enabled=False):
            return self.value_head(states.to(dtype)).squeeze(-1)

    def _head(
        self, wanted: tuple[str, ...], temperature: float, reference: Scorer | None, old: Scorer | None
    ) -> Callable[..., tuple[Tensor, ...]]:
        def head(
            states: Tensor, targets: Tensor, ref_states: Tensor | None, old_states: Tensor | None
        ) -> tuple[Tensor, ...]:
            logits = self.logits(states) / temperature
            if wanted == ("logp",):  # no second [N V] buffer where one is enough
                return (_pick(logits, targets) - logits.logsumexp(-1),)
            law = logits.log_softmax(-1)
            out: dict[str, Tensor] = {"logp": _pick(law, targets)}
            if "entropy" in wanted:
                out["entropy"] = -mean_under(law, law)
            if "kl_ref" in wanted and reference is not None and ref_states is not None:
                with torch.no_grad(), self._other(reference):
                    ref = (reference.logits(ref_states) / temperature).log_softmax(-1)
                _same_vocabulary(law, ref)
                out["kl_ref"] = mean_under(law, law - ref)
            if old is not None and set(wanted) & OLD_FIELDS:
                was = law.detach()
                if old_states is not None:
                    with torch.no_grad():
                        was = (old.logits(old_states) / temperature).log_softmax(-1)
                out["kl_old"] = mean_under(law, law - was)
                out["kl_of_old"] = mean_under(was, was - law)
            return tuple(out[name] for name in wanted)

        return head

    def _chunked(
        self,
        head: Callable[..., tuple[Tensor, ...]],
        states: Float[Tensor, "N D"],
        targets: Int[Tensor, " N"],
        *others: Tensor | None,
    ) -> list[Tensor]:
        """Run the head over chunks of rows; a single chunk is kept, several are computed again in backward."""
        size = max(1, self.chunk_floats // max(1, self.vocabulary))
        if len(states) <= size:  # an empty batch too: its graph must reach the head
            return list(head(states, targets, *others))
        number = -(-len(states) // size)
        split = [[None] * number if other is None else other.split(size) for other in others]
        pieces = [
            checkpoint(head, *piece, use_reentrant=False) if torch.is_grad_enabled() else head(*piece)
            for piece in zip(states.split(size), targets.split(size), *split, strict=True)
        ]
        return [torch.cat(column) for column in zip(*pieces, strict=True)]

    @property
    def vocabulary(self) -> int:
        """Tokens that the head speaks about."""
        return int(self.config.vocab_size)


def _pick(law: Float[Tensor, "N V"], token: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    return law.gather(-1, token.unsqueeze(-1)).squeeze(-1)


def _place(
    value: Float[Tensor, " N"], batch: Batch, rows: Int[Tensor, " N"], columns: Int[Tensor, " N"]
) -> Float[Tensor, "B T"]:
    empty = torch.zeros(batch.tokens.shape, dtype=value.dtype, device=value.device)
    return empty.index_put((rows, columns), value)


def _trainable(batch: Batch) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Row and column of every trainable token; refuses a first token and a position beyond the row's end."""
    rows, columns = batch.mask.nonzero(as_tuple=True)
    wrong = (columns == 0) | (columns >= batch.length[rows])
    if bool(wrong.any()):
        at = int(wrong.to(torch.int8).argmax())
        row, column = int(rows[at]), int(columns[at])
        why = "nothing precedes it" if column == 0 else f"the row has {int(batch.length[row])} tokens"
        raise InputError(f"Batch: row {row} marks token {column} as trainable, but {why}")
    return rows, columns


def _same_vocabulary(law: Tensor, ref: Tensor) -> None:
    if law.shape != ref.shape:
        raise InputError(
            f"the policy has {law.shape[-1]} tokens and the reference {ref.shape[-1]}: they must share a vocabulary"
        )


def _logit_law(config: Any) -> tuple[float | None, float]:
    """(soft cap, factor) that architectures put on the head's output: Gemma, Cohere, Granite."""
    factor = 1.0
    for name, sign in (("logit_scale", 1), ("logits_scaling", -1)):
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            factor *= float(value) ** sign
    cap = getattr(config, "final_logit_softcapping", None)
    return (None if cap is None else float(cap)), factor
