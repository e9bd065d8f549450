"""The raw events behind a simulated log, as a service would have written them down.

What `piano_tf.simulation.logs` logs as shown lists is here taken apart into searches, clicks,
conversions, and what was known of tracks and listeners from when on, so that a job which builds
lists from events can be held to the lists that this world logged itself.

The world dates every act at its list: the clicks and conversions of a list have the list's own
second, in no order but that of its candidates. Nothing is lost, late or double. A track's features hold
for a day, from its first second, and a listener's for ever, so that lists built from these events
are those of the log, each in every column.

==============  ====================================================================================
table           columns
==============  ====================================================================================
search          request_id, user_id, time, query, item_id (a list, as shown), initial_score (a list),
                device, slice
click           request_id, user_id, item_id, time
conversion      request_id, user_id, item_id, time, kind
item            item_id, valid_from, and the track's features; once a day for what is out
user            user_id, valid_from, and the listener's features; once
==============  ====================================================================================

Times are Unix seconds. Each table is a folder of Parquet files, one a day.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from piano_tf.features import CLICK, CONVERSION, FeatureType
from piano_tf.files import require_place_for, whole_folder
from piano_tf.simulation.config import SimulationConfig
from piano_tf.simulation.logs import SPEC, DailyLog, Values
from piano_tf.simulation.searches import DAY
from piano_tf.simulation.world import World

MAPPING_FILE = "mapping.json"
SEARCH, ITEM, USER = "search", "item", "user"  # the tables, beside clicks and conversions
KIND = "full_play"  # of every conversion

_WINDOW = DAY  # after a list, in which acts count; the world needs none of it


def write_events(
    config: SimulationConfig,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Writes the events of `World(config)` during its log, and what their columns mean.

    The same configuration gives the same files. Memory does not grow with the number of lists.

    Args:
      config: The world and the extent of its log.
      output: Folder to make: a folder for each table, and `MAPPING_FILE`.
      overwrite: Whether events at `output` may be replaced.
      progress: Called with the number of lists after each batch written.

    Returns:
      Table -> rows.

    Raises:
      PianoError: `output` exists and may not be replaced, or is something else.
    """
    output = Path(output)
    parts = (MAPPING_FILE, SEARCH, CLICK, CONVERSION, ITEM, USER)
    require_place_for("folder of events", parts, output, overwrite=overwrite)
    rows: Counter[str] = Counter()
    with whole_folder(output, replace=overwrite) as partial:
        world = World(config)
        log = DailyLog(world)
        for day in range(config.days):
            with _Day(partial, config.start + DAY * day) as files:
                if day == 0:
                    rows[USER] += files.write(USER, _users(log, world))
                rows[ITEM] += files.write(ITEM, _items(log, world, day))
                for lists in log.lists_of(day):
                    rows[SEARCH] += files.write(SEARCH, _searches(lists))
                    for label in (CLICK, CONVERSION):
                        rows[label] += files.write(label, _acts(lists, label))
                    if progress is not None:
                        progress(lists.num_rows)
        (partial / MAPPING_FILE).write_text(json.dumps(mapping(config), indent=2) + "\n")
    return dict(rows)


def mapping(config: SimulationConfig) -> dict[str, Any]:
    """Which column of which table is what, and which rules make the world's lists of its events."""

    def table(name: str, *columns: str) -> dict[str, Any]:
        return {"files": f"{name}/*.parquet", "columns": {column: column for column in columns}}

    def declared(features: tuple[tuple[str, str], ...]) -> dict[str, dict[str, str]]:
        return {name: {"column": name, "type": type} for name, type in features}

    act = ("request_id", "user_id", "item_id", "time")
    shown = ("request_id", "user_id", "time", "query", "item_id", "initial_score")
    return {
        "dataset": SPEC.dataset,
        "time_unit": "s",
        "search": {**table(SEARCH, *shown), "context": declared(SPEC.context)},
        "click": table(CLICK, *act),
        "conversion": table(CONVERSION, *act, "kind"),
        "item": {**table(ITEM, "item_id", "valid_from"), "features": declared(SPEC.item)},
        "user": {**table(USER, "user_id", "valid_from"), "features": declared(SPEC.user)},
        "history_item": [name for name, _ in SPEC.history_item],
        "history_length": config.history,
        "attribution": {"click_window": _WINDOW, "conversion_windows": {KIND: _WINDOW}},
        # So late that no list's window is still open.
        "until": config.start + DAY * config.days + _WINDOW,
    }


class _Day(contextlib.ExitStack):
    """The files of one day, each there once something was written to it.

    Args:
      folder: Of the tables.
      start: Of the day, in Unix seconds.
    """

    def __init__(self, folder: Path, start: int) -> None:
        super().__init__()
        self._folder = folder
        self._name = f"{dt.datetime.fromtimestamp(start, dt.timezone.utc):%Y-%m-%d}.parquet"
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, table: str, batch: pa.RecordBatch) -> int:
        """Appends rows to a table; returns how many."""
        if table not in self._writers:
            (self._folder / table).mkdir(exist_ok=True)
            writer = pq.ParquetWriter(self._folder / table / self._name, batch.schema)
            self._writers[table] = self.enter_context(writer)
        self._writers[table].write_batch(batch)
        return batch.num_rows


def _searches(lists: pa.RecordBatch) -> pa.RecordBatch:
    """What was shown: lists of the contract without what only their job could know."""
    columns = {
        "request_id": lists["list_id"],
        "user_id": lists["user_id"],
        "time": lists["timestamp"],
        "query": lists["query"],
        "item_id": lists["item_id"],
        "initial_score": lists["initial_score"],
    }
    columns |= {name: lists[f"context_{name}"] for name, _ in SPEC.context}
    return pa.RecordBatch.from_pydict(columns)


def _acts(lists: pa.RecordBatch, label: str) -> pa.RecordBatch:
    """A row for each candidate of lists of the contract that has a label."""
    items = lists["item_id"]
    row = np.repeat(np.arange(len(items)), items.value_lengths().to_numpy())
    acted = np.flatnonzero(lists[label].flatten().to_numpy())
    of_list, place = pa.array(row[acted]), pa.array(acted)
    columns = {
        "request_id": lists["list_id"].take(of_list),
        "user_id": lists["user_id"].take(of_list),
        "item_id": items.flatten().take(place),
        "time": lists["timestamp"].take(of_list),
    }
    if label == CONVERSION:
        columns["kind"] = pa.array([KIND] * len(acted), pa.string())
    return pa.RecordBatch.from_pydict(columns)


def _items(log: DailyLog, world: World, day: int) -> pa.RecordBatch:
    """What is known of every track that is out on a day, from its start on."""
    out = np.flatnonzero(world.catalogue.is_out(day))
    return _snapshots(
        "item", log.columns.items(day, out), world.config.start + DAY * day, SPEC.item
    )


def _users(log: DailyLog, world: World) -> pa.RecordBatch:
    """What is known of every listener, from the start of the log on."""
    everybody = np.arange(world.config.listeners.count)
    return _snapshots("user", log.columns.users(everybody), world.config.start, SPEC.user)


def _snapshots(
    table: str,
    values: Mapping[str, Values],
    valid_from: int,
    features: Iterable[tuple[str, FeatureType]],
) -> pa.RecordBatch:
    columns = {f"{table}_id": values["id"], "valid_from": np.full(len(values["id"]), valid_from)}
    for name, type in features:
        found = values[name]
        columns[name] = pa.array(found, pa.float32()) if type == "float" else found
    return pa.RecordBatch.from_pydict(columns)
