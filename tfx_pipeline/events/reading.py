"""A team's files as canonical tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf.errors import LogError
from tfx_pipeline.events import cells
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.formats import Raw, Wanted, has_header, reader_of
from tfx_pipeline.events.rows import IDS, sound
from tfx_pipeline.events.tables import columns_of, schemas


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
      rows: How many were read.
      table: The sound ones in canonical columns.
      dead_letters: Of the others.
      columns: Columns of the mapping that these rows have; a row of JSON lines may leave out what
        it has no value for.
      forgotten: Request ids of searches of forgotten users among the others.
      met: Which of all forgotten users rows name, sound or not: places in the order of their ids.
    """

    rows: int
    table: pa.Table
    dead_letters: list[pa.Table]
    columns: Collection[str]
    forgotten: pa.Array
    met: list[int]


def read(
    path: Path, kind: str, config: EventsConfig, forgotten: Collection[str] = ()
) -> Iterator[Batch]:
    """Reads a file batch by batch.

    Args:
      path: The file.
      kind: Name of its table.
      config: What its columns are called.
      forgotten: Users of whom nothing is kept.

    Raises:
      LogError: A column that the mapping names is missing, or cannot be what it should.
      Unreadable: The file is damaged.
    """
    schema, source = schemas(config)[kind], columns_of(kind, config)
    keep_payload = config.privacy.keeps_payloads
    in_order = pa.array(sorted(forgotten), pa.string())
    for raw in reader_of(path)(path, _wanted(source, schemas(config)[kind])):
        if raw.has_header:
            _require(raw.columns.keys(), source, path)
        table, unread = _canonical(raw, schema, source, config, path)
        met = _met(table, in_order)
        table, dead, requests = sound(
            kind,
            table,
            as_read=raw.as_read,
            unread=unread,
            keep_payload=keep_payload,
            forgotten=forgotten,
        )
        yield Batch(raw.rows, table, dead, raw.columns.keys(), requests, met)


def _met(table: pa.Table, users: pa.Array) -> list[int]:
    """The places of those users whom a table names."""
    if not len(users) or "user_id" not in table.schema.names:
        return []
    return pc.index_in(pc.unique(table["user_id"]), value_set=users).drop_null().to_pylist()


def check(path: Path, kind: str, config: EventsConfig) -> None:
    """Looks at the header of a file, if it has one, before long work.

    Raises:
      LogError: As `read` does.
      Unreadable: The file is damaged.
    """
    source = columns_of(kind, config)
    if has_header(path):
        for raw in reader_of(path)(path, _wanted(source, schemas(config)[kind])):
            _require(raw.columns.keys(), source, path)
            _canonical(raw, schemas(config)[kind], source, config, path)
            return


def _wanted(source: dict[str, str], schema: pa.Schema) -> dict[str, Wanted]:
    """Columns of a file -> what they shall be; text where one is wanted as two."""
    found: dict[str, Wanted] = {}
    for name, column in source.items():
        type = schema.field(name).type
        one_line = type == pa.int64() or (name in IDS and type == pa.string())
        before = found.get(column, Wanted(type))
        found[column] = Wanted(
            type if before.type == type else pa.string(), one_line or before.one_line
        )
    return found


def _require(there: Collection[str], source: dict[str, str], path: Path) -> None:
    for name, column in source.items():
        if column not in there:
            raise LogError(
                f"missing; expected by the mapping as {name!r}", column=column, source=str(path)
            )


def _canonical(
    raw: Raw, schema: pa.Schema, source: dict[str, str], config: EventsConfig, path: Path
) -> tuple[pa.Table, dict[Reason, np.ndarray]]:
    not_utf8, not_readable = raw.not_utf8.copy(), raw.not_readable.copy()
    columns = []
    for field in schema:
        column = raw.columns.get(source.get(field.name, ""))
        if column is None:
            columns.append(pa.nulls(raw.rows, field.type))
            continue
        try:
            found = _parser(field, config)(column)
        except cells.Misfit as misfit:
            raise LogError(
                f"got type {column.type}, expected {misfit}",
                column=source[field.name],
                source=str(path),
            ) from None
        columns.append(found.values.cast(field.type))
        not_utf8 |= found.not_utf8
        not_readable |= found.not_readable
    unread = {Reason.NOT_UTF8: not_utf8, Reason.NOT_READABLE: not_readable}
    return pa.table(columns, schema=schema), unread


def _parser(field: pa.Field, config: EventsConfig) -> Callable[[pa.Array], cells.Cells]:
    if field.type == pa.string():
        return cells.text
    if field.type == pa.int64():
        return lambda column: cells.time(column, config.time_unit)
    if field.type == pa.float32():
        return cells.number
    of = cells.text if field.type.value_type == pa.string() else cells.number
    return lambda column: cells.lists(column, of, config.list_separator)
