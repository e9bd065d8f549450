"""Events that are not used, each with the one reason why."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.config import DAY
from tfx_pipeline.events.ordering import numbers

_PERIOD = 28 * DAY  # of which all letters of one kind and reason are sorted at once
_BLOCK = 1 << 16  # letters that say nothing, written at once

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("time", pa.int64()),
        ("user_id", pa.string()),
        ("request_id", pa.string()),
        ("item_id", pa.string()),
        ("detail", pa.string()),
    ]
)


class Reason(str, enum.Enum):
    """Why an event is not used."""

    UNREADABLE_FILE = "unreadable file"
    NOT_READABLE = "not readable"
    NOT_UTF8 = "not UTF-8"
    MISSING = "missing value"
    OUT_OF_RANGE = "time out of range"
    FORGOTTEN = "forgotten"
    OLD = "older than retention"
    OVER_LIMIT = "over the limit"
    EMPTY_LIST = "empty list"
    ITEM_TWICE = "item shown twice"
    SCORES = "scores do not match items"
    DUPLICATE = "duplicate"
    REQUEST_TWICE = "request id used twice"
    UNKNOWN_KIND = "unknown kind"
    UNKNOWN_REQUEST = "unknown request"
    OTHER_USER = "another user's request"
    NOT_SHOWN = "item not shown"
    TOO_EARLY = "before its request"
    TOO_LATE = "outside the window"
    NO_REQUEST = "no request within the window"
    REPLACED = "another snapshot of that time"


def letters(kind: str, reason: Reason, rows: pa.Table) -> pa.Table:
    """Dead letters of rows that were read.

    Args:
      kind: Name of their table.
      reason: Why they are not used.
      rows: [n] in canonical columns.

    Returns:
      [n] in the columns of `SCHEMA`.
    """
    columns = []
    for field in SCHEMA:
        source = "valid_from" if field.name == "time" and "time" not in rows.schema.names else None
        name = source or field.name
        if field.name == "kind":
            columns.append(_same(kind, rows.num_rows))
        elif field.name == "reason":
            columns.append(_same(reason.value, rows.num_rows))
        elif field.name == "detail":
            columns.append(_details(rows))
        elif name in rows.schema.names and rows.schema.field(name).type == field.type:
            columns.append(rows[name])
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    return pa.table(columns, schema=SCHEMA)


def set_aside(
    kind: str, rows: pa.Table, faults: Mapping[Reason, np.ndarray]
) -> tuple[pa.Table, list[pa.Table]]:
    """Takes rows with a fault out of a table.

    Args:
      kind: Name of their table.
      rows: [n] in canonical columns.
      faults: Reason -> [n] whether a row is not used for it; a row has one reason at most.

    Returns:
      The other rows, and dead letters.
    """
    found = {reason: wrong for reason, wrong in faults.items() if wrong.any()}
    if not found:
        return rows, []
    dead = [letters(kind, reason, rows.filter(pa.array(wrong))) for reason, wrong in found.items()]
    return rows.filter(pa.array(~np.logical_or.reduce([*found.values()]))), dead


def only_first(faults: dict[Reason, np.ndarray]) -> dict[Reason, np.ndarray]:
    """The same with at most one reason a row, the first."""
    found: dict[Reason, np.ndarray] = {}
    for reason, wrong in faults.items():
        for earlier in found.values():
            wrong = wrong & ~earlier
        found[reason] = wrong
    return found


def without_payload(
    kind: str, reason: Reason, count: int, details: Iterable[str] | None = None
) -> pa.Table:
    """Dead letters that say no more of a row than that there was one, and `details` if given."""
    columns = {
        "kind": _same(kind, count),
        "reason": _same(reason.value, count),
        "detail": pa.nulls(count, pa.string())
        if details is None
        else pa.array(details, pa.string()),
    }
    return pa.table(
        [columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA], schema=SCHEMA
    )


def divided(letters: Iterable[pa.Table]) -> Iterator[tuple[tuple[str, str, int], pa.Table]]:
    """Parts of dead letters that stand one after the other in the order of their keys.

    Args:
      letters: Each of one kind and reason.

    Yields:
      (kind, reason, four weeks since 1970) and its letters; those without a time come first.
    """
    for table in letters:
        if not table.num_rows:
            continue
        kind, reason = (table[name][0].as_py() for name in ("kind", "reason"))
        periods = numbers(table["time"]) // _PERIOD
        for period in np.unique(periods).tolist():
            yield (kind, reason, period), table.filter(pa.array(periods == period))


def in_order(parts: Iterable[pa.Table]) -> pa.Table:
    """All parts in one order that the order of the parts does not change: nulls first."""
    table = pa.concat_tables([SCHEMA.empty_table(), *parts])
    keys = [(name, "ascending") for name in SCHEMA.names]
    return table.take(pc.sort_indices(table, sort_keys=keys, null_placement="at_start"))


def blocks(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """All parts of one kind and reason in that order, one after the other.

    Letters that say nothing are all the same, and may be very many: they are counted, not sorted.
    """
    parts = [part for part in parts if part.num_rows]
    columns = [part[name] for part in parts for name in SCHEMA.names[2:]]
    if any(column.null_count < len(column) for column in columns):
        yield in_order(parts)
        return
    left = sum(part.num_rows for part in parts)
    while left:
        kind, reason = (parts[0][name][0].as_py() for name in ("kind", "reason"))
        yield without_payload(kind, Reason(reason), count := min(left, _BLOCK))
        left -= count


def as_json(row: dict) -> str:
    """A row as JSON: keys in order, bytes that are no text escaped, times as ISO 8601."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=_plain)


def _details(rows: pa.Table) -> pa.Array:
    """Sound rows [n] as JSON, made column by column, for a bot may leave very many."""
    rows = rows.combine_chunks()
    texts: list[pa.Array | str] = []
    for name in sorted(rows.schema.names):
        column = rows[name]
        values = pa.concat_arrays([pa.array([], column.type), *column.chunks])
        texts += [f"{', ' if texts else '{'}{json.dumps(name)}: ", _json(values)]
    return pc.binary_join_element_wise(*texts, "}", "")


def _json(values: pa.Array) -> pa.Array:
    """Texts, finite numbers and lists of these [n] as JSON each."""
    if pa.types.is_list(values.type):
        lengths = pc.fill_null(values.value_lengths(), 0).to_numpy()
        ends = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
        lists = pa.ListArray.from_arrays(ends, _json(values.flatten()))
        joined = pc.binary_join_element_wise("[", pc.binary_join(lists, ", "), "]", "")
        found = pc.if_else(pc.is_valid(values), joined, pa.scalar(None, pa.string()))
    elif values.type == pa.string():
        encoded = pc.dictionary_encode(values)
        texts = [json.dumps(text, ensure_ascii=False) for text in encoded.dictionary.to_pylist()]
        found = pa.array(texts, pa.string()).take(encoded.indices)
    else:
        found = values.cast(pa.string())
    return pc.fill_null(found, "null")


def _plain(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _same(value: str, count: int) -> pa.Array:
    return pa.array([value] * count, pa.string())
