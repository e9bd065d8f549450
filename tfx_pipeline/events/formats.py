"""Files as raw columns, batch by batch: Parquet, JSON lines and CSV, plain or compressed."""

from __future__ import annotations

import codecs
import collections
import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from piano_tf.errors import LogError
from tfx_pipeline.events.cells import time as times_of

_Any = TypeVar("_Any")
_ROWS = 1 << 16
_BUFFER = 1 << 18  # bytes
PLAIN_TEXT = (".csv", ".jsonl", ".json", ".ndjson")  # as long on disk as it is
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


class Unreadable(Exception):
    """A file is damaged; the message says how."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """Rows as they are in a file.

    Attributes:
      columns: Column -> [n] cells, text as bytes where some of it is none; a column that no row has
        is left out.
      rows: n.
      has_header: Whether a column that is left out is in no other rows of the file either.
      as_read: From row numbers to what these rows say, for people.
      not_utf8: [n] rows that are no rows, and no text.
      not_readable: [n] rows that are no rows, or have a cell that its column cannot hold.
    """

    columns: dict[str, pa.Array]
    rows: int
    has_header: bool
    as_read: Callable[[np.ndarray], list[dict[str, Any]]]
    not_utf8: np.ndarray
    not_readable: np.ndarray


class Wanted(NamedTuple):
    """What a column shall be.

    Attributes:
      type: Its type.
      one_line: Whether no cell of it has line ends.
    """

    type: pa.DataType
    one_line: bool = False


# Of a file and the columns that are wanted.
Reader = Callable[[Path, Mapping[str, Wanted]], Iterator[Raw]]


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


def _parquet(path: Path, names: Mapping[str, Wanted]) -> Iterator[Raw]:
    try:
        # Without a buffer of its own a reader takes all of a row group at once.
        with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
            _require_once(names, file.schema_arrow.names, path)
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
    columns = [[_as_python(cell) for cell in column] for column in chosen.columns]
    names = chosen.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _as_python(cell: pa.Scalar) -> Any:
    """What a cell says; text that is none as bytes, a date that Python has not as its number, and a
    number that JSON has not as text.
    """
    if isinstance(cell, pa.ListScalar):
        return None if cell.values is None else [_as_python(one) for one in cell.values]
    if isinstance(cell, pa.DictionaryScalar):
        return _as_python(cell.value)
    try:
        value = cell.as_py()
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes()
    except (OverflowError, ValueError):
        return cell.cast(pa.int64() if cell.type.bit_width == 64 else pa.int32()).as_py()


# A row and the line that it is; None if that is no row.
_Line = tuple[dict[str, Any] | None, str]


def _json_lines(path: Path, names: Mapping[str, Wanted]) -> Iterator[Raw]:
    with _opened(path) as file:
        lines = (line.removeprefix(codecs.BOM_UTF8) for line in file)
        for batch in _batches(_decoded(line) for line in lines if line.strip()):
            yield _of_lines([(_parsed(line), line) for line in batch], names)


def _decoded(line: bytes) -> str:
    """Bytes that are no UTF-8 pass as surrogates, so that they spoil no more than their cell."""
    return line.decode("utf-8", "surrogateescape")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv(path: Path, names: Mapping[str, Wanted]) -> Iterator[Raw]:
    csv.field_size_limit(1 << 24)
    with io.TextIOWrapper(_opened(path), "utf-8-sig", "surrogateescape", newline="") as text:
        rows = _csv_rows(text, names)
        first = next(rows, None)
        if first is None:
            return
        header = first[0] or []
        _require_once(names, header, path)
        yield _of_lines([], names, header)  # what it lacks is a fault even without rows
        for batch in _batches(rows):
            lines = [
                (None if row is None else dict(zip(header, row, strict=True)), line)
                for row, line in batch
            ]
            yield _of_lines(lines, names, header)


def _require_once(names: Iterable[str], there: Sequence[str], path: Path) -> None:
    """Whether it is clear which column of a file a name means."""
    for name in names:
        if (count := there.count(name)) > 1:
            raise LogError(
                f"got {count} columns of that name, expected one", column=name, source=str(path)
            )


def _csv_rows(
    text: Iterable[str], names: Mapping[str, Wanted]
) -> Iterator[tuple[list[str] | None, str]]:
    """Rows as wide as the first, and their lines; None for a line that is no such row.

    A stray quote makes one cell of the lines after it. What spans lines and is no row, or hides
    some, is therefore no more than its first line, and the others are read again.
    """
    lines, shape = _Lines(text), None
    reader = csv.reader(lines, strict=True)
    while True:
        lines.taken.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        if row == []:
            continue
        if shape is None:
            shape = _Shape.of(row or [], names)
        elif row is None or len(row) != shape.width or shape.is_of_rows(row, lines.taken):
            row = None
            lines.give_back()
        yield row, "".join(lines.taken).rstrip("\r\n")


class _Shape(NamedTuple):
    """What is known of the rows of a CSV file.

    Attributes:
      width: How many cells they have.
      one_line: Places of cells that have no line ends.
      times: Places of cells that are times.
    """

    width: int
    one_line: list[int]
    times: list[int]

    @classmethod
    def of(cls, header: Sequence[str], names: Mapping[str, Wanted]) -> _Shape:
        wanted = {place: names[name] for place, name in enumerate(header) if name in names}
        return cls(
            len(header),
            [place for place, column in wanted.items() if column.one_line],
            [place for place, column in wanted.items() if column.type == pa.int64()],
        )

    def is_of_rows(self, row: Sequence[str], lines: Sequence[str]) -> bool:
        """Whether a row that spans lines must be several, of which one has a stray quote.

        It must where an id or a time would have line ends, where a line within it is a row, or
        where its first and its last line are, each with the quote as a character.
        """
        if len(lines) < 2:
            return False
        if any("\n" in row[place] or "\r" in row[place] for place in self.one_line):
            return True
        if any(self._is_row(_split(line)) for line in lines[1:-1]):
            return True
        *before, quoted = _split(lines[0])
        return self._is_row([*before, *(_split(quoted) or [""])]) and self._is_row(
            _split(lines[-1])
        )

    def _is_row(self, row: Sequence[str]) -> bool:
        if len(row) != self.width:
            return False
        times = _texts([row[place] for place in self.times], pa.string(), pa.binary())
        return not times_of(times, "s").not_readable.any()


def _split(line: str) -> list[str]:
    """The cells of a line alone, whatever its quotes."""
    return next(csv.reader([line]), [])


class _Lines:
    """Lines of which some may be given back, to be read again."""

    def __init__(self, text: Iterable[str]) -> None:
        self.taken: list[str] = []
        self._given_back: collections.deque[str] = collections.deque()
        self._text = iter(text)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._text)
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """All that were taken but the first."""
        self._given_back.extendleft(self.taken[:0:-1])
        del self.taken[1:]


def _of_lines(
    lines: list[_Line],
    names: Mapping[str, Wanted],
    header: Sequence[str] | None = None,
) -> Raw:
    """Rows of a text file.

    Args:
      lines: [n] rows.
      names: Columns that are wanted, and what they shall be.
      header: Columns that there are; None takes those that a row has.
    """
    rows: list[dict[str, Any]] = [row or {} for row, _ in lines]
    there = set(header) if header is not None else set().union(*rows)
    no_row = np.array([row is None for row, _ in lines], bool)
    no_text = np.array([row is None and not _is_utf8(line) for row, line in lines], bool)
    columns, wrong = {}, no_row.copy()
    for name, wanted in names.items():
        if name in there:
            columns[name], misfits = _column([row.get(name) for row in rows], wanted.type)
            wrong[misfits] = True

    def as_read(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [_said(*lines[index]) for index in chosen]

    return Raw(columns, len(lines), header is not None, as_read, no_text, wrong)


def _said(row: dict[str, Any] | None, line: str) -> dict[str, Any]:
    """A row, or its line where it is none or strict JSON cannot say it."""
    try:
        if row is not None:
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
            return row
    except (ValueError, RecursionError):
        pass
    return {"line": line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")}


def _column(values: list[Any], wanted: pa.DataType) -> tuple[pa.Array, list[int]]:
    """JSON values as one Arrow column, and which rows have a value that it cannot hold.

    What becomes of a value is for itself and the type that is wanted to say, not for the values
    beside it; the column's own type is the simplest that `cells` reads as the one that is wanted.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values)), []
    if pa.types.is_list(wanted) and kinds != {str}:
        return _column_of_lists(values)
    if kinds in ({str}, {int}) or _are_numbers(values, kinds, wanted):
        try:
            return pa.array(values), []
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # a number of any size, or what is no text
    cells = [_text(value, wanted) for value in values]
    return _texts(cells, pa.string(), pa.binary()), _misfits(values, cells)


def _are_numbers(values: list[Any], kinds: set[type], wanted: pa.DataType) -> bool:
    """Whether a column of numbers says as much of each value as the value itself."""
    if wanted == pa.int64():  # whole numbers that become floats may be others, and NaN is no time
        return kinds == {float} and not any(value != value for value in values)
    return kinds <= {int, float} and wanted == pa.float32()


def _column_of_lists(values: list[Any]) -> tuple[pa.Array, list[int]]:
    """The same of lists; where some are text to be split, all are text."""
    cells = [_list(value) for value in values]
    if any(isinstance(cell, str) for cell in cells):
        written = [
            json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell
            for cell in cells
        ]
        return _texts(written, pa.string(), pa.binary()), _misfits(values, cells)
    column = _texts(cells, pa.list_(pa.string()), pa.list_(pa.binary()))
    return column, _misfits(values, cells)


def _misfits(values: list[Any], cells: Sequence[Any]) -> list[int]:
    pairs = enumerate(zip(values, cells, strict=True))
    return [row for row, (value, cell) in pairs if cell is None and value is not None]


def _list(value: Any) -> list[str | None] | str | None:
    if not isinstance(value, list):
        return value if isinstance(value, str) else None
    cells = [_text(one, pa.string()) for one in value]
    return None if _misfits(value, cells) else cells


def _text(value: Any, wanted: pa.DataType) -> str | None:
    """Text as it is, numbers as text, None for all else; for a number true is 1 and false 0."""
    if isinstance(value, bool):
        return str(int(value)) if wanted == pa.float32() else None
    if wanted == pa.int64() and value != value:
        return None
    if isinstance(value, int | float):
        return repr(value)
    return value if isinstance(value, str) else None


def _texts(cells: Sequence[Any], text: pa.DataType, binary: pa.DataType) -> pa.Array:
    """Text, or its bytes where some of it is none."""
    try:
        return pa.array(cells, text)
    except UnicodeEncodeError:
        return pa.array([_as_bytes(cell) for cell in cells], binary)


def _as_bytes(cell: Any) -> Any:
    """Text as bytes, which are no UTF-8 if it has surrogates."""
    if isinstance(cell, list):
        return [_as_bytes(one) for one in cell]
    return cell.encode("utf-8", "surrogatepass") if isinstance(cell, str) else cell


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
