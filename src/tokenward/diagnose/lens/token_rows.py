"""From tensors to rows: each text with the numbers of its tokens, its sums, its errors and its alternatives."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, final

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenward.data.encode import Encoder
from tokenward.diagnose.lens.columns import Columns
from tokenward.diagnose.lens.credit import pieces, silent
from tokenward.diagnose.lens.rows import Alternative, Number, TokenRow
from tokenward.diagnose.lens.spans import marks
from tokenward.diagnose.lens.texts import Text
from tokenward.masking import row_sum
from tokenward.models.likely import Candidate
from tokenward.types import Batch

SUMMED = ("credit", "ratio", "logp", "ref_logp", "kl", "reward")  # values whose sum over a text says something
DIGITS = 7  # significant ones of a float32


def token_rows(
    texts: Sequence[Text],
    batch: Batch,
    columns: Columns,
    *,
    encoder: Encoder,
    candidates: Sequence[Sequence[Sequence[Candidate]]] = (),
    mute: Sequence[Collection[str]] = ((),),
) -> Iterator[TokenRow]:
    """One row for each text; row i of the batch is that of text i. `candidates` belong to the first texts.
    `mute`: for each actor the names of `columns` that are not known of its texts, which their rows leave out.

    Tokens that an environment wrote stand in `tokens` and have no numbers. `totals`: sums over the text's own tokens by
    the name of the value, `length` (its own tokens, the end token included), `score` and `label` where they are known,
    `cut` = 1 where the text's end did not fit.
    """
    sums = {name: row_sum(columns[name].double(), batch.mask).tolist() for name in SUMMED if name in columns}
    words = Words(encoder.tokenizer)
    for row, text in enumerate(texts):
        start, size = len(text.prompt.tokens), len(text.response.tokens)
        unknown = mute[text.actor or 0]
        wrote = text.response.trainable or (True,) * size
        written = pieces(encoder.tokenizer, text.rollout)
        totals = {name: short(values[row]) for name, values in sums.items() if name not in unknown}
        totals |= {"length": float(sum(wrote))}
        totals |= {} if text.score is None else {"score": text.score}
        totals |= {} if text.label is None else {"label": float(text.label)}
        totals |= {"cut": 1.0} if text.cut else {}
        yield TokenRow(
            prompt=text.prompt.text,
            tokens=written,
            values={
                name: _numbers(value[row, start : start + size], wrote)
                for name, value in columns.items()
                if name not in unknown
            },
            totals=totals,
            where=text.prompt.where or None,
            pair=text.pair,
            side=text.side,
            wrong=_wrong(encoder, text, written),
            segment=_whole(batch.segment, row, start, size),
            actor=_actors(text, wrote),
            alternatives=_alternatives(words, candidates[row], wrote) if row < len(candidates) else None,
        )


def _numbers(values: Float[Tensor, " N"], wrote: Sequence[bool]) -> tuple[Number, ...]:
    return tuple(short(x) if own else None for x, own in zip(values.tolist(), wrote, strict=True))


def short(value: float) -> float:
    """The number with the digits that a float32 has."""
    return float(f"{value:.{DIGITS}g}")


def _whole(column: Tensor | None, row: int, start: int, size: int) -> tuple[int, ...] | None:
    return None if column is None else tuple(column[row, start : start + size].tolist())


def _actors(text: Text, wrote: Sequence[bool]) -> tuple[int, ...] | None:
    """The model at each token, −1 where none wrote it; None where one model wrote all."""
    if text.actor is None and all(wrote):
        return None
    return tuple((text.actor or 0) if own else -1 for own in wrote)


def _wrong(encoder: Encoder, text: Text, written: Sequence[str]) -> tuple[str, ...] | None:
    """The errors at the tokens; None where nobody looked, or where the tokens are not those of the text."""
    if text.spans is None or text.answer is None:
        return None
    return marks(written, text.spans, text=text.answer, silent=silent(text.response.tokens, control=encoder.control))


def _alternatives(
    words: Words, places: Sequence[Sequence[Candidate]], wrote: Sequence[bool]
) -> tuple[tuple[Alternative, ...], ...]:
    found = iter(places)
    return tuple(tuple(_finite(words, next(found))) if own else () for own in wrote)


def _finite(words: Words, place: Sequence[Candidate]) -> Iterator[Alternative]:
    """The candidates whose logarithms JSON can hold: none that a model excludes altogether."""
    for token, logp, ref in place:
        if math.isfinite(logp) and (ref is None or math.isfinite(ref)):
            yield Alternative(words.of(token), short(logp), None if ref is None else short(ref))


@final
class Words:
    """The text of single tokens, as they are read behind other text; control tokens and stray bytes by their names."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self._known = tokenizer, dict[int, str]()
        self._special = set(tokenizer.all_special_ids)
        plain = (i for i in range(len(tokenizer)) if i not in self._special and self._decoded([i]).strip().isalnum())
        self._before = list(islice(plain, 1))  # a token of plain text that the others are read behind

    def of(self, token: int) -> str:
        """The text of one token."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> str:
        name: Any = self.tokenizer.convert_ids_to_tokens(token)
        if token in self._special:
            return str(name)
        text = self._decoded([*self._before, token])[len(self._decoded(self._before)) :]
        return str(name) if not text or "\ufffd" in text else text

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
