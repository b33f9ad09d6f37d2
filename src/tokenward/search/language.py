"""A language model as a search problem: states remember keys and values, so that a token is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.models.two_laws import same_vocabulary
from tokenward.rollout.rewards import Reward
from tokenward.search.problem import Moves
from tokenward.types import Rollout

KeysValues = tuple[tuple[Tensor, Tensor], ...]  # of each layer, [N H T D]


@final
@dataclass(frozen=True, eq=False)
class Past:
    """What one model read of some rows: keys and values, padded on the left; `real` marks tokens."""

    layers: KeysValues
    real: Bool[Tensor, "N T"]


@final
@dataclass(frozen=True, eq=False)
class Text:
    """A prompt and the response so far; row `row` of `pasts` (one per model) covers all but the last token."""

    prompt: Prompt
    tokens: tuple[int, ...] = ()
    finish: str | None = None
    pasts: tuple[Past, ...] | None = None
    row: int = 0


@final
class LanguageProblem:
    """The texts of a policy, token by token, compared with a reference where there is one.

    `branch` offers the likeliest tokens alone (None: all, so that samples follow the policy exactly): an implicit
    reward is only as good as the data that taught it, and says little of tokens that neither model would write. A text
    ends with an end token or after `max_new_tokens`. Models whose cache is not plain keys and values (sliding windows,
    state spaces) read the whole text again for each token, and it is counted. What was read of a state is kept as long
    as the state is. `critic` gives V of each state: a model with a value head, which may be the policy itself.
    """

    def __init__(
        self,
        policy: Scorer,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        reference: Scorer | None = None,
        critic: Scorer | None = None,
        reward: Reward | None = None,
        branch: int | None = None,
        rows: int = 256,
    ) -> None:
        for name, value in (("max_new_tokens", max_new_tokens), ("branch", branch), ("rows", rows)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, got {value}")
        if critic is not None and critic.value_head is None:
            raise InputError("the critic has no value head; give one that PPO wrote, or a reward model")
        if reference is not None:
            same_vocabulary(policy, reference)
        if critic is not None and critic.vocabulary < policy.vocabulary:
            raise InputError(
                f"the policy writes {policy.vocabulary} tokens and the critic reads {critic.vocabulary}: give one that "
                "was trained from the same base"
            )
        others = (reference, None if critic is policy or critic is reference else critic)  # each is read once
        self.models = (policy, *(model for model in others if model is not None))
        self.reference, self._judge = reference, None if critic is None else self.models.index(critic)
        self.end_ids, self.pad_id, self.max_new_tokens = frozenset(end_ids), pad_id, max_new_tokens
        self.reward, self.branch, self.rows = reward, branch, rows
        self.context = min((m.context for m in self.models if m.context is not None), default=None)
        self._remembers = all(_plain_cache(model) for model in self.models)
        self._after: WeakKeyDictionary[Text, tuple[tuple[Past, ...], int]] = WeakKeyDictionary()  # children start there

    def root(self, prompt: Prompt) -> Text:
        """The empty response."""
        if not prompt.tokens:
            raise InputError(f"prompt {prompt.id} has no tokens: a search needs at least a begin token")
        if self.context is not None and len(prompt.tokens) + self.max_new_tokens > self.context:
            raise InputError(
                f"prompt {prompt.id} has {len(prompt.tokens)} tokens; with --max-new-tokens {self.max_new_tokens} "
                f"that is beyond the context of {self.context} tokens, the shortest of the models"
            )
        return Text(prompt)

    def terminal(self, state: Text) -> bool:
        return state.finish is not None

    def child(self, state: Text, token: int) -> Text:
        """The state with one token more; it goes on from what the last `expand` of this state read."""
        tokens = (*state.tokens, token)
        finish = "stop" if token in self.end_ids else "length" if len(tokens) >= self.max_new_tokens else None
        pasts, row = self._after.get(state, ((), 0))
        if finish is not None or not pasts:
            return replace(state, tokens=tokens, finish=finish, pasts=None, row=0)
        return replace(state, tokens=tokens, pasts=pasts, row=row)

    @torch.no_grad()
    def expand(self, states: Sequence[Text]) -> Moves:
        """Log-probabilities of the next token of every state, `rows` states at a time."""
        ended = [state for state in states if state.finish is not None]
        if ended:
            raise InputError(f"{len(ended)} states are finished texts and have no next token")
        # states with nothing read yet apart from those that read one token: no padding between the two
        order = sorted(range(len(states)), key=lambda i: states[i].pasts is not None)
        fresh = sum(state.pasts is None for state in states)
        pieces = [order[:fresh], order[fresh:]]
        laws: list[list[Tensor]] = [[] for _ in self.models]
        values: list[Tensor] = []
        forwarded = 0
        for part in (piece[i : i + self.rows] for piece in pieces for i in range(0, len(piece), self.rows)):
            chunk = [states[i] for i in part]
            pasts: list[Past] = []
            for number, model in enumerate(self.models):
                hidden, past, count = self._read(model, number, chunk)
                if model in (self.models[0], self.reference):
                    laws[number].append(_law(model, hidden))
                if number == self._judge:
                    values.append(_value(model, hidden))
                pasts += [past] if past is not None else []
                forwarded += count
            for row, state in enumerate(chunk):
                self._after[state] = (tuple(pasts), row)
        back = torch.tensor(order).argsort()
        logp, *rest = (torch.cat(parts)[back] for parts in laws if parts)
        value = torch.cat(values)[back].cpu() if values else None
        return replace(self._moves(logp, rest[0] if rest else None, forwarded), value=value)

    def score(self, states: Sequence[Text]) -> list[float]:
        """The reward of each text."""
        if self.reward is None:
            raise InputError("this search has no reward; give --reward")
        found = self.reward.score([rollout(state) for state in states], {s.prompt.id: s.prompt for s in states})
        return [float(r.total) for r in found if r.total is not None]

    def _moves(self, logp: Float[Tensor, "N V"], ref: Float[Tensor, "N V"] | None, forwarded: int) -> Moves:
        tokens = torch.arange(logp.shape[-1]).expand(logp.shape)
        if self.branch is not None and self.branch < logp.shape[-1]:
            logp, tokens = logp.topk(self.branch, dim=-1)
            ref = None if ref is None else ref.gather(-1, tokens)
        return Moves(tokens, logp, ref, forwarded=forwarded)

    def _read(self, model: Scorer, number: int, states: list[Text]) -> tuple[Tensor, Past | None, int]:
        """(last hidden states [N D], what is now read, tokens read) of states that all have a past, or all none."""
        if states[0].pasts is None:
            ids = [[*state.prompt.tokens, *state.tokens] for state in states]
            past = None
        else:
            ids = [[state.tokens[-1]] for state in states]
            past = _gathered([(state.pasts[number], state.row) for state in states if state.pasts is not None])
        width = max(map(len, ids))
        tokens = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in ids], device=model.device)
        real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in ids], device=model.device)
        seen = real if past is None else torch.cat([past.real, real], -1)
        hidden, cache = _forward(model, tokens, seen, past, remember=self._remembers)
        layers = tuple((layer.keys, layer.values) for layer in cache.layers) if cache is not None else ()
        return hidden, Past(layers, seen) if layers else None, sum(map(len, ids))


def rollout(state: Text) -> Rollout:
    """A finished text as a completion; no sampling law, so its log-probabilities are NaN."""
    number = len(state.tokens)
    return Rollout(
        prompt_id=state.prompt.id,
        prompt_tokens=state.prompt.tokens,
        response_tokens=state.tokens,
        trainable=(True,) * number,
        logp=(float("nan"),) * number,
        finish="stop" if state.finish == "stop" else "length",
    )


def _forward(
    model: Scorer, tokens: Int[Tensor, "N W"], seen: Bool[Tensor, "N T"], past: Past | None, *, remember: bool
) -> tuple[Float[Tensor, "N D"], Any]:
    """Hidden states of the last token, and the cache."""
    cache: Any = DynamicCache(ddp_cache_data=past.layers) if past is not None else DynamicCache()
    place = (seen.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    with model.autocast():
        out: Any = model.backbone(
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=place,
            past_key_values=cache if remember else None,
            use_cache=remember,
        )
        return out.last_hidden_state[:, -1], cache if remember else None


def _law(model: Scorer, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
    with model.autocast():
        return model.logits(hidden).log_softmax(-1)


def _value(model: Scorer, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """V of the states, in the head's own precision."""
    head: Any = model.value_head
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.as_tensor(head(hidden.to(head.weight.dtype)).squeeze(-1))


def _gathered(rows: Sequence[tuple[Past, int]]) -> Past:
    """The named rows of several pasts as one, padded on the left to the longest."""
    groups: dict[int, tuple[Past, list[int], list[int]]] = {}
    for place, (past, row) in enumerate(rows):
        _, sources, places = groups.setdefault(id(past), (past, [], []))
        sources.append(row)
        places.append(place)
    width = max(past.real.shape[1] for past, _, _ in groups.values())
    parts = [_rows(past, sources, width) for past, sources, _ in groups.values()]
    back = torch.tensor([place for _, _, places in groups.values() for place in places]).argsort()
    back = back.to(parts[0].real.device)
    layers = tuple(
        (torch.cat([part.layers[i][0] for part in parts])[back], torch.cat([part.layers[i][1] for part in parts])[back])
        for i in range(len(parts[0].layers))
    )
    return Past(layers, torch.cat([part.real for part in parts])[back])


def _rows(past: Past, rows: list[int], width: int) -> Past:
    index = torch.tensor(rows, device=past.real.device)
    extra = width - past.real.shape[1]
    real = torch.nn.functional.pad(past.real[index], (extra, 0))
    pad = [tuple(torch.nn.functional.pad(x[index], (0, 0, extra, 0)) for x in layer) for layer in past.layers]
    return Past(tuple((keys, values) for keys, values in pad), real)


def _plain_cache(model: Scorer) -> bool:
    """Whether every layer keeps all keys and values, so that rows can be gathered from several reads."""
    kinds = getattr(model.config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return getattr(model.config, "sliding_window", None) is None and hasattr(model.config, "num_attention_heads")
