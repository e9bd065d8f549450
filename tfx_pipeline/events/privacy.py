"""Users who are forgotten, and ids that nobody can trace back."""

from __future__ import annotations

import dataclasses
import hmac
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.config import Privacy
from tfx_pipeline.events.dead_letters import Reason, without_payload
from tfx_pipeline.events.tables import SEARCH

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

    def passed(self, kind: str, table: pa.Table) -> tuple[pa.Table, list[pa.Table], pa.Array]:
        """The rows of users who are not forgotten, under hashed ids.

        Args:
          kind: Name of the table.
          table: In canonical columns.

        Returns:
          The rows, dead letters, and the request ids of searches of forgotten users.
        """
        requests = pa.array([], pa.string())
        dead: list[pa.Table] = []
        if "user_id" not in table.schema.names:
            return table, dead, requests
        if self.forgotten:
            gone = pc.is_in(table["user_id"], value_set=pa.array(self.forgotten, pa.string()))
            theirs = table.filter(gone)
            table = table.filter(pc.invert(gone))
            dead.append(without_payload(kind, Reason.FORGOTTEN, theirs.num_rows))
            if kind == SEARCH:
                requests = theirs["request_id"].combine_chunks()
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
