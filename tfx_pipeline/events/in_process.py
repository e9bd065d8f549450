"""The rules on tables in memory: the job's own stages with one shard, and without Beam."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from piano_tf.errors import PianoError
from tfx_pipeline.events import lists
from tfx_pipeline.events.acts import SCHEMA
from tfx_pipeline.events.config import DAY, EventsConfig
from tfx_pipeline.events.dead_letters import in_order
from tfx_pipeline.events.ordering import numbers
from tfx_pipeline.events.privacy import Guard, of_unsound
from tfx_pipeline.events.reconciliation import Tally
from tfx_pipeline.events.requests import resolved
from tfx_pipeline.events.rows import sound
from tfx_pipeline.events.snapshots import Snapshots, changes, unique
from tfx_pipeline.events.tables import EVENTS, ITEM, SEARCH, USER, schemas
from tfx_pipeline.events.user_shard import UserShard


@dataclasses.dataclass(frozen=True)
class Built:
    """What became of events.

    Attributes:
      lists: Settled lists in the contract's columns, by (timestamp, list_id).
      held_back: Likewise, of lists whose longest window is not over.
      dead_letters: `dead_letters.SCHEMA`, sorted by all columns, nulls first.
      counts: Kind -> `read`, `used` and `dead letters` by reason.
    """

    lists: pa.Table
    held_back: pa.Table
    dead_letters: pa.Table
    counts: dict[str, dict]


def build(
    tables: Mapping[str, pa.Table], config: EventsConfig, *, days_at_once: int | None = None
) -> Built:
    """Builds lists from events.

    Args:
      tables: Name -> table in the columns of `tables.schemas(config)`; one left out is empty.
      config: The rules; what it says of files and columns is not needed here, but for which
        optional columns there are.
      days_at_once: How many days to go through in one step; None takes all. Changes nothing in
        what comes out.

    Raises:
      ConfigError: The salt or the list of users to forget cannot be read.
      PianoError: A table has other columns.
    """
    guard = Guard.of(config.privacy)
    tally, dead = Tally(), []
    passed, until = {}, 0
    forgotten = []
    for kind, table in _conformed(tables, config).items():
        tally.read(kind, table.num_rows)
        table, wrong, unsound_requests = sound(
            kind,
            table,
            as_read=_rows_of(table),
            unread={},
            keep_payload=config.privacy.keeps_payloads,
            forgotten=guard.forgotten,
        )
        dead += wrong
        passed[kind], gone, requests = guard.passed(kind, table)
        dead += gone
        if kind in EVENTS:
            until = max(until, pc.max(passed[kind]["time"]).as_py() or 0)
        forgotten += [of_unsound(unsound_requests), requests]
    until = until if config.until_us is None else config.until_us

    snapshots: dict[str, Snapshots] = {}
    for kind in (ITEM, USER):
        if kind in passed:
            table, again = unique(kind, passed[kind])
            dead += again
            tally.used(kind, table.num_rows)
            snapshots[kind] = Snapshots(kind, changes(kind, table))
    events = {kind: passed[kind] for kind in EVENTS if kind in passed}
    requests = resolved(events, pa.concat_tables(forgotten), config, until)
    dead += requests.dead_letters

    shard = UserShard(
        config, until, events[SEARCH].schema, snapshots.get(ITEM), snapshots.get(USER)
    )
    made, acts = [lists.schema(config).empty_table()], [SCHEMA.empty_table()]
    for searches, its_acts, end in _steps(requests.searches, requests.acts, days_at_once):
        step = shard.step(searches, its_acts, end)
        made.append(step.lists)
        acts.append(step.acts)
        dead += step.dead_letters
        tally.used(SEARCH, step.lists.num_rows)
        for kind, count in step.acts_used().items():
            tally.used(kind, count)
    every = lists.in_order(pa.concat_tables(made))
    every = lists.labelled(every, pa.concat_tables(acts).select(lists.MARKS.names))
    settled = every[lists.SETTLED]
    every = every.select(config.spec.arrow_schema.names)
    tally.dead(dead)
    return Built(
        every.filter(settled), every.filter(pc.invert(settled)), in_order(dead), tally.reconciled()
    )


def _conformed(tables: Mapping[str, pa.Table], config: EventsConfig) -> dict[str, pa.Table]:
    known = schemas(config)
    for kind, table in tables.items():
        if kind not in known or table.schema.names != known[kind].names:
            expected = known[kind].names if kind in known else "no such table"
            raise PianoError(f"{kind}: got columns {table.schema.names}, expected {expected}")
    return {
        kind: tables[kind].cast(schema) if kind in tables else schema.empty_table()
        for kind, schema in known.items()
    }


def _rows_of(table: pa.Table) -> Callable[[np.ndarray], list[dict]]:
    return lambda rows: table.take(pa.array(rows)).to_pylist()


def _steps(
    searches: pa.Table, acts: pa.Table, days_at_once: int | None
) -> Iterator[tuple[pa.Table, pa.Table, int]]:
    times = [numbers(table["time"]) // DAY for table in (searches, acts)]
    days = np.concatenate(times)
    if not days.size:
        return
    first, end = int(days.min()), int(days.max()) + 1
    width = days_at_once or end - first
    for start in range(first, end, width):
        parts = (
            table.filter(pa.array((start <= day) & (day < start + width)))
            for table, day in zip((searches, acts), times, strict=True)
        )
        yield *parts, (start + width) * DAY
