"""Rows on their way from one stage to the next, in Arrow files.

Beam moves only `Pieces`, which say where rows are. A file is written by one task and read by many.
Beside each lies its index, for of a long log all indices together are no small thing.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from piano_tf.files import replacing

_ROWS_AT_ONCE = 1 << 16
_TABLES_AT_ONCE = 256  # an empty one takes kilobytes too


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Rows of a file, for several readers.

    Attributes:
      path: The file.
    """

    path: Path

    @property
    def index_path(self) -> Path:
        """The file that says which batches are whose."""
        return self.path.with_suffix(".index")

    def batches(self) -> dict[Any, list[int]]:
        """Key -> numbers of the batches that have its rows; read anew each time."""
        return pickle.loads(self.index_path.read_bytes())


class PieceWriter:
    """Writes rows for several readers.

    Args:
      writer: Of the file.
      pieces: Where that is.

    Attributes:
      pieces: As given.
      batches: Key -> numbers of the batches that have its rows.
    """

    def __init__(self, writer: pa.RecordBatchFileWriter, pieces: Pieces) -> None:
        self._writer = writer
        self._written = 0
        self._waiting: list[tuple[np.ndarray, pa.Table]] = []
        self._rows_waiting = 0
        self.pieces = pieces
        self.batches: dict[Any, list[int]] = {}

    def add(self, key: Any, rows: pa.Table) -> None:
        """Appends rows for a key; they stay in their order."""
        for batch in rows.combine_chunks().to_batches():
            if batch.num_rows:
                self._writer.write_batch(batch)
                self.batches.setdefault(key, []).append(self._written)
                self._written += 1

    def divide(self, keys: np.ndarray, rows: pa.Table, order: np.ndarray | None = None) -> None:
        """Appends each row for its own key, without a copy of all of them at once.

        Args:
          keys: [n].
          rows: [n].
          order: [n] that in which rows of one key shall stand; None is as they do.
        """
        order = np.arange(len(keys)) if order is None else order
        rows = rows.combine_chunks()
        for start in range(0, len(order), _ROWS_AT_ONCE):
            some = order[start : start + _ROWS_AT_ONCE]
            some = some[np.argsort(keys[some], kind="stable")]
            its_keys, found = keys[some], rows.take(pa.array(some))
            ends = np.append(np.flatnonzero(np.diff(its_keys)) + 1, len(some))
            first = 0
            for end in ends.tolist():
                self.add(its_keys[first].item(), found.slice(first, end - first))
                first = end

    def collect(self, keys: np.ndarray, rows: pa.Table) -> None:
        """Divides rows, but waits until there are many: small pieces are slow to read.

        Args:
          keys: [n].
          rows: [n].
        """
        if len(keys):
            self._waiting.append((keys, rows))
            self._rows_waiting += len(keys)
        if self._rows_waiting >= _ROWS_AT_ONCE or len(self._waiting) >= _TABLES_AT_ONCE:
            self.finish()

    def finish(self) -> None:
        """Writes what still waits."""
        if self._waiting:
            keys, tables = zip(*self._waiting, strict=True)
            self._waiting, self._rows_waiting = [], 0
            self.divide(np.concatenate(keys), pa.concat_tables(tables))


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[PieceWriter]:
    """Makes a file of pieces and its index, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = Pieces(path)
    with replacing(pieces.index_path) as index, replacing(path) as partial:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            rows = PieceWriter(writer, pieces)
            yield rows
            rows.finish()
        index.write_bytes(pickle.dumps(rows.batches))


def parts(pieces: Iterable[Pieces], key: Any) -> Iterator[pa.Table]:
    """What there is for a key, file by file; of it nothing is in memory but what is looked at."""
    return _found(pieces, key, pa.memory_map)


def read(pieces: Iterable[Pieces], key: Any) -> Iterator[pa.Table]:
    """The same in memory.

    Where pieces are small, mapping them would take more: the system maps much around each.
    """
    return _found(pieces, key, pa.OSFile)


def gathered(pieces: Iterable[Pieces], key: Any, schema: pa.Schema) -> pa.Table:
    """All that there is for a key, in memory."""
    return pa.concat_tables([schema.empty_table(), *read(pieces, key)])


def _found(
    pieces: Iterable[Pieces], key: Any, opened: Callable[[str], pa.NativeFile]
) -> Iterator[pa.Table]:
    for one in pieces:
        if numbers := one.batches().get(key):
            with opened(str(one.path)) as source:
                file = pa.ipc.open_file(source)
                yield pa.Table.from_batches([file.get_batch(number) for number in numbers])
