"""Reference log-probabilities computed once for a whole data set, found again by a row's content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.models.frozen import score
from tokenward.types import Batch, take


@final
class RefCache:
    """log π_ref of rows seen before, found by their content: the token ids and which of them are trainable.

    `key` says what the numbers were made with (model, precision, temperature); a file with another key is refused.
    """

    def __init__(self, key: dict[str, str]) -> None:
        self.key = dict(sorted(key.items()))
        self._logp: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._logp)

    def fill(self, reference: Scorer, batches: Iterable[Batch], *, temperature: float, micro_tokens: int) -> None:
        """Score every row that is not there yet; run it over the whole data before the first step."""
        for batch in batches:
            digests = _digests(batch)
            new = torch.tensor([i for i, d in enumerate(digests) if d not in self._logp], dtype=torch.long)
            if not len(new):
                continue
            part = take(batch, new, width=int(batch.tokens.shape[1]))
            logp = score(reference, part, frozenset({"logp"}), temperature=temperature, micro_tokens=micro_tokens).logp
            assert logp is not None  # asked for above
            for row, index in enumerate(new.tolist()):
                self._logp[digests[index]] = logp[row][part.mask[row]].cpu()

    def lookup(self, batch: Batch) -> Float[Tensor, "B T"]:
        """ref_logp of a batch; a row that was never scored is an error, not a zero."""
        out = torch.zeros(batch.tokens.shape, dtype=self._dtype())
        for row, digest in enumerate(_digests(batch)):
            if digest not in self._logp:
                raise InputError(
                    f"row {row} of the batch is not among the {len(self)} cached reference rows: the cache is of "
                    "other data, another template or another length limit; build it again"
                )
            out[row][batch.mask[row].cpu()] = self._logp[digest]
        return out.to(batch.tokens.device)

    def save(self, path: Path) -> None:
        """Write one safetensors file: values end to end, their counts, the digests, and the key."""
        digests = sorted(self._logp)
        rows = [self._logp[d] for d in digests]
        tensors = {
            "logp": torch.cat(rows) if rows else torch.zeros(0),
            "counts": torch.tensor([len(r) for r in rows], dtype=torch.long),
            "digests": torch.tensor([list(bytes.fromhex(d)) for d in digests], dtype=torch.uint8).reshape(-1, 32),
        }
        beside = path.with_name(path.name + ".partial")
        save_file(tensors, beside, metadata={"key": json.dumps(self.key)})
        beside.replace(path)

    @staticmethod
    def load(path: Path, *, key: dict[str, str]) -> RefCache:
        """Read a cache; its key must equal `key`."""
        cache = RefCache(key)
        try:
            with safe_open(path, framework="pt") as file:
                stored = json.loads((file.metadata() or {}).get("key", "{}"))
                logp, counts, digests = (file.get_tensor(n) for n in ("logp", "counts", "digests"))
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read the reference cache {path}: {error}") from error
        for name in sorted({*stored, *cache.key}):
            if stored.get(name) != cache.key.get(name):
                raise InputError(
                    f"the reference cache {path} was made with {name} = {stored.get(name)}, "
                    f"this run has {cache.key.get(name)}: delete it to build it again"
                )
        names = [bytes(row).hex() for row in digests.tolist()]
        cache._logp = dict(zip(names, logp.split(counts.tolist()), strict=True))
        return cache

    def _dtype(self) -> torch.dtype:
        return next(iter(self._logp.values())).dtype if self._logp else torch.float32


def _digests(batch: Batch) -> list[str]:
    tokens, mask = batch.tokens.cpu().to(torch.int64), batch.mask.cpu()
    out = []
    for row, length in enumerate(batch.length.tolist()):
        content = hashlib.sha256(tokens[row, :length].numpy().tobytes())
        content.update(mask[row, :length].numpy().tobytes())
        out.append(content.hexdigest())
    return out
