"""What must be known of a whole log and may not grow in memory with it: its list ids and times."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from piano_tf.errors import LogError


class ListIndex:
    """The `list_id` and `timestamp` of every list seen, on disk (SQLite) rather than in memory.

    Args:
      path: File to make; the owner of the folder removes it.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        # Scratch data: a crash loses the file together with the unfinished log it belongs to.
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE lists (list_id TEXT PRIMARY KEY, timestamp INTEGER)")
        self._rows = 0

    def __enter__(self) -> ListIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def __len__(self) -> int:
        return self._rows

    def add(
        self, batch: pa.RecordBatch, *, first_row: int | None = None, source: str | None = None
    ) -> None:
        """Takes in the lists of a batch.

        Args:
          batch: Has `list_id` and `timestamp`.
          first_row: Row number of the batch's first list in `source`; by default counted on.
          source: File or folder to name in an error.

        Raises:
          LogError: A `list_id` was there already.
        """
        ids = batch.column("list_id").to_pylist()
        times = batch.column("timestamp").to_pylist()
        row = self._rows if first_row is None else first_row
        for offset, pair in enumerate(zip(ids, times, strict=True)):
            try:
                self._db.execute("INSERT INTO lists VALUES (?, ?)", pair)
            except sqlite3.IntegrityError as error:
                raise LogError(
                    f"got {pair[0]!r} a second time, expected each list once",
                    column="list_id",
                    row=row + offset,
                    source=source,
                ) from error
        self._rows += len(ids)

    def timestamp_at(self, share: float) -> int:
        """The timestamp of the list that has `share` of all lists before it, in order of time."""
        offset = min(int(round(share * self._rows, 6)), self._rows - 1)
        query = "SELECT timestamp FROM lists ORDER BY timestamp LIMIT 1 OFFSET ?"
        return int(self._db.execute(query, (offset,)).fetchone()[0])
