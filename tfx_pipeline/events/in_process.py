"""The rules on tables in memory: the job's own stages with one shard, and without Beam."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pyarrow as pa

from tfx_pipeline.events.config import EventsConfig


@dataclasses.dataclass(frozen=True)
class Built:
    """What became of events.

    Attributes:
      lists: Settled lists in the contract's columns, by (timestamp, list_id).
      held_back: Likewise, of lists whose longest window is not over.
      dead_letters: `dead_letters.SCHEMA`, sorted by all columns, nulls first.
      counts: What `reconciliation.json` says: kind -> `read`, `used` and `dead letters` by reason.
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
    raise NotImplementedError
