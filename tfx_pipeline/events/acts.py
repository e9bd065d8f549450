"""Clicks and conversions together as acts, and those among them that name their request.

An act in what follows has these columns. What only its request can tell is null until it is known.

============  ======  =======================================================================
conversion    bool    whether it is one, and not a click
row columns           request_id, item_id, time, arrived_at and kind as they were read, and
                      named_user, the user_id as it was read
known_at      int64   when it was done, and it and its request there to be read
window        int64   how long after its request it still counts
user_id       string  whose it is
request       string  the request that it is of
request_time  int64   when that was
query         string  what was asked
position      int32   where in the list the item was
============  ======  =======================================================================
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.config import Attribution
from tfx_pipeline.events.dead_letters import Reason, letters, only_first
from tfx_pipeline.events.ordering import flat, is_first, is_null, numbers, ranks
from tfx_pipeline.events.tables import CLICK, CONVERSION

_ACTS_AT_ONCE = 1 << 14  # whose lists are looked through in one step

SCHEMA = pa.schema(
    [
        ("conversion", pa.bool_()),
        ("request_id", pa.string()),
        ("named_user", pa.string()),
        ("item_id", pa.string()),
        ("time", pa.int64()),
        ("arrived_at", pa.int64()),
        ("kind", pa.string()),
        ("known_at", pa.int64()),
        ("window", pa.int64()),
        ("user_id", pa.string()),
        ("request", pa.string()),
        ("request_time", pa.int64()),
        ("query", pa.string()),
        ("position", pa.int32()),
    ]
)

# What an act learns of its request.
OF_REQUESTS = ("user_id", "request_id", "time", "arrived_at", "query")


def joined(clicks: pa.Table | None, conversions: pa.Table | None, rules: Attribution) -> pa.Table:
    """Clicks and conversions as acts; the window of a conversion of an unknown kind is null."""
    parts = [SCHEMA.empty_table()]
    for table, is_conversion in ((clicks, False), (conversions, True)):
        if table is not None:
            parts.append(_acts(table, rules, conversion=is_conversion))
    return pa.concat_tables(parts)


def _acts(table: pa.Table, rules: Attribution, *, conversion: bool) -> pa.Table:
    count = table.num_rows
    time = table["time"]
    columns = {name: table[name] for name in ("request_id", "item_id", "time", "arrived_at")}
    columns |= {"named_user": table["user_id"], "user_id": table["user_id"]}
    columns["conversion"] = pa.array(np.full(count, conversion))
    columns["known_at"] = pc.max_element_wise(time, table["arrived_at"])
    columns["window"] = pa.array(np.full(count, rules.click_us))
    if conversion:
        columns["kind"] = table["kind"]
        columns["window"] = _windows(table["kind"], rules)
    return pa.table(
        [columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA], schema=SCHEMA
    )


def _windows(kinds: pa.ChunkedArray, rules: Attribution) -> pa.ChunkedArray:
    known = rules.conversions_us
    other = pa.scalar(rules.other_conversions_us, pa.int64())
    if not known:
        return pa.array([other.as_py()] * len(kinds), pa.int64())
    found = pc.index_in(kinds, value_set=pa.array(known, pa.string()), skip_nulls=True)
    windows = pa.chunked_array([pa.array(known.values(), pa.int64())])
    return pc.if_else(pc.is_null(found), other, windows.take(found))


def set_aside(acts: pa.Table, faults: dict[Reason, np.ndarray]) -> tuple[pa.Table, list[pa.Table]]:
    """Takes acts with a fault out, as `dead_letters.set_aside` does rows."""
    dead = []
    used = np.ones(acts.num_rows, bool)
    for reason, wrong in faults.items():
        if wrong.any():
            used &= ~wrong
            found = acts.filter(pa.array(wrong))
            for kind, which in (
                (CLICK, pc.invert(found["conversion"])),
                (CONVERSION, found["conversion"]),
            ):
                if rows := as_read(found.filter(which), kind):
                    dead.append(letters(kind, reason, rows))
    return (acts.filter(pa.array(used)), dead) if dead else (acts, dead)


def as_read(acts: pa.Table, kind: str) -> pa.Table:
    """Acts of one kind in the canonical columns of their table."""
    names = ["request_id", "named_user", "item_id", "time", "arrived_at"]
    if kind == CONVERSION:
        names.append("kind")
    columns = acts.select(names)
    return columns.rename_columns(["user_id" if n == "named_user" else n for n in names])


def unique(acts: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Sets acts aside that equal another in all but their arrival; the one that came first is kept.

    Args:
      acts: All that there are of their requests, or of their users where they name no request.
    """
    keys = [numbers(acts["conversion"]), numbers(acts["time"])]
    keys += [ranks(acts[name])[0] for name in ("request_id", "item_id", "kind", "named_user")]
    order = np.lexsort([numbers(acts["arrived_at"]), *keys])
    again = np.empty(acts.num_rows, bool)
    again[order] = ~is_first([key[order] for key in keys])
    return set_aside(acts, {Reason.DUPLICATE: again})


def with_requests(acts: pa.Table, searches: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Gives acts that name a request what it says of them.

    Args:
      acts: [n] that name one.
      searches: Kept ones, all that there are of these requests.

    Returns:
      Acts that fit their request, and dead letters.
    """
    place = pc.index_in(acts["request_id"], value_set=searches["request_id"].combine_chunks())
    unknown = is_null(place)
    acts, dead = set_aside(acts, {Reason.UNKNOWN_REQUEST: unknown})
    row = numbers(place)[~unknown]
    request = searches.select(OF_REQUESTS).take(pa.array(row))

    time, asked = numbers(acts["time"]), numbers(request["time"])
    named, owner = ranks(acts["named_user"], request["user_id"])
    position = positions(searches["item_id"], row, acts["item_id"])
    faults = {
        Reason.OTHER_USER: (named != -1) & (named != owner),
        Reason.NOT_SHOWN: position < 0,
        Reason.TOO_EARLY: time < asked,
        Reason.TOO_LATE: time > asked + numbers(acts["window"]),
    }
    acts = of_requests(acts, request, position)
    acts, more = set_aside(acts, only_first(faults))
    return acts, dead + more


def of_requests(acts: pa.Table, requests: pa.Table, position: np.ndarray) -> pa.Table:
    """Acts with what a search says of each.

    Args:
      acts: [n].
      requests: [n] with the columns `OF_REQUESTS`.
      position: [n] where in the list the item is.
    """
    known = {
        "user_id": requests["user_id"],
        "request": requests["request_id"],
        "request_time": requests["time"],
        "query": requests["query"],
        "known_at": pc.max_element_wise(acts["known_at"], requests["arrived_at"]),
        "position": pa.array(position, pa.int32()),
    }
    return pa.table([known.get(name, acts[name]) for name in SCHEMA.names], schema=SCHEMA)


def positions(lists: pa.ChunkedArray, rows: np.ndarray, items: pa.ChunkedArray) -> np.ndarray:
    """Where in its list each of some items is.

    Args:
      lists: [m] lists of items, none twice in one.
      rows: [n] which of the lists.
      items: [n] which item.

    Returns:
      [n] positions; -1 where the list does not have the item.
    """
    found = np.full(len(rows), -1)
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(order), _ACTS_AT_ONCE):
        some = order[start : start + _ACTS_AT_ONCE]
        found[some] = _positions(lists, rows[some], items.take(pa.array(some)))
    return found


def _positions(lists: pa.ChunkedArray, rows: np.ndarray, items: pa.ChunkedArray) -> np.ndarray:
    wanted, back = np.unique(rows, return_inverse=True)
    lists = lists.slice(wanted[0], wanted[-1] + 1 - wanted[0])  # the others are not copied
    lengths, shown = flat(lists.take(pa.array(wanted - wanted[0])))
    codes, sought = ranks(shown, items)
    width = max(codes.max(initial=0), sought.max(initial=0)) + 1
    slots = np.repeat(np.arange(len(wanted)), lengths) * width + codes
    order = np.argsort(slots)
    keys = back * width + sought
    at = np.searchsorted(slots, keys, sorter=order)
    slot = np.append(order, -1)[at]
    there = (at < len(slots)) & (np.append(slots, -1)[slot] == keys)
    first = np.cumsum(lengths) - lengths
    return np.where(there, slot - first[back] if len(first) else -1, -1)
