"""Kept searches as shown lists in the contract's columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf.data.source import record_batch
from piano_tf.features import ACTIONS, CLICK, CONVERSION, LABELS, Axis
from tfx_pipeline.events.config import DAY, MICROSECONDS, EventsConfig
from tfx_pipeline.events.history import Histories
from tfx_pipeline.events.ordering import flat, mask, numbers
from tfx_pipeline.events.snapshots import Snapshots

SORTED_BY = ("timestamp", "list_id")
SETTLED = "settled"  # beside the contract's columns: whether the list's longest window is over

# What an act says of the list that it is of.
MARKS = pa.schema(
    [
        ("request", pa.string()),
        ("request_time", pa.int64()),
        ("position", pa.int32()),
        ("conversion", pa.bool_()),
    ]
)


def schema(config: EventsConfig) -> pa.Schema:
    """The contract's columns, and `SETTLED`."""
    return config.spec.arrow_schema.append(pa.field(SETTLED, pa.bool_()))


def as_lists(
    searches: pa.Table,
    histories: Histories,
    config: EventsConfig,
    until: int,
    items: Snapshots | None,
    users: Snapshots | None,
) -> tuple[pa.Table, dict[str, int]]:
    """Lists without labels yet, sorted by (timestamp, list_id).

    Args:
      searches: [n] kept searches in canonical columns.
      histories: Of each of them.
      config: The columns and windows.
      until: The end of observation.
      items, users: Where there are features of theirs.

    Returns:
      The lists in the columns of `schema`, their labels all 0; and of how many shown items and
      lists nothing was known when they were shown, by `item` and `user`.
    """
    time = numbers(searches["time"])
    shown, item_id = flat(searches["item_id"])
    past = histories.versions
    then = np.repeat(time, histories.lengths)
    values = {
        "list_id": searches["request_id"].combine_chunks(),
        "user_id": searches["user_id"].combine_chunks(),
        "query": searches["query"].combine_chunks(),
        "timestamp": time // MICROSECONDS,
        "item_id": item_id,
        "history_query": past["query"].combine_chunks(),
        "history_item_id": past["item_id"].combine_chunks(),
        "history_action": _actions(past["conversion"]),
        "history_age": ((then - numbers(past["moment"])) / DAY).astype(np.float32),
    }
    values |= {label: np.zeros(len(item_id), np.int64) for label in LABELS}
    values |= {
        name: searches[name].combine_chunks()
        for name in searches.schema.names
        if name.startswith("context_")
    }
    if config.spec.initial_score:
        values["initial_score"] = flat(searches["initial_score"])[1]
    unknown = {}
    if items is not None:
        features, unknown["item"] = items.as_of(item_id, time, shown)
        values |= features
        if config.history_item:
            features, _ = items.as_of(past["item_id"], time, histories.lengths)
            values |= {f"history_{name}": found for name, found in features.items()}
    if users is not None:
        features, unknown["user"] = users.as_of(values["user_id"], time)
        values |= features
    lengths = {Axis.ITEM: shown, Axis.HISTORY: histories.lengths}
    lists = pa.Table.from_batches([record_batch(config.spec, values, lengths)])
    settled = pa.array(time + config.attribution.longest_us <= until)
    lists = lists.append_column(SETTLED, settled)
    return in_order(lists), unknown


def in_order(lists: pa.Table) -> pa.Table:
    """Lists by (timestamp, list_id)."""
    return lists.take(pc.sort_indices(lists, [(name, "ascending") for name in SORTED_BY]))


def labelled(lists: pa.Table, marks: pa.Table) -> pa.Table:
    """Lists with their labels: a conversion is a click too.

    Args:
      lists: As `as_lists` makes them.
      marks: What acts say, in the columns of `MARKS`, of these lists among others.
    """
    row = pc.index_in(marks["request"], value_set=lists["list_id"].combine_chunks())
    marks = marks.filter(pc.is_valid(row))
    shown, item_id = flat(lists["item_id"])
    first = np.cumsum(shown) - shown
    slot = first[numbers(row.drop_null())] + numbers(marks["position"])
    offsets = pa.array(np.append(first, len(item_id)), pa.int32())
    for label, which in (
        (CLICK, slot),
        (CONVERSION, slot[mask(marks["conversion"])]),
    ):
        acted = np.zeros(len(item_id), np.int64)
        acted[which] = 1
        index = lists.schema.get_field_index(label)
        column = pa.ListArray.from_arrays(offsets, pa.array(acted))
        lists = lists.set_column(index, lists.schema.field(index), column)
    return lists


def _actions(conversions: pa.ChunkedArray) -> pa.Array:
    indices = numbers(conversions).astype(np.int8)  # ACTIONS: click, then conversion
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(ACTIONS)).cast(pa.string())
