"""The formats of data: which columns make which kind of row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, final

from tokenward.data import rows, steps
from tokenward.data.files import Raw
from tokenward.data.rows import Row
from tokenward.data.tally import BadRow, Tally
from tokenward.errors import InputError

Kind = Literal["demos", "pairs", "labels", "scores", "prompts"]
LOOK = 100  # readable rows that settle the format of a file


@final
@dataclass(frozen=True)
class Schema:
    """A format: its name, the kind of rows it gives, the columns it needs and those it reads if present."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    about: str
    parse: Callable[[str, dict[str, Any]], Row]

    def fits(self, columns: Iterable[str]) -> bool:
        return set(self.needs) <= set(columns)


def parse_rows(
    raws: Iterable[Raw], *, tally: Tally, kind: Kind | None = None, asked_by: str = "this run"
) -> tuple[Schema | None, Iterator[Row]]:
    """The format of a file, settled by the columns of most of its first 100 rows, and its good rows.

    The bad rows are counted in `tally`. `kind` asks for one kind of rows: a file of another kind is refused in one
    line that names what `asked_by` needs. The format is None when no row can be read at all.
    """
    raws = iter(raws)
    waiting: list[Raw] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for raw in raws:
        waiting.append(raw)
        if not isinstance(raw.columns, BadRow):
            seen[tuple(raw.columns)] += 1
            if seen.total() == LOOK:
                break
    known = [columns for columns, _ in seen.most_common() if any(s.kind == (kind or s.kind) for s in matching(columns))]
    lead = next(iter(known or seen), None)
    schema = None if lead is None else choose(lead, source=tally.source, kind=kind, asked_by=asked_by)
    return schema, _good_rows(chain(waiting, raws), schema=schema, lead=lead or (), kind=kind, tally=tally)


def _good_rows(
    raws: Iterable[Raw], *, schema: Schema | None, lead: tuple[str, ...], kind: Kind | None, tally: Tally
) -> Iterator[Row]:
    for raw in raws:
        tally.rows += 1
        try:
            if isinstance(raw.columns, BadRow):
                raise raw.columns
            assert schema is not None
            if kind != "prompts":
                _refuse_mixture(raw.columns, where=raw.where, schema=schema, lead=lead)
            _check_columns(raw.columns, schema=schema, lead=lead)
            yield schema.parse(raw.where, raw.columns)
        except BadRow as problem:
            tally.drop(raw.where, problem)


def matching(columns: Iterable[str]) -> list[Schema]:
    """The formats whose needed columns are there, the most specific first."""
    present = set(columns)
    return [schema for schema in SCHEMAS if schema.fits(present)]


def choose(columns: Iterable[str], *, source: str, kind: Kind | None, asked_by: str) -> Schema:
    """The format that these columns make, or one line naming the columns needed and found."""
    found = matching(columns)
    wanted = [schema for schema in found if kind in (None, schema.kind)]
    # Labels and scores say which texts not to imitate: such a file is no set of demonstrations.
    if wanted and (kind != "demos" or found[0].kind == "demos"):
        return wanted[0]
    needed = "; or ".join(", ".join(schema.needs) for schema in SCHEMAS if kind in (None, schema.kind))
    is_kind = f" ({found[0].kind})" if found else ""
    raise InputError(
        f"{asked_by} needs {kind or 'rows of a known format'}: columns {needed}; "
        f"{source} has {', '.join(columns) or 'none'}{is_kind}"
    )


def _refuse_mixture(columns: dict[str, Any], *, where: str, schema: Schema, lead: tuple[str, ...]) -> None:
    """Raise one line when a row has the columns of a format that the file's other rows do not have."""
    whole = matching(lead)
    foreign = [s for s in matching(columns) if s not in whole and not set(s.needs) <= set(schema.needs)]
    if foreign:
        raise InputError(
            f"{where} has the columns {', '.join(foreign[0].needs)} ({foreign[0].name}), but most of the file has "
            f"{', '.join(schema.needs)} ({schema.name}): give one format per file"
        )


def _check_columns(columns: dict[str, Any], *, schema: Schema, lead: tuple[str, ...]) -> None:
    for name in schema.needs:
        if name not in columns:
            raise BadRow("missing column", f"{name} is absent or null (needed: {', '.join(schema.needs)})")
    for name in schema.reads:
        if name.startswith("score_") and (name in columns) != (name in lead):
            raise BadRow("missing column", f"{name} must be in every row or in none")


_EXTRA = ("weight",)
SCHEMAS: tuple[Schema, ...] = (
    Schema(
        "preference", "pairs", ("prompt", "chosen", "rejected"),
        ("score_chosen", "score_rejected", "target", "weight"),
        "two answers to a prompt, the first preferred", rows.preference,
    ),
    Schema(
        "implicit preference", "pairs", ("chosen", "rejected"),
        ("score_chosen", "score_rejected", "target", "weight"),
        "two conversations, messages or hh-rlhf transcripts, that differ in the last answer", rows.implicit,
    ),
    Schema("unpaired", "labels", ("prompt", "completion", "label"), _EXTRA, "an answer, good or not", rows.labeled),
    Schema("scored", "scores", ("prompt", "completion", "score"), _EXTRA, "an answer and its reward", rows.scored),
    Schema("demonstration", "demos", ("prompt", "completion"), _EXTRA, "an answer to imitate", rows.demonstration),
    Schema("conversation", "demos", ("messages",), _EXTRA, "messages; the last answer is imitated", rows.conversation),
    Schema(
        "trajectory preference", "pairs", ("prompt", "chosen_turns", "rejected_turns"),
        ("score_chosen", "score_rejected", "target", "weight"),
        "two trajectories from a prompt; the assistant's turns are trained on", rows.trajectory_pair,
    ),
    Schema(
        "dialogue preference", "pairs", rows.DIALOGUES,
        ("score_chosen", "score_rejected", "target", "weight"),
        "two whole dialogues, messages that are the same up to the assistant's first; all of its messages are trained "
        "on", rows.dialogue_pair,
    ),
    Schema(
        "pipeline preference", "pairs", steps.COLUMNS,
        ("score_chosen", "score_rejected", "target", "weight"),
        "two runs of a pipeline of two models from a prompt; every step is trained on", steps.pipeline_pair,
    ),
    Schema("labeled trajectory", "labels", ("prompt", "turns", "label"), _EXTRA, "turns, good or not", rows.trajectory),
    Schema("scored trajectory", "scores", ("prompt", "turns", "score"), _EXTRA, "turns and reward", rows.trajectory),
    Schema("trajectory", "demos", ("prompt", "turns"), _EXTRA, "turns; the assistant's are imitated", rows.trajectory),
    Schema("prompts", "prompts", ("prompt",), (), "prompts; other columns go to the reward function", rows.prompts),
)  # fmt: skip


def schema_table() -> str:
    """The formats as a Markdown table for the documentation."""
    lines = ["| format | gives | columns | read if present | what it is |", "|---|---|---|---|---|"]
    for s in SCHEMAS:
        names = [", ".join(f"`{name}`" for name in group) for group in (s.needs, s.reads)]
        lines.append(f"| {s.name} | {s.kind} | {names[0]} | {names[1] or '–'} | {s.about} |")
    return "\n".join(lines)
