"""How numbers of texts go together within prompts: correlations and least-squares slopes, intervals over prompts.

An implicit reward is defined up to a constant of the prompt, so everything here is read off deviations from the
prompt's own mean: the scatter matrix S = Σ_prompts Σ_texts (x − x̄_prompt)(x − x̄_prompt)ᵀ of the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.diagnose.measures.intervals import copies_drawn, numbered, tails
from tokenward.errors import InputError

Statistic = Callable[[Float[Tensor, "*D K K"]], Float[Tensor, "*D"]]


@final
@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def scatter(columns: Sequence[Sequence[float]], *, clusters: Sequence[Hashable]) -> Float[Tensor, "C K K"]:
    """The scatter matrix of K columns within each of C clusters."""
    table = torch.tensor([list(map(float, column)) for column in columns], dtype=torch.float64).T
    owner = numbered(clusters)
    size = owner.bincount().double()
    if len(size) < 2:
        raise InputError(f"an interval over prompts needs two of them at least, got {len(size)}")
    sums = torch.zeros(len(size), table.shape[1], dtype=torch.float64).index_add(0, owner, table)
    rest = table - (sums / size.unsqueeze(-1))[owner]
    products = rest.unsqueeze(-1) * rest.unsqueeze(-2)
    return torch.zeros(len(size), *products.shape[1:], dtype=torch.float64).index_add(0, owner, products)


def correlation(one: int, two: int) -> Statistic:
    """Correlation of two columns: S_ij/√(S_ii S_jj)."""
    return lambda s: s[..., one, two] / (s[..., one, one] * s[..., two, two]).sqrt()


def slope(of: int, *, on: tuple[int, ...], which: int) -> Statistic:
    """The least-squares coefficient of column `which` when column `of` is fitted by all columns of `on` together."""
    place, index = on.index(which), torch.tensor(on)

    def statistic(s: Float[Tensor, "*D K K"]) -> Float[Tensor, "*D"]:
        gram, moment = s[..., index[:, None], index], s[..., index, of]
        return torch.linalg.solve(gram, moment.unsqueeze(-1)).squeeze(-1)[..., place]

    return statistic


def spread(of: int, *, texts: int) -> Statistic:
    """Root mean square of a column's deviations over `texts` texts: √(S_ii/texts)."""
    return lambda s: (s[..., of, of] / texts).sqrt()


def interval(
    parts: Float[Tensor, "C K K"], statistic: Statistic, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The statistic of Σ_c S_c; the interval draws whole clusters again, with replacement (percentile bootstrap).

    Draws of which the statistic is not known (a column that is constant in every cluster drawn) are left out.

    >>> parts = scatter([[0.0, 1.0, 0.0, 1.0], [0.0, 2.0, 1.0, 3.0]], clusters=["a", "a", "b", "b"])
    >>> print(interval(parts, slope(1, on=(0,), which=0)))
    2.000 (2.000 to 2.000)
    """
    random = torch.Generator().manual_seed(seed)
    weight = copies_drawn(len(parts), draws=draws, random=random)[1:]
    drawn = statistic(torch.einsum("dc,cij->dij", weight, parts))
    return Interval(float(statistic(parts.sum(0))), *tails(drawn, level=level))
