"""Raw rows of a JSONL file, a Parquet file or a `datasets` name, each with its place; and the hash of the content."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenward.data.tally import BadRow
from tokenward.errors import InputError

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json")
SUFFIXES = (*JSON_SUFFIXES, ".parquet")
SPLIT = "train"  # of a `datasets` name, unless another is given


@final
@dataclass(frozen=True)
class Raw:
    """One row as it stands: its place (`file:line`) and its columns, or what is wrong with it."""

    where: str
    columns: dict[str, Any] | BadRow


def raw_rows(source: str, *, split: str = SPLIT) -> Iterator[Raw]:
    """The rows of a file (.jsonl, .jsonl.gz, .parquet), or of the split of a `datasets` name (`name` or `name:config`).

    Columns whose value is null are absent: Parquet gives every row every column.
    """
    no_split(source, split)
    path = _file(source)
    if path is None:
        rows = _hub(source, split)
    elif path.name.endswith(JSON_SUFFIXES):
        rows = _json_lines(path)
    else:
        rows = _parquet(path)
    for raw in rows:
        if isinstance(raw.columns, BadRow):
            yield raw
        else:
            yield Raw(raw.where, {name: value for name, value in raw.columns.items() if value is not None})


def no_split(source: str, split: str) -> None:
    """One line where a split is asked of a file, which has none."""
    if split != SPLIT and not is_name(source):
        raise InputError(f"data {source} is a file, and a file has no split {split!r}: leave out --split")


def is_name(source: str) -> bool:
    """Whether the source is a `datasets` name; False for a file that is there, one line for what can be neither."""
    return _file(source) is None


def data_hash(source: str, *, split: str = SPLIT) -> str:
    """sha256 of the file's bytes, or of the rows of a `datasets` name: the same data gives the same text."""
    path = _file(source)
    if path is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for raw in _hub(source, split):
        digest.update(json.dumps(raw.columns, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _file(source: str) -> Path | None:
    """The file that is meant, or None for a `datasets` name; one line for what can be neither."""
    path = Path(source)
    if path.is_dir():
        raise InputError(f"data {source} is a folder: give a file ({', '.join(SUFFIXES)}) or a datasets name")
    named_as_file = source.endswith(SUFFIXES) or path.is_absolute() or source.startswith(".") or source.count("/") > 1
    if not path.exists():
        if named_as_file or not source:
            raise InputError(f"data {source or '(empty name)'}: there is no such file")
        return None
    if not source.endswith(SUFFIXES):
        raise InputError(f"data {source}: the ending says neither JSON lines nor Parquet; known: {', '.join(SUFFIXES)}")
    return path


def _json_lines(path: Path) -> Iterator[Raw]:
    """One JSON object per line; empty lines are skipped, a byte order mark at the start too."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield Raw(f"{path}:{number}", _parse(line))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"data {path} cannot be read: {error}") from error


def _parse(line: bytes) -> dict[str, Any] | BadRow:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"byte {error.start + 1} of the line is 0x{line[error.start]:02x}")
    except (ValueError, RecursionError) as error:
        return BadRow("broken JSON", str(error) if isinstance(error, ValueError) else "nested too deeply")
    if not isinstance(found, dict):
        return BadRow("broken JSON", f"a row must be an object {{…}}, got {type(found).__name__}")
    return found


def _parquet(path: Path) -> Iterator[Raw]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for place in range(batch.num_rows):
                number += 1
                try:
                    columns: dict[str, Any] | BadRow = batch.slice(place, 1).to_pylist()[0]
                except UnicodeDecodeError as error:
                    columns = BadRow("not UTF-8", f"byte {error.start + 1} of a text cannot be read")
                yield Raw(f"{path}:{number}", columns)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"data {path} cannot be read as Parquet: {_one_line(error)}") from error


def _hub(source: str, split: str) -> Iterator[Raw]:
    import datasets

    name, _, config = source.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises many kinds; each means that these rows cannot be had
        raise InputError(
            f"data {source}: no such file, and datasets gives no split {split!r} of that name: {_one_line(error)}"
        ) from error
    for number, columns in enumerate(rows, start=1):
        yield Raw(f"{source}[{split}]:{number}", dict(columns))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
