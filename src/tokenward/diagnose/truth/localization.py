"""How well scores of tokens find wrong tokens: AUC and average precision by error type, with intervals over texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.diagnose.lens.rows import Number, TokenRow
from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.measures.intervals import numbered
from tokenward.diagnose.truth.ranking import ends, redrawn
from tokenward.errors import InputError, nearest
from tokenward.lab.theory.ranking import ranked

Suspicion = Sequence[Sequence[Number]]  # one number per token of each row, higher where an error is thought likelier
ANY = "any"
SIGNS: dict[str, Literal[-1, 1]] = {  # which way a number of a token points at an error
    "credit": -1, "ratio": -1, "logp": -1, "ref_logp": -1, "value": -1, "reward": -1, "advantage": -1,
    "entropy": 1, "ref_entropy": 1, "kl": 1,
}  # fmt: skip


@final
@dataclass(frozen=True)
class Found:
    """One line: how well a score finds errors of one type among the tokens that are right.

    `wrong`, `right`: tokens of the type and right tokens · `texts` that hold either · `auc`, `ap` as in ranking.py. By
    chance AUC is ½ and average precision wrong/(wrong + right).
    """

    score: str
    error: str
    auc: Interval
    ap: Interval
    wrong: int
    right: int
    texts: int


@final
@dataclass(frozen=True)
class Lead:
    """The paired difference of two scores on the same tokens and the same draws of texts: score − against."""

    score: str
    against: str
    error: str
    auc: Interval
    ap: Interval


@final
@dataclass(frozen=True)
class Localization:
    """The whole table: `found` by score and error type, `leads` of the first score over each other one."""

    found: tuple[Found, ...]
    leads: tuple[Lead, ...]
    draws: int
    level: float

    def of(self, score: str, *, error: str = ANY) -> Found:
        """The line of a score for a type of error."""
        for one in self.found:
            if (one.score, one.error) == (score, error):
                return one
        names = dict.fromkeys(f"{one.score}, {one.error}" for one in self.found)
        raise InputError(f"no line {score}, {error} in the table.{nearest(f'{score}, {error}', names)}")

    def lead(self, against: str, *, error: str = ANY) -> Lead:
        """The lead of the first score over another."""
        (one,) = (one for one in self.leads if (one.against, one.error) == (against, error))
        return one

    def as_json(self) -> dict[str, Any]:
        """As `docs/credit.md` describes it; a number that is not known (no error of the type was drawn) is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def text(self) -> str:
        """The table for a terminal."""
        head = ("score", "error", "AUC", "average precision", "by chance", "wrong", "right", "texts")
        lines = [
            (one.score, one.error, shown(one.auc), shown(one.ap), _share(one.wrong, one.wrong + one.right),
             str(one.wrong), str(one.right), str(one.texts))
            for one in self.found
        ]  # fmt: skip
        width = [max(len(row[i]) for row in (head, *lines)) for i in range(len(head))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, width, strict=True)).rstrip() for r in (head, *lines))


def from_json(plain: Mapping[str, Any]) -> Localization:
    """The table of an object that `as_json` made."""
    given = json.loads(json.dumps(plain))
    lists: dict[str, list[Any]] = {"found": [], "leads": []}
    for name, kind in (("found", Found), ("leads", Lead)):
        for one in given[name]:
            for key in ("auc", "ap"):
                one[key] = Interval(**{end: math.nan if x is None else x for end, x in one[key].items()})
            lists[name].append(kind(**one))
    return Localization(tuple(lists["found"]), tuple(lists["leads"]), given["draws"], given["level"])


def suspicion(rows: Sequence[TokenRow], name: str) -> list[tuple[Number, ...]]:
    """A number of the rows turned so that it is high where an error is likely: −credit, −log π, entropy as it is.

    >>> suspicion([TokenRow("", ("a", "b"), {"credit": (0.5, None)})], "credit")
    [(-0.5, None)]
    """
    if name not in SIGNS:
        raise InputError(f"no way is known in which {name!r} points at an error.{nearest(name, SIGNS)}")
    missing = next((row for row in rows if name not in row.values), None)
    if missing is not None:
        raise InputError(f"{missing.where or 'a row'} has no {name}; it has {', '.join(missing.values) or 'nothing'}")
    return [tuple(None if x is None else SIGNS[name] * x for x in row.values[name]) for row in rows]


def localization(
    rows: Sequence[TokenRow],
    scores: Mapping[str, Suspicion],
    *,
    places: Sequence[Sequence[bool]] | None = None,
    clusters: Sequence[str] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Localization:
    """AUC and average precision of each score for each type of error of `wrong` in the rows, and for any of them.

    The tokens of a type stand against the tokens that are right; tokens of other types are left out. `places`: the
    tokens that take part (all of them if absent); a token that some score says nothing of is left out for all.
    `clusters`: what is drawn again for the intervals; each row for itself if absent.
    """
    table = _table(rows, scores, places, clusters)
    copies = redrawn(table.clusters, draws=draws, seed=seed)
    kinds = sorted({kind for kind in table.wrong if kind})
    found, leads = [], []
    for error in (ANY, *(kinds if len(kinds) > 1 else ())):
        labels = torch.tensor([bool(k) if error == ANY else k == error for k in table.wrong], dtype=torch.bool)
        kept = labels | torch.tensor([not kind for kind in table.wrong], dtype=torch.bool)
        first: tuple[Tensor, Tensor] | None = None
        for score, column in table.columns.items():
            pair = ranked(column[kept], positive=labels[kept], owner=table.owner[kept], copies=copies)
            auc, ap = (ends(values, level=level) for values in pair)
            wrong, texts = int(labels.sum()), len(table.owner[kept].unique())
            found.append(Found(score, error, auc, ap, wrong, int(kept.sum()) - wrong, texts))
            if first is None:
                first, name = pair, score
            else:
                more = (ends(a - b, level=level) for a, b in zip(first, pair, strict=True))
                leads.append(Lead(name, score, error, *more))
    return Localization(tuple(found), tuple(leads), draws, level)


def moved_marks(rows: Sequence[TokenRow], *, seed: int) -> list[TokenRow]:
    """The rows with each text's marks turned round by a random number of tokens: a control.

    Runs of wrong tokens and their share of each text stay, only where they stand does not. What is left of an AUC above
    ½ comes from texts, not from tokens: the score is higher in texts that hold more errors.
    """
    random = torch.Generator().manual_seed(seed)
    moved = []
    for row in rows:
        marks = row.wrong or ("",) * len(row.tokens)
        turn = int(torch.randint(max(1, len(marks)), (1,), generator=random))
        moved.append(replace(row, wrong=marks[turn:] + marks[:turn]))
    return moved


def shown(found: Interval) -> str:
    """An estimate and its interval; a dash where there was nothing to rank.

    >>> shown(Interval(0.5, 0.4, 0.6))
    '0.500 (0.400 to 0.600)'
    """
    return "–" if math.isnan(found.value) else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


@final
@dataclass(frozen=True)
class _Table:
    """The tokens that take part, one after the other."""

    columns: dict[str, Float[Tensor, " N"]]
    wrong: list[str]
    owner: Int[Tensor, " N"]
    clusters: int


def _table(
    rows: Sequence[TokenRow],
    scores: Mapping[str, Suspicion],
    places: Sequence[Sequence[bool]] | None,
    clusters: Sequence[str] | None,
) -> _Table:
    if not rows or not scores:
        raise InputError(f"{len(rows)} rows and {len(scores)} scores were given: at least one of each is needed")
    unmarked = next((row for row in rows if row.wrong is None), None)
    if unmarked is not None:
        raise InputError(f"{unmarked.where or 'a row'} says nothing of errors: give each token its error, '' for none")
    names: Sequence[str | int] = range(len(rows)) if clusters is None else clusters
    number = numbered(names)
    kept = torch.tensor(_takes_part(rows, scores, places), dtype=torch.bool)
    columns = {
        name: torch.tensor([math.nan if x is None else float(x) for row in column for x in row], dtype=torch.float64)
        for name, column in scores.items()
    }
    owner = torch.repeat_interleave(number, torch.tensor([len(row.tokens) for row in rows]))
    kinds = [kind for row in rows for kind in row.wrong or ()]
    return _Table(
        {name: column[kept] for name, column in columns.items()},
        [kind for kind, keep in zip(kinds, kept.tolist(), strict=True) if keep],
        owner[kept],
        int(number.max()) + 1,
    )


def _takes_part(
    rows: Sequence[TokenRow], scores: Mapping[str, Suspicion], places: Sequence[Sequence[bool]] | None
) -> list[bool]:
    """Whether each token is one of `places` and every score has a number for it."""
    for name, given in {**scores, **({} if places is None else {"places": places})}.items():
        if [len(one) for one in given] != [len(row.tokens) for row in rows]:
            raise InputError(
                f"{name}: {len(given)} rows that do not have the tokens of the {len(rows)} texts; give each token one"
            )
    for name, column in scores.items():
        for i, numbers in enumerate(column):
            broken = next((t for t, x in enumerate(numbers) if x is not None and math.isnan(x)), None)
            if broken is not None:
                where = rows[i].where or f"text {i + 1}"
                raise InputError(f"{name}: NaN at token {broken + 1} of {where}; None is for a token without a number")
    kept: list[bool] = []
    for i, row in enumerate(rows):
        for t in range(len(row.tokens)):
            known = all(column[i][t] is not None for column in scores.values())
            kept.append(known and (places is None or bool(places[i][t])))
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
