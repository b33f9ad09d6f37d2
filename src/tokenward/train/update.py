"""One optimizer update: gradients accumulated over micro-batches, checked, clipped, applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenward.data.collate import split
from tokenward.errors import RunError
from tokenward.models.roles import Roles
from tokenward.objective.health.metrics import ratio_tail
from tokenward.objective.metrics import fields_logged, step_maxima, step_metrics
from tokenward.objective.recipe import Recipe
from tokenward.train import coupled
from tokenward.train.config import RunConfig
from tokenward.train.runtime import Runtime
from tokenward.types import Batch, Signal, TokenStats, present, take


@final
@dataclass(frozen=True)
class Piece:
    """Rows to learn from, with what was computed when their batch was made."""

    batch: Batch
    frozen: TokenStats
    signal: Signal

    def rows(self, index: Int[Tensor, " R"]) -> Piece:
        """The given rows alone, cut to the longest of them."""
        width = int(self.batch.length[index].max())
        batch, frozen, signal = self.batch, self.frozen, self.signal
        return Piece(
            take(batch, index, width=width), take(frozen, index, width=width), take(signal, index, width=width)
        )


@final
@dataclass(frozen=True)
class Outcome:
    """An update: loss and gradient norm before the step, metrics of its rows, tokens computed (padding left out)."""

    loss: float
    grad_norm: float
    values: dict[str, float]
    tokens: int


@final
class Learner:
    """The parts that an update needs: recipe, models, optimizer, and where to compute."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        roles: Roles,
        optimizer: torch.optim.Optimizer,
        runtime: Runtime,
        config: RunConfig,
        where: Callable[[int], str] = str,
    ) -> None:
        self.recipe, self.roles, self.optimizer = recipe, roles, optimizer
        self.runtime, self.config, self.where = runtime, config, where
        self._fields = recipe.trained | fields_logged(recipe)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, piece: Piece) -> Outcome:
        """Move the parameters once on the gradient of the loss of these rows; NaN stops before anything moves."""
        outcome, norm = self.accumulate(piece)
        if self.config.grad_clip is not None:
            changed = [p for p in self._parameters if p.grad is not None]
            nn.utils.clip_grads_with_norm_(changed, self.config.grad_clip, norm)
        self.optimizer.step()
        return outcome

    def accumulate(self, piece: Piece) -> tuple[Outcome, Float[Tensor, ""]]:
        """The gradient of the loss of these rows in every parameter's `grad`, and its norm; NaN stops here."""
        self.optimizer.zero_grad(set_to_none=True)
        weights = self.runtime.total(self.recipe.weights(piece.batch))
        tally = Tally()
        scope = self.recipe.scope
        parts = split(piece.batch, max_tokens=self.config.micro_tokens, scope="row" if scope == "batch" else scope)
        if scope == "batch" and len(parts) > 1:
            self._coupled(tally, piece, parts, weights)
        else:
            for index in parts:
                self._apart(tally, piece.rows(index), weights)
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        tally.share("grad_norm", norm, of=torch.ones(()))
        values = tally.numbers()
        loss_value, grad_norm = values.pop("loss", math.nan), values.pop("grad_norm")
        if not (math.isfinite(loss_value) and math.isfinite(grad_norm)):
            raise RunError(self._blame(piece, weights))
        return Outcome(loss_value, grad_norm, values, int(piece.batch.length.sum())), norm

    def _apart(self, tally: Tally, micro: Piece, weights: Mapping[str, Float[Tensor, ""]]) -> None:
        """Add the gradient of a micro-batch whose loss is its own."""
        stats = self._stats(micro)
        sums = self.recipe.sums(micro.batch, stats, micro.signal)
        loss = self.runtime.share(self.recipe.loss(sums, weights))
        loss.backward()  # type: ignore[no-untyped-call]
        self._measure(tally, micro, stats, loss, sums, weights)

    def _coupled(
        self, tally: Tally, piece: Piece, parts: list[Int[Tensor, " _"]], weights: Mapping[str, Float[Tensor, ""]]
    ) -> None:
        """Add the gradient of a loss that couples the rows: the whole loss first, then each micro-batch's share."""
        now = coupled.gathered(piece.batch, parts, lambda batch: self.roles.current(batch, self._fields))
        whole = coupled.whole_loss(
            self.recipe, piece.batch, piece.frozen, piece.signal, now=now, weights=weights
        )  # fmt: skip
        for index in parts:
            micro = piece.rows(index)
            stats = self.roles.current(micro.batch, self.recipe.trained)
            loss = self.runtime.share(coupled.share(stats, micro.batch, whole.slopes, index))
            loss.backward()  # type: ignore[no-untyped-call]
        self._measure(tally, piece, whole.stats, self.runtime.share(whole.loss), whole.sums, weights)

    def _stats(self, piece: Piece) -> TokenStats:
        """What was computed when the batch was made, and what the models say now, with gradient."""
        return replace(piece.frozen, **present(self.roles.current(piece.batch, self._fields)))

    def _measure(
        self,
        tally: Tally,
        piece: Piece,
        stats: TokenStats,
        loss: Float[Tensor, ""],
        sums: Mapping[str, Float[Tensor, ""]],
        weights: Mapping[str, Float[Tensor, ""]],
    ) -> None:
        """Loss, terms and metrics of one micro-batch, or of a whole batch."""
        tally.share("loss", loss, of=torch.ones(()))
        for name, value in sums.items():
            tally.share(f"terms/{name}", value, of=weights[name])
        told = step_metrics(self.recipe, piece.batch, stats, piece.signal) | ratio_tail(piece.batch, stats)
        for name, (value, weight) in told.items():
            tally.add(name, value, weight)
        for name, value in step_maxima(piece.batch, stats).items():
            tally.largest(name, value)

    def _blame(self, piece: Piece, weights: Mapping[str, Float[Tensor, ""]]) -> str:
        """One line naming the prompts whose rows make the loss or its gradient NaN or infinite."""
        guilty: list[str] = []
        for number in torch.unique(piece.batch.group).tolist():
            self.optimizer.zero_grad(set_to_none=True)
            rows = piece.rows((piece.batch.group == number).nonzero().squeeze(-1))
            loss = self.recipe.loss(self.recipe.sums(rows.batch, self._stats(rows), rows.signal), weights)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            if not all(bool(x.isfinite().all()) for x in (loss, *gradients)):
                guilty.append(self.where(int(number)))
        self.optimizer.zero_grad(set_to_none=True)
        named = ", ".join(guilty[:8]) + (" …" if len(guilty) > 8 else "")
        rows_named = f"it comes from {named}" if guilty else "it comes from no row alone: their sum is too large"
        return f"{self.recipe.name}: the loss or its gradient is NaN or infinite; {rows_named}"


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if batch.tokens.device == device:
        return batch
    there: dict[str, Any] = {name: value.to(device) for name, value in present(batch).items()}
    return replace(batch, **there)


@final
class Tally:
    """Sums and weights of named numbers over micro-batches, kept as tensors until the end: one copy to Python."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor, weight: Tensor) -> None:
        """sum += value, weight += weight."""
        self.share(name, value, of=self._weights[name] + weight if name in self._weights else weight)

    def share(self, name: str, value: Tensor, *, of: Tensor) -> None:
        """sum += value, where the whole weight is known already."""
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._weights[name] = of

    def largest(self, name: str, value: Tensor) -> None:
        """Keep the largest value."""
        self._sums[name] = torch.maximum(self._sums[name], value) if name in self._sums else value
        self._weights[name] = torch.ones(())

    def numbers(self) -> dict[str, float]:
        """sum ÷ weight by name; names of weight 0 are left out."""
        pairs = [t.double().reshape(()).cpu() for n in self._sums for t in (self._sums[n], self._weights[n])]
        flat = torch.stack(pairs).tolist() if pairs else []
        triples = zip(self._sums, flat[::2], flat[1::2], strict=True)
        return {name: value / weight for name, value, weight in triples if weight}
