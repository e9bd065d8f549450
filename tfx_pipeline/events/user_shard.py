"""One shard of users, gone through in the order of time.

What is kept from step to step does not grow with the length of the log: entries that a history may
still need, and the searches whose windows are open.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events import acts as act_columns
from tfx_pipeline.events import history, lists
from tfx_pipeline.events.attribution import attributed
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.dead_letters import Reason, set_aside
from tfx_pipeline.events.limits import over_the_limit
from tfx_pipeline.events.ordering import mask, numbers
from tfx_pipeline.events.snapshots import Snapshots
from tfx_pipeline.events.tables import CLICK, CONVERSION, SEARCH


@dataclasses.dataclass(frozen=True)
class Step:
    """What came of the events of some days.

    Attributes:
      lists: In the columns of `lists.schema`, sorted, without labels yet.
      acts: Those that are used, in the columns of `acts.SCHEMA`, each with its request.
      dead_letters: Of the others.
      unknown: `item` and `user` -> how many of what was shown had no snapshot.
    """

    lists: pa.Table
    acts: pa.Table
    dead_letters: list[pa.Table]
    unknown: dict[str, int]

    def acts_used(self) -> dict[str, int]:
        """Clicks and conversions that are used."""
        conversions = pc.sum(self.acts["conversion"]).as_py() or 0
        return {CLICK: self.acts.num_rows - conversions, CONVERSION: conversions}


class UserShard:
    """The users of one shard.

    Args:
      config: The rules.
      until: The end of observation.
      searches: The canonical columns of searches.
      items, users: Where there are features of theirs.
    """

    def __init__(
        self,
        config: EventsConfig,
        until: int,
        searches: pa.Schema,
        items: Snapshots | None = None,
        users: Snapshots | None = None,
    ) -> None:
        self._config = config
        self._until = until
        self._items = items
        self._users = users
        self._numbers: dict[str, int] = {}
        self._entries = history.SCHEMA.empty_table()
        self._open = searches.empty_table()
        self._refused = searches.empty_table().select(["request_id", "time"])

    def step(self, searches: pa.Table, acts: pa.Table, end: int) -> Step:
        """Goes on by some whole days.

        Args:
          searches: The kept searches of these days, in canonical columns.
          acts: The acts of these days, in the columns of `acts.SCHEMA`.
          end: The midnight after them; the days of the next step are not earlier.
        """
        searches, acts, dead = self._limited(searches, acts)
        names_request = pc.is_valid(acts["request_id"])
        without = acts.filter(pc.invert(names_request))
        acts = acts.filter(names_request)
        self._open = pa.concat_tables([self._open, searches])
        if without.num_rows:
            found, more = attributed(without, self._open)
            acts = pa.concat_tables([acts, found])
            dead += more
        histories = self._histories(searches, acts, end)
        made, unknown = lists.as_lists(
            searches, histories, self._config, self._until, self._items, self._users
        )
        self._open, self._refused = (
            table.filter(pa.array(numbers(table["time"]) + self._longest >= end)).combine_chunks()
            for table in (self._open, self._refused)
        )
        return Step(made, acts, dead, unknown)

    @property
    def _longest(self) -> int:
        return self._config.attribution.longest_us

    def _limited(
        self, searches: pa.Table, acts: pa.Table
    ) -> tuple[pa.Table, pa.Table, list[pa.Table]]:
        limit = self._config.limits.events_per_user_day
        if limit is None:
            return searches, acts, []
        too_many, acts_too_many = over_the_limit(searches, acts, limit)
        refused = searches.filter(pa.array(too_many)).select(["request_id", "time"])
        self._refused = pa.concat_tables([self._refused, refused])
        searches, dead = set_aside(SEARCH, searches, {Reason.OVER_LIMIT: too_many})
        gone = pc.is_in(acts["request"], value_set=self._refused["request_id"].combine_chunks())
        unknown = mask(gone) & ~acts_too_many
        acts, more = act_columns.set_aside(
            acts, {Reason.OVER_LIMIT: acts_too_many, Reason.UNKNOWN_REQUEST: unknown}
        )
        return searches, acts, dead + more

    def _histories(self, searches: pa.Table, acts: pa.Table, end: int) -> history.Histories:
        searcher = self._numbered(searches["user_id"])
        actor = self._numbered(acts["user_id"])
        new = {
            "user": pa.array(actor),
            "moment": acts["time"],
        }
        entries = pa.table(
            [new[name] if name in new else acts[name] for name in history.SCHEMA.names],
            schema=history.SCHEMA,
        )
        # Of users who do nothing in these days, nothing is needed and nothing changes.
        busy = np.zeros(len(self._numbers), bool)
        busy[searcher] = busy[actor] = True
        awake = busy[numbers(self._entries["user"])]
        versions = history.Versions(
            pa.concat_tables([self._entries.filter(pa.array(awake)), entries])
        )
        found = versions.before(searcher, numbers(searches["time"]), self._config.history_length)
        kept = versions.still_needed(end, self._longest, self._config.history_length)
        asleep = self._entries.filter(pa.array(~awake))
        self._entries = pa.concat_tables([asleep, kept]).combine_chunks()
        return found

    def _numbered(self, users: pa.ChunkedArray) -> np.ndarray:
        """A number for each user, the same in all steps."""
        encoded = pc.dictionary_encode(users.combine_chunks())
        known = self._numbers
        number_of = [known.setdefault(user, len(known)) for user in encoded.dictionary.to_pylist()]
        return np.array(number_of, np.int64)[numbers(encoded.indices)]
