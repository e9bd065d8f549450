"""Users who are forgotten, and ids that nobody can trace back."""

from __future__ import annotations

import dataclasses
import hmac
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.config import Privacy
from tfx_pipeline.events.dead_letters import Reason, without_payload
from tfx_pipeline.events.ordering import Column, is_null, numbers
from tfx_pipeline.events.tables import SEARCH

REQUESTS = pa.schema(
    [("request_id", pa.string()), ("time", pa.int64()), ("arrived_at", pa.int64())]
)
_DIGITS = 32


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a row passes before anything is kept of it.

    Attributes:
      forgotten: Users of whom nothing is kept.
      salt: The secret with which user ids are hashed, or None.
    """

    forgotten: frozenset[str] = frozenset()
    salt: bytes | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, privacy: Privacy, input_dir: Path | None = None) -> Guard:
        """What a configuration asks for.

        Raises:
          ConfigError: The salt or the list of users to forget cannot be read.
        """
        return cls(privacy.forgotten(input_dir), privacy.salt())

    def passed(self, kind: str, table: pa.Table) -> tuple[pa.Table, list[pa.Table], pa.Table]:
        """The rows of users who are not forgotten, under hashed ids.

        Args:
          kind: Name of the table.
          table: In canonical columns.

        Returns:
          The rows, dead letters, and of searches of forgotten users the columns of `REQUESTS`.
        """
        requests = REQUESTS.empty_table()
        dead: list[pa.Table] = []
        if "user_id" not in table.schema.names:
            return table, dead, requests
        if self.forgotten:
            gone = pc.is_in(table["user_id"], value_set=pa.array(self.forgotten, pa.string()))
            theirs = table.filter(gone)
            table = table.filter(pc.invert(gone))
            dead.append(without_payload(kind, Reason.FORGOTTEN, theirs.num_rows))
            if kind == SEARCH:
                requests = theirs.select(REQUESTS.names)
        if self.salt is not None:
            index = table.schema.get_field_index("user_id")
            hashed = self._hashed(table["user_id"].combine_chunks())
            table = table.set_column(index, table.schema.field(index), hashed)
        return table, dead, requests

    def _hashed(self, users: pa.Array) -> pa.Array:
        encoded = pc.dictionary_encode(users)
        hashed = [self.hashed(user) for user in encoded.dictionary.to_pylist()]
        return pa.array(hashed, pa.string()).take(encoded.indices)

    def hashed(self, user: str) -> str:
        """A user's id in every output.

        >>> Guard(salt=b"secret").hashed("ada")
        '3c30486140e27f6f8b09ea69da2a6ca7'
        >>> Guard().hashed("ada")
        'ada'
        """
        if self.salt is None:
            return user
        return hmac.digest(self.salt, user.encode(), "sha256").hex()[:_DIGITS]


def of_unsound(request_ids: Column) -> pa.Table:
    """`REQUESTS` of searches of forgotten users of which no more is known than the request."""
    unknown = pa.nulls(len(request_ids), pa.int64())
    return pa.table([request_ids, unknown, unknown], schema=REQUESTS)


def of_forgotten(requests: pa.Table, searches: pa.Table) -> pa.Array:
    """Which request ids are a forgotten user's, and not of somebody who used them earlier.

    Args:
      requests: Of searches of forgotten users, in the columns of `REQUESTS`.
      searches: Those of others that are kept, one a request id.
    """
    place = pc.index_in(requests["request_id"], value_set=searches["request_id"].combine_chunks())
    kept = searches.select(REQUESTS.names).take(place)
    time, first = numbers(requests["time"]), numbers(kept["time"])
    arrived, first_arrived = numbers(requests["arrived_at"]), numbers(kept["arrived_at"])
    reused = (time > first) | ((time == first) & (arrived > first_arrived))
    reused &= ~is_null(place)
    return requests["request_id"].filter(pa.array(~reused)).combine_chunks()
