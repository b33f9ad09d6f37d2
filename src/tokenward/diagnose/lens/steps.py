"""From tokens to steps: the numbers of a text summed over its segments (turns, sentences, steps of a chain)."""

from __future__ import annotations

from itertools import groupby

from tokenward.diagnose.lens.rows import Number, TokenRow
from tokenward.errors import InputError


def by_step(row: TokenRow) -> TokenRow:
    """The row with a piece of text for each run of tokens of one segment: Σ_{t in step} x_t for every value x.

    Credit, log-ratio, log π, reward, advantage and KL add up to the step's own; an entropy sums to that of the step's
    tokens given what stands before each. A value is None where no token of the step has one. The step's error is its
    first, its actor that of its first token; totals stay, alternatives go. Derived here.

    >>> row = TokenRow("", ("1", "+", "2", "."), {"credit": (0.5, -2.0, 1.0, None)}, segment=(0, 0, 1, 1))
    >>> by_step(row).tokens, by_step(row).values
    (('1+', '2.'), {'credit': (-1.5, 1.0)})
    """
    if row.segment is None:
        raise InputError(f"{row.where or 'a row'} has no segments: steps are not known, give each token its segment")
    segment = row.segment
    runs = [list(run) for _, run in groupby(range(len(row.tokens)), key=segment.__getitem__)]
    return TokenRow(
        prompt=row.prompt,
        tokens=tuple("".join(row.tokens[t] for t in run) for run in runs),
        values={name: tuple(_sum([column[t] for t in run]) for run in runs) for name, column in row.values.items()},
        totals=row.totals,
        where=row.where,
        pair=row.pair,
        side=row.side,
        wrong=None if row.wrong is None else tuple(_first([row.wrong[t] for t in run]) for run in runs),
        segment=tuple(segment[run[0]] for run in runs),
        actor=None if row.actor is None else tuple(row.actor[run[0]] for run in runs),
    )


def _sum(numbers: list[Number]) -> Number:
    known = [number for number in numbers if number is not None]
    return sum(known, 0.0) if known else None


def _first(names: list[str]) -> str:
    return next((name for name in names if name), "")
