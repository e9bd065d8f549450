"""Files as raw columns, batch by batch: Parquet, JSON lines and CSV, plain or compressed."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from piano_tf.errors import LogError

_Any = TypeVar("_Any")
_ROWS = 1 << 16
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


class Unreadable(Exception):
    """A file is damaged; the message says how."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """Rows as they are in a file.

    Attributes:
      columns: Column -> [n] cells; one that no row has is left out.
      rows: n.
      has_header: Whether a column that is left out is in no other rows of the file either.
      as_read: From row numbers to what these rows say, for people.
      not_utf8: [n] rows that are bytes that are no text.
      not_readable: [n] rows that are no rows.
    """

    columns: dict[str, pa.Array]
    rows: int
    has_header: bool
    as_read: Callable[[np.ndarray], list[dict[str, Any]]]
    not_utf8: np.ndarray
    not_readable: np.ndarray


# Of a file and the columns that are wanted, with whether they should be lists.
Reader = Callable[[Path, Mapping[str, bool]], Iterator[Raw]]


def reader_of(path: Path) -> Reader:
    """What reads a file, by the end of its name.

    Raises:
      LogError: Nothing does.
    """
    suffixes = [end for end in path.suffixes if end not in _COMPRESSED]
    found = _READERS.get(suffixes[-1] if suffixes else "")
    if found is None:
        raise LogError(f"expected a name that ends in {', '.join(_READERS)}", source=str(path))
    return found


def has_header(path: Path) -> bool:
    """Whether a file says which columns it has before its first row."""
    return reader_of(path) is not _json_lines


def _parquet(path: Path, names: Mapping[str, bool]) -> Iterator[Raw]:
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in names if name in file.schema_arrow.names]
            # What it lacks is a fault even without rows.
            yield _of_table(file.schema_arrow.empty_table().select(there))
            for batch in file.iter_batches(batch_size=_ROWS, columns=there):
                yield _of_table(pa.Table.from_batches([batch]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Unreadable(_one_line(error)) from error


def _of_table(table: pa.Table) -> Raw:
    columns = {name: table[name].combine_chunks() for name in table.schema.names}
    fine = np.zeros(table.num_rows, bool)
    return Raw(columns, table.num_rows, True, lambda rows: _rows_of(table, rows), fine, fine)


def _rows_of(table: pa.Table, rows: np.ndarray) -> list[dict[str, Any]]:
    chosen = table.take(pa.array(rows))
    columns = [_as_bytes(chosen[name]) for name in chosen.schema.names]
    return pa.table(columns, names=chosen.schema.names).to_pylist()


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as bytes, for it may not be UTF-8."""
    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    if column.type == pa.list_(pa.string()):
        return column.cast(pa.list_(pa.binary()))
    return column


_NOT_UTF8, _NOT_READABLE = "not UTF-8", "not readable"
_Row = dict[str, Any] | str  # or which of the two is wrong with it


def _json_lines(path: Path, names: Mapping[str, bool]) -> Iterator[Raw]:
    with _opened(path) as file:
        for lines in _batches(line for line in file if line.strip()):
            yield _of_rows([(_parsed(line), line) for line in lines], names)


def _parsed(line: bytes) -> _Row:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return _NOT_UTF8
    except (ValueError, RecursionError):
        return _NOT_READABLE
    return row if isinstance(row, dict) else _NOT_READABLE


def _csv(path: Path, names: Mapping[str, bool]) -> Iterator[Raw]:
    csv.field_size_limit(1 << 24)
    # Bytes that are no UTF-8 pass as surrogates, so that they spoil no more than their own row.
    with io.TextIOWrapper(_opened(path), "utf-8-sig", "surrogateescape", newline="") as text:
        rows = _csv_rows(csv.reader(text, strict=True))
        header = next(rows, None)
        if header is None:
            return
        yield _of_rows([], names, header)  # what it lacks is a fault even without rows
        for batch in _batches(rows):
            yield _of_rows([(_named(header, row), _line(row)) for row in batch], names, header)


def _csv_rows(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows that are not blank; one that is no CSV is taken as one without cells."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield []
            continue
        if row:
            yield row


def _named(header: list[str], row: list[str]) -> _Row:
    if any(not cell.isascii() for cell in row) and _is_broken("".join(row)):
        return _NOT_UTF8
    return dict(zip(header, row, strict=True)) if len(row) == len(header) else _NOT_READABLE


def _is_broken(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return True
    return False


def _line(row: list[str]) -> bytes:
    return ",".join(row).encode("utf-8", "surrogateescape")


def _of_rows(
    rows: list[tuple[_Row, bytes]], names: Mapping[str, bool], header: Sequence[str] | None = None
) -> Raw:
    """Rows with the line that each came from.

    Args:
      rows: A row, or what is wrong with it, and its line.
      names: Columns that are wanted, and whether they should be lists.
      header: Columns that there are; None takes those that a row has.
    """
    cells = [row if isinstance(row, dict) else {} for row, _ in rows]
    there = set(header) if header is not None else set().union(*cells)
    columns, wrong = {}, np.array([row == _NOT_READABLE for row, _ in rows], bool)
    for name, is_list in names.items():
        if name in there:
            columns[name], misfits = _column([row.get(name) for row in cells], is_list)
            wrong[misfits] = True

    def as_read(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [
            row if isinstance(row, dict) else {"line": line.decode("utf-8", "backslashreplace")}
            for row, line in (rows[index] for index in chosen)
        ]

    not_utf8 = np.array([row == _NOT_UTF8 for row, _ in rows], bool)
    return Raw(columns, len(rows), header is not None, as_read, not_utf8, wrong)


def _column(values: list[Any], is_list: bool) -> tuple[pa.Array, list[int]]:
    """JSON values as one Arrow column, and which rows have a value that it cannot hold.

    Nothing but lists makes a column of lists even where it should be none: the column's own fault.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int} or kinds <= {int, float} or kinds <= {str}:
        try:
            return pa.array(values), []
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # a number of any size, or half a character
    is_list = kinds == {list} or (is_list and list in kinds)
    read, arrow_type = (_texts, pa.list_(pa.string())) if is_list else (_text, pa.string())
    cells = [read(value) for value in values]
    pairs = enumerate(zip(values, cells, strict=True))
    misfits = [row for row, (value, cell) in pairs if cell is None and value is not None]
    return pa.array(cells, arrow_type), misfits


def _texts(value: Any) -> list[str | None] | None:
    if not isinstance(value, list):
        return None
    cells = [_text(one) for one in value]
    misfit = any(cell is None and one is not None for cell, one in zip(cells, value, strict=True))
    return None if misfit else cells


def _text(value: Any) -> str | None:
    """Text as it is, numbers as text, and None for all else."""
    if isinstance(value, str):
        return None if _is_broken(value) else value
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _opened(path: Path) -> io.BufferedReader:
    return io.BufferedReader(_Stream(pa.input_stream(str(path), compression="detect")))


class _Stream(io.RawIOBase):
    """An Arrow stream as Python's; what cannot be unpacked is a damaged file."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found = self._stream.read(len(buffer))
        except (pa.ArrowInvalid, OSError) as error:
            raise Unreadable(_one_line(error)) from error
        buffer[: len(found)] = found
        return len(found)


def _batches(rows: Iterator[_Any]) -> Iterator[list[_Any]]:
    while batch := list(itertools.islice(rows, _ROWS)):
        yield batch


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


_READERS: dict[str, Reader] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
}
