"""One shard of request ids: which search each names, and which acts are its."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events import acts as act_columns
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason, without_payload
from tfx_pipeline.events.ordering import is_null, numbers
from tfx_pipeline.events.privacy import of_forgotten
from tfx_pipeline.events.searches import sifted
from tfx_pipeline.events.tables import CLICK, CONVERSION, SEARCH


@dataclasses.dataclass(frozen=True)
class Requests:
    """Searches and acts that are to be looked at user by user.

    Attributes:
      searches: Kept ones in canonical columns, one a request id.
      acts: In the columns of `acts.SCHEMA`, with their request where they name it.
      dead_letters: Of the others.
    """

    searches: pa.Table
    acts: pa.Table
    dead_letters: list[pa.Table]


def resolved(
    tables: dict[str, pa.Table], forgotten: pa.Table, config: EventsConfig, until: int
) -> Requests:
    """Removes duplicates, and joins acts to the requests that they name.

    Args:
      tables: `search`, and `click` and `conversion` where there are any: all rows of the shard's
        request ids, and all acts without one of some users; of users who are not forgotten.
      forgotten: Searches of users who are, in the columns of `privacy.REQUESTS`.
      config: The rules.
      until: The end of observation.
    """
    dead = []
    since = None if config.privacy.retention_us is None else until - config.privacy.retention_us
    searches, more = _younger(SEARCH, tables[SEARCH], since)
    dead += more
    searches, more = sifted(searches)
    dead += more
    theirs = of_forgotten(forgotten, searches)
    young = {}
    for kind in (CLICK, CONVERSION):
        if kind in tables:
            table, more = _of_others(kind, tables[kind], theirs)
            dead += more
            young[kind], more = _younger(kind, table, since)
            dead += more
    acts = act_columns.joined(young.get(CLICK), young.get(CONVERSION), config.attribution)
    acts, more = act_columns.set_aside(acts, {Reason.UNKNOWN_KIND: is_null(acts["window"])})
    dead += more
    acts, more = act_columns.unique(acts)
    dead += more
    named = pc.is_valid(acts["request_id"])
    found, more = act_columns.with_requests(acts.filter(named), searches)
    dead += more
    return Requests(searches, pa.concat_tables([acts.filter(pc.invert(named)), found]), dead)


def _of_others(kind: str, acts: pa.Table, forgotten: pa.Array) -> tuple[pa.Table, list[pa.Table]]:
    """Takes out acts that name a forgotten user's request, and no user."""
    if not len(forgotten):
        return acts, []
    theirs = pc.and_(pc.is_null(acts["user_id"]), pc.is_in(acts["request_id"], value_set=forgotten))
    count = pc.sum(theirs).as_py() or 0
    return acts.filter(pc.invert(theirs)), [without_payload(kind, Reason.FORGOTTEN, count)]


def _younger(kind: str, table: pa.Table, since: int | None) -> tuple[pa.Table, list[pa.Table]]:
    if since is None:
        return table, []
    old = numbers(table["time"]) < since
    dead = without_payload(kind, Reason.OLD, int(np.count_nonzero(old)))
    return table.filter(pa.array(~old)), [dead]
