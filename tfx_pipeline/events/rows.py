"""Rows that are sound or not, before any rule compares them with others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.dead_letters import Reason, as_json, only_first, without_payload
from tfx_pipeline.events.ordering import is_null, mask, numbers
from tfx_pipeline.events.tables import CLICK, CONVERSION, SEARCH

# The contract's own bound, beyond which a second looks like a millisecond.
_END = 10**11 * 1_000_000
_TIMES = ("time", "arrived_at", "valid_from")
_FEATURES = ("context_", "item_", "user_")
IDS = ("request_id", "user_id", "item_id", "kind")


def normalised(table: pa.Table) -> pa.Table:
    """Empty ids as null, features that are missing or no finite number as "" and 0."""
    columns = []
    for field in table.schema:
        column = table[field.name]
        if field.name in IDS and field.type == pa.string():
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        elif field.name.startswith(_FEATURES) and field.name not in IDS:
            if field.type == pa.string():
                column = pc.fill_null(column, "")
            else:
                finite = pc.fill_null(pc.is_finite(column), False)
                column = pc.if_else(finite, column, pa.scalar(0.0, field.type))
                column = pc.add(column, pa.scalar(0.0, field.type))  # there is one zero, not two
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def sound(
    kind: str,
    table: pa.Table,
    *,
    as_read: Callable[[np.ndarray], list[dict]],
    unread: Mapping[Reason, np.ndarray],
    keep_payload: bool,
    forgotten: Collection[str] = (),
) -> tuple[pa.Table, list[pa.Table], pa.Array]:
    """Sets rows aside that no rule could look at.

    Args:
      kind: Name of the table.
      table: [n] in canonical columns, with nulls where a value could not be read.
      as_read: From row numbers to what these rows said before anything was made of them.
      unread: Reason -> [n] rows that could not be read.
      keep_payload: Whether their dead letters may say what they said.
      forgotten: Users of whom nothing is kept, whatever else is wrong with their rows.

    Returns:
      The other rows, normalised, dead letters, and the request ids of searches of forgotten users
      that are among these.
    """
    table = normalised(table)
    theirs = np.zeros(table.num_rows, bool)
    if forgotten and "user_id" in table.schema.names:
        theirs = mask(pc.is_in(table["user_id"], value_set=pa.array([*forgotten], pa.string())))
    found = {**unread, **faults(kind, table)}
    wrong_and_theirs = np.logical_or.reduce([*found.values()]) & theirs
    found = only_first({Reason.FORGOTTEN: wrong_and_theirs, **found})
    requests = pa.array([], pa.string())
    if kind == SEARCH:
        requests = table["request_id"].filter(pa.array(wrong_and_theirs)).combine_chunks()
    dead = []
    for reason, wrong in found.items():
        if count := int(np.count_nonzero(wrong)):
            details = map(as_json, as_read(np.flatnonzero(wrong))) if keep_payload else None
            dead.append(without_payload(kind, reason, count, details))
    if dead:
        table = table.filter(pa.array(~np.logical_or.reduce([*found.values()])))
    return table, dead, requests.drop_null()


def faults(kind: str, table: pa.Table) -> dict[Reason, np.ndarray]:
    """Which rows lack a value, and which have a time that is none.

    Args:
      kind: Name of the table.
      table: [n] in canonical columns, normalised.

    Returns:
      Reason -> [n] whether a row is to be set aside for it.
    """
    missing = np.zeros(table.num_rows, bool)
    for name in _required(kind, table.schema):
        column = table[name]
        missing |= is_null(column)
        if pa.types.is_list(column.type):
            missing |= _lacks_a_value(column)
    if kind in (CLICK, CONVERSION):
        missing |= is_null(table["request_id"]) & is_null(table["user_id"])
    wrong = np.zeros(table.num_rows, bool)
    for name in _TIMES:
        if name in table.schema.names:
            time = numbers(table[name], null=0)
            wrong |= (time < 0) | (time >= _END)
    return {Reason.MISSING: missing, Reason.OUT_OF_RANGE: wrong}


def _required(kind: str, schema: pa.Schema) -> list[str]:
    if kind == SEARCH:
        known = ("request_id", "user_id", "time", "query", "item_id", "initial_score")
        return [name for name in known if name in schema.names]
    if kind in (CLICK, CONVERSION):
        return ["item_id", "time"]
    return [f"{kind}_id", "valid_from"]


def _lacks_a_value(column: pa.ChunkedArray) -> np.ndarray:
    """Whether each list has a value that is null, an id that is empty or a score not finite."""
    values = pc.list_flatten(column)
    if values.type == pa.string():
        wrong = pc.fill_null(pc.equal(values, ""), True)
    else:
        wrong = pc.invert(pc.fill_null(pc.is_finite(values), False))
    rows = pc.list_parent_indices(column).to_numpy()
    found = np.zeros(len(column), bool)
    found[rows[mask(wrong)]] = True
    return found
