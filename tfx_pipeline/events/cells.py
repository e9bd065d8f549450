"""Cells of any type that makes sense, as text, times, numbers and lists of these.

Every function takes a column [n] and returns a `Cells`: what could be read, null elsewhere, and
which cells hold something that could not.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import re
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.config import MICROSECONDS
from tfx_pipeline.events.ordering import numbers

_UNITS = {"s": MICROSECONDS, "ms": 1_000, "us": 1}
_BROKEN = object()  # what could not be read
_OUT_OF_RANGE = -1  # no time that a log may have, so that it is told from what is no time at all
_NUMBERS = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_null,
)
_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


@dataclasses.dataclass(frozen=True)
class Cells:
    """A column that was read.

    Attributes:
      values: [n] what it says, null where there is nothing or it could not be read.
      not_utf8: [n] which cells are bytes that are no text.
      not_readable: [n] which cells hold something else than was expected.
    """

    values: pa.Array
    not_utf8: np.ndarray
    not_readable: np.ndarray


class Misfit(Exception):
    """A column's type cannot hold what it should; the message says what that is."""


def text(column: pa.Array) -> Cells:
    """Strings, and whole numbers as their digits.

    Raises:
      Misfit: The column holds something else.
    """
    column = _plain(column)
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return _fine(column.cast(pa.string()))
    if not _is(column.type, _TEXTS):
        raise Misfit("a string")
    column = column.cast(pa.binary())
    try:
        found = column.cast(pa.string())
        found.validate(full=True)  # Arrow does not look whether strings of a file are UTF-8 before
        return _fine(found)
    except pa.ArrowInvalid:
        pass
    values = [_decoded(value) for value in column.to_pylist()]
    broken = np.array([value is _BROKEN for value in values])
    found = pa.array([None if value is _BROKEN else value for value in values], pa.string())
    return Cells(found, broken, np.zeros(len(column), bool))


def _decoded(value: bytes | None) -> str | object | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _BROKEN


def time(column: pa.Array, unit: str) -> Cells:
    """Microseconds of numbers in a unit, of timestamps and of ISO 8601 text.

    Raises:
      Misfit: The column holds something else.
    """
    column = _plain(column)
    if pa.types.is_null(column.type):
        return _fine(column.cast(pa.int64()))
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        unit = column.type.unit
        column = column.cast(pa.int64())
        if unit == "ns":
            return _fine(pc.cast(pc.floor(pc.divide(column, 1_000)), pa.int64()))
        return _fine(_in_microseconds(column, unit))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _fine(_in_microseconds(column, unit))
    if _is(column.type, _TEXTS):
        return _times_of_text(text(column), unit)
    raise Misfit(f"a time: a number (of {unit}), a timestamp or ISO 8601")


def _in_microseconds(column: pa.Array, unit: str) -> pa.Array:
    nothing = numbers(pc.is_null(column, nan_is_null=True)).astype(bool)
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        fits = np.abs(values.astype(np.float64)) * _UNITS[unit] < 2.0**62
    values = np.where(fits, values, values.dtype.type(0))
    # Wide before it is multiplied; whole numbers stay whole.
    if values.dtype.kind == "f":
        found = np.rint(values.astype(np.float64) * _UNITS[unit]).astype(np.int64)
    else:
        found = values.astype(np.int64) * _UNITS[unit]
    return pa.array(np.where(fits, found, _OUT_OF_RANGE), mask=nothing)


_WHOLE = r"^[+-]?[0-9]{1,18}$"
_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def _parsed(
    cells: Cells,
    plain: str,
    at_once: Callable[[pa.Array], pa.Array],
    alone: Callable[[str], object],
) -> Cells:
    """What text says, where what becomes of a value is not for those beside it to say.

    Args:
      cells: Text [n]; what is empty is nothing.
      plain: A regular expression of what most of it is.
      at_once: Reads texts that are plain.
      alone: Reads any other; `_BROKEN` is what it cannot.
    """
    nothing = pa.scalar(None, pa.string())
    values = pc.if_else(pc.equal(cells.values, ""), nothing, cells.values)
    is_plain = pc.match_substring_regex(values, plain)
    found = at_once(pc.if_else(is_plain, values, nothing))
    others = pc.fill_null(pc.invert(is_plain), False)
    wrong = numbers(others).astype(bool)
    if wrong.any():
        rest = [alone(value) for value in values.filter(others).to_pylist()]
        clean = pa.array([None if value is _BROKEN else value for value in rest], found.type)
        found = pc.replace_with_mask(found, others, clean)
        wrong[wrong] = [value is _BROKEN for value in rest]
    return Cells(found, cells.not_utf8, wrong)


def _times_of_text(cells: Cells, unit: str) -> Cells:
    def whole(values: pa.Array) -> pa.Array:
        return _in_microseconds(pc.utf8_ltrim(values, "+").cast(pa.int64()), unit)

    return _parsed(cells, _WHOLE, whole, lambda value: _time_of(value, unit))


def _time_of(value: str, unit: str) -> int | object:
    try:
        number = float(value)
    except ValueError:
        return _moment_of(value)
    if math.isnan(number):
        return _BROKEN
    number *= _UNITS[unit]
    return round(number) if abs(number) < 2.0**62 else _OUT_OF_RANGE


# ISO 8601, basic or extended, with any fraction of a second; and with the blanks and the UTC that
# databases write. Python's own `fromisoformat` knows less, and differs by version.
_ISO = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d)(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)"
    r"(?:[.,](?P<fraction>\d+))?)?)?"
    r"(?: ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?))?)?",
    re.ASCII | re.IGNORECASE,
)


def _moment_of(value: str) -> int | object:
    found = _ISO.fullmatch(value.strip())
    if found is None:
        return _BROKEN
    year, month, day, hour, minute, second, hours, minutes = (
        int(found[name] or 0)
        for name in ("year", "month", "day", "hour", "minute", "second", "hours", "minutes")
    )
    try:
        local = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.timezone.utc)
    except ValueError:
        return _BROKEN
    if hours > 23 or minutes > 59:
        return _BROKEN
    ahead = dt.timedelta(hours=hours, minutes=minutes) * (-1 if found["sign"] == "-" else 1)
    microseconds = int((found["fraction"] or "")[:6].ljust(6, "0"))
    return (local - _EPOCH - ahead) // dt.timedelta(microseconds=1) + microseconds


def number(column: pa.Array) -> Cells:
    """Numbers in single precision; text that is a number counts.

    Raises:
      Misfit: The column holds something else.
    """
    column = _plain(column)
    if _is(column.type, _TEXTS):
        return _parsed(text(column), _NUMBER, _in_single_precision, _number_of)
    if not _is(column.type, _NUMBERS):
        raise Misfit("a number")
    return _fine(_in_single_precision(column))


def _in_single_precision(column: pa.Array) -> pa.Array:
    # By way of double precision whatever they are, for some whole numbers would else be others.
    return column.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)


def _number_of(value: str) -> float | object:
    try:
        return float(value)
    except ValueError:
        return _BROKEN


def lists(column: pa.Array, of: Callable[[pa.Array], Cells], separator: str) -> Cells:
    """Lists of text or numbers; text is a JSON array, or values with a separator between them.

    Raises:
      Misfit: The column holds something else.
    """
    if pa.types.is_null(column.type):
        return _fine(pa.nulls(len(column), pa.list_(of(pa.nulls(0)).values.type)))
    if pa.types.is_large_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if not pa.types.is_list(column.type):
        try:
            written = text(column)
        except Misfit:
            raise Misfit("a list, or text that is a JSON array or has a separator") from None
        return _lists_of_text(written, of, separator)
    lengths = numbers(pc.fill_null(column.value_lengths(), 0)).astype(np.int64)
    cells = of(column.flatten())
    row = np.repeat(np.arange(len(column)), lengths)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    found = pa.ListArray.from_arrays(pa.array(offsets), cells.values)
    found = pc.if_else(column.is_null(), pa.scalar(None, found.type), found)
    return Cells(
        found, _any(row, cells.not_utf8, len(column)), _any(row, cells.not_readable, len(column))
    )


def _any(row: np.ndarray, which: np.ndarray, rows: int) -> np.ndarray:
    found = np.zeros(rows, bool)
    found[row[which]] = True
    return found


def _lists_of_text(written: Cells, of: Callable[[pa.Array], Cells], separator: str) -> Cells:
    wrong = np.zeros(len(written.values), bool)
    found: list[list[str | None] | None] = []
    for row, value in enumerate(written.values.to_pylist()):
        values = None if value is None else _split(value, separator)
        found.append(values if isinstance(values, list) else None)
        wrong[row] = values is _BROKEN
    cells = lists(pa.array(found, pa.list_(pa.string())), of, separator)
    return Cells(cells.values, cells.not_utf8 | written.not_utf8, cells.not_readable | wrong)


def _split(value: str, separator: str) -> list[str | None] | object:
    if not value:
        return []
    if not value.startswith("["):
        return value.split(separator)
    try:
        parsed = json.loads(value)
        values = [None if one is None else str(one) for one in parsed]
        "".join(
            one or "" for one in values
        ).encode()  # half a character can be escaped, not written
    except (ValueError, RecursionError):
        return _BROKEN
    return _BROKEN if any(isinstance(one, dict | list | bool) for one in parsed) else values


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is(type: pa.DataType, known: Iterable[Callable[[pa.DataType], bool]]) -> bool:
    return any(is_known(type) for is_known in known)


def _fine(values: pa.Array) -> Cells:
    nowhere = np.zeros(len(values), bool)
    return Cells(values, nowhere, nowhere)
