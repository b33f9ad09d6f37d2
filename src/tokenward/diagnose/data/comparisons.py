"""`tokenward data graph`: the comparison graph of a preference file, and what its labels can fix.

Nodes are the answers to a prompt, by their exact text; a row is an edge. Within a connected component pairs fix the
differences of log π/π_ref and no more; how a prompt's components and unnamed answers share probability stays free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, final

import torch
from torch import Tensor

from tokenward.data.files import raw_rows
from tokenward.data.formats import parse_rows
from tokenward.data.rows import Row
from tokenward.data.tally import Tally
from tokenward.errors import InputError
from tokenward.lab.optima.graph import both_ways, components, spectra


@final
@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    least: float
    middle: float
    most: float


@final
@dataclass(frozen=True)
class FileGraph:
    """What a preference file compares.

    `pairs`: different unordered pairs of answers · `repeated`: rows that say what an earlier row says · `contradicted`:
    pairs preferred both ways by different rows · `components_per_prompt`, `sizes`: {number of components of a prompt:
    how many prompts}, {answers in a component: how many components} · `finite`: components in which wins lead from any
    answer to any other, so that Bradley–Terry scores are finite · `connectivity` (λ₂, in comparisons) and `condition`
    (λ_max/λ₂) of the components of three answers or more.
    """

    source: str
    rows: int
    usable: int
    prompts: int
    responses: int
    pairs: int
    repeated: int
    contradicted: int
    soft: int
    single_pair_prompts: int
    components: int
    components_per_prompt: dict[int, int]
    sizes: dict[int, int]
    finite: int
    wide: int
    connectivity: Spread | None
    condition: Spread | None
    dropped: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "follows": self.follows()}

    def lines(self) -> list[str]:
        """The graph as printed."""
        found = [
            f"{self.source}: {self.rows} rows, {self.usable} usable",
            f"prompts        {self.prompts:8}   with one pair alone: {self.single_pair_prompts}",
            f"answers        {self.responses:8}   by their exact text",
            f"pairs          {self.pairs:8}   rows that repeat another: {self.repeated}; "
            f"pairs preferred both ways: {self.contradicted}; soft labels: {self.soft}",
            f"components     {self.components:8}   finite Bradley–Terry scores in {self.finite}",
            f"  of a prompt  {_counts(self.components_per_prompt, 'component', 'prompts')}",
            f"  sizes        {_counts(self.sizes, 'answer', 'components')}",
        ]
        for name, spread in (("λ₂", self.connectivity), ("λ_max/λ₂", self.condition)):
            if spread is not None:
                found.append(
                    f"  {name:12} {spread.least:.3g} … {spread.middle:.3g} … {spread.most:.3g}   "
                    f"least, median, most of the {self.wide} components of 3 answers or more"
                )
        return [*found, *([self.dropped] if self.dropped else []), "", *(f"- {line}" for line in self.follows())]

    def follows(self) -> list[str]:
        """What follows for what the labels can fix, in words."""
        return list(_follows(self))


def file_graph(source: str, *, split: str = "train") -> FileGraph:
    """Read a file of pairs (see the formats of `tokenward data check`) and count what it compares."""
    tally = Tally(source)
    schema, rows = parse_rows(raw_rows(source, split=split), tally=tally, kind="pairs", asked_by="data graph")
    edges = _Edges(rows)
    if schema is None or not edges.winner:
        raise InputError(tally.verdict(max_dropped=1.0) or f"{source}: no row can be read")
    return edges.counted(source, tally)


class _Edges:
    """The answers numbered, and one edge per row."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.prompt_of: list[int] = []
        self.winner: list[int] = []
        self.loser: list[int] = []
        self.weight: list[float] = []
        self.target: list[float] = []
        prompts: dict[object, int] = {}
        answers: dict[tuple[int, object], int] = {}
        for row in rows:
            prompt = prompts.setdefault(row.prompt, len(prompts))
            for response, side in zip(row.responses, (self.winner, self.loser), strict=True):
                node = answers.setdefault((prompt, response), len(answers))
                if node == len(self.prompt_of):
                    self.prompt_of.append(prompt)
                side.append(node)
            self.weight.append(1.0 if row.weight is None else row.weight)
            self.target.append(1.0 if row.target is None else row.target)
        self.prompts = len(prompts)

    def counted(self, source: str, tally: Tally) -> FileGraph:
        nodes = len(self.prompt_of)
        rows = torch.tensor([self.winner, self.loser]).T
        weight, target = (torch.tensor(given, dtype=torch.float64) for given in (self.weight, self.target))
        used = weight > 0
        rows, weight, target = rows[used], weight[used], target[used]
        found = spectra(rows, weight, nodes=nodes)
        beats = torch.cat([rows[target > 0], rows[target < 1].flip(-1)])
        finite = both_ways(beats, nodes=nodes)
        label = components(rows, nodes=nodes)
        roots = (label == torch.arange(nodes)).nonzero().flatten().tolist()
        pairs = torch.unique(rows.sort(-1).values, dim=0)
        per_prompt = Counter(self.prompt_of[root] for root in roots)
        of_pairs = Counter(self.prompt_of[node] for node in pairs[:, 0].tolist())
        wide = [one for one in found if one.nodes > 2]
        sizes = Counter(one.nodes for one in found) + Counter({1: len(roots) - len(found)})
        return FileGraph(
            source=source,
            rows=tally.rows,
            usable=tally.kept,
            prompts=self.prompts,
            responses=nodes,
            pairs=len(pairs),
            repeated=len(rows) - len(torch.unique(torch.cat([rows.double(), target[:, None]], 1), dim=0)),
            contradicted=_contradicted(rows, target),
            soft=int(((target > 0) & (target < 1)).sum()),
            single_pair_prompts=sum(number == 1 for number in of_pairs.values()),
            components=len(roots),
            components_per_prompt=dict(sorted(Counter(per_prompt.values()).items())),
            sizes=dict(sorted(sizes.items())),
            finite=sum(bool(finite[one.first]) for one in found),
            wide=len(wide),
            connectivity=_spread([one.connectivity for one in wide]),
            condition=_spread([one.condition for one in wide]),
            dropped=tally.summary(),
        )


def _contradicted(rows: Tensor, target: Tensor) -> int:
    """Pairs that one row prefers one way and another row the other way."""
    preferred = torch.where((target > 0.5)[:, None], rows, rows.flip(-1))[target != 0.5]
    ways = torch.unique(preferred, dim=0)
    return len(ways) - len(torch.unique(ways.sort(-1).values, dim=0))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(min(known), median(known), max(known)) if known else None


def _counts(counts: dict[int, int], what: str, of: str) -> str:
    """`1 component: 80 prompts, 2 components: 3 prompts`; at most six entries."""
    shown = [f"{n} {what}{'s' if n > 1 else ''}: {times} {of}" for n, times in counts.items()]
    return ", ".join(shown[:6] + ([f"… up to {max(counts)}"] if len(shown) > 6 else []))


def _follows(graph: FileGraph) -> Iterable[str]:
    if graph.single_pair_prompts:
        yield (
            f"{graph.single_pair_prompts} of {graph.prompts} prompts have one pair: for each the labels speak of one "
            "number, the difference of log π/π_ref between its two answers, and of nothing else of the policy."
        )
    divided = sum(times for number, times in graph.components_per_prompt.items() if number > 1)
    if divided:
        yield (
            f"{divided} of {graph.prompts} prompts have several components: no label says how probability is shared "
            "between them."
        )
    lopsided = graph.components - graph.finite - graph.sizes.get(1, 0)
    if lopsided:
        yield (
            f"In {lopsided} of {graph.components} components no chain of wins leads from every answer to every other: "
            "taken alone, Bradley–Terry scores are infinite there, and a loss such as DPO's falls as long as the "
            "margin grows. Where it stops is decided by β, steps and regularization, not by the labels."
        )
    yield (
        "Answers that no row names: the labels put no limit on how much probability goes to them or comes from them. "
        "The model class, the optimizer and regularization decide that."
    )
    yield (
        "A language model shares parameters between prompts, and learns from one about another; this graph says what "
        "the labels fix, not what is learned beyond them."
    )
