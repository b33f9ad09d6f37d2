"""The logits of a second model beside those of the one that generates: sampling from a mixture of two laws."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.models.adapters import adapters_off
from tokenward.models.forward import Scorer


@final
@dataclass(frozen=True)
class Mixture:
    """π^{1−c}·π_other^c, each token normalized by itself: logits (1−c)·l + c·l_other; temperature and cuts come after.

    c = `share`. The geometric mean of the laws of whole responses would be normalized once: it agrees for responses of
    one token. adapters "off": the other model is the generating one without its adapters.
    """

    other: Scorer
    share: float
    adapters: Literal["on", "off"] = "on"

    def begin(self, seen: Int[Tensor, "B W"]) -> SecondModel:
        """A reader of one call of `generate`; `seen` is 0 where a context is padded on the left."""
        return SecondModel(self, seen)


@final
class SecondModel:
    """Reads what `generate` has so far, with a cache of its own, and mixes its logits in."""

    def __init__(self, mixture: Mixture, seen: Int[Tensor, "B W"]) -> None:
        self.mixture, self.seen = mixture, seen
        self._cache: Any = None
        self._read = 0  # columns that the cache holds

    def mix(self, tokens: Int[Tensor, "B N"], logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """(1−c)·logits + c·the second model's after `tokens`, the whole rows so far."""
        written = tokens.shape[1] - self.seen.shape[1]
        seen = torch.nn.functional.pad(self.seen, (0, written), value=1)
        place = (seen.cumsum(-1) - 1).clamp(min=0)[:, self._read :]
        other, share = self.mixture.other, self.mixture.share
        off = self.mixture.adapters == "off"
        with other.autocast(), adapters_off(other) if off else nullcontext():
            out = other.backbone(
                input_ids=tokens[:, self._read :],
                attention_mask=seen,
                position_ids=place,
                past_key_values=self._cache,
                use_cache=True,
            )
            theirs = other.logits(out.last_hidden_state[:, -1])
        self._cache, self._read = out.past_key_values, tokens.shape[1]
        return (1 - share) * logits + share * theirs.to(logits.dtype)
