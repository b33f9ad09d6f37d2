"""Credit of each token: the implicit advantage β·log π/π_ref, in reward units, and what it finds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from tokenward.data.collate import rollouts_batch
from tokenward.diagnose.measures.intervals import Area, area
from tokenward.models import frozen
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards.text import completion_text, token_ends
from tokenward.types import Rollout

FIELDS = frozenset({"logp"})


def token_credit(
    policy: Scorer,
    reference: Scorer,
    rollouts: Sequence[Rollout],
    *,
    beta: float,
    pad_id: int,
    micro_tokens: int = 16384,
) -> list[tuple[float, ...]]:
    """β (log π(y_t|s_t) − log π_ref(y_t|s_t)) of every response token of given texts (Rafailov et al. 2024, §4.2)."""
    if not rollouts:
        return []
    batch = rollouts_batch([[r] for r in rollouts], pad_id=pad_id)
    ours = frozen.score(policy, batch, FIELDS, micro_tokens=micro_tokens).logp
    theirs = frozen.score(reference, batch, FIELDS, micro_tokens=micro_tokens).logp
    assert ours is not None and theirs is not None  # asked for above
    table = (beta * (ours - theirs)).tolist()
    starts = [len(r.prompt_tokens) for r in rollouts]
    return [
        tuple(row[start : start + len(r.response_tokens)])
        for row, start, r in zip(table, starts, rollouts, strict=True)
    ]


def finds(
    credit: Sequence[Sequence[float]], *, wrong: Sequence[Sequence[bool]], slots: Sequence[Sequence[bool]]
) -> Area:
    """How well low credit finds wrong tokens: AUC of −credit for `wrong` among the tokens of `slots`.

    One sequence per text; the interval draws whole texts again, because errors of one text are not independent.
    """
    scores: list[float] = []
    labels: list[bool] = []
    texts: list[int] = []
    for text, (values, marks, places) in enumerate(zip(credit, wrong, slots, strict=True)):
        for value, mark, place in zip(values, marks, places, strict=True):
            if place:
                scores.append(-value)
                labels.append(mark)
                texts.append(text)
    return area(scores, labels, clusters=texts)


def pieces(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> tuple[str, ...]:
    """The text of each response token, so that they read as the text when put together; end tokens by their name.

    A character whose bytes several tokens write is the last one's, the others are "". Linear in the length, but for
    tokenizers whose decoder looks further back than four tokens (`token_ends`).
    """
    special = silent(rollout.response_tokens, control=set(tokenizer.all_special_ids))
    spoken = [token for place, token in enumerate(rollout.response_tokens) if place not in special]
    text = completion_text(tokenizer, rollout.prompt_tokens, spoken)
    ends = iter(token_ends(tokenizer, rollout.prompt_tokens, spoken))
    found, start = [], 0
    for place, token in enumerate(rollout.response_tokens):
        if place in special:
            found.append(str(tokenizer.convert_ids_to_tokens(token)))
            continue
        end = next(ends)
        found.append(text[start:end])
        start = end
    return tuple(found)


def silent(tokens: Sequence[int], *, control: Collection[int]) -> frozenset[int]:
    """The places of the tokens that write no text: control tokens (`Encoder.control`), the end token among them."""
    return frozenset(place for place, token in enumerate(tokens) if token in control)
