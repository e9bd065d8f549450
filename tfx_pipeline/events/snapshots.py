"""Features as of a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfx_pipeline.events.dead_letters import Reason, set_aside
from tfx_pipeline.events.ordering import Column, is_first, numbers, ranks


def unique(kind: str, table: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """One snapshot for each id and time, in their order.

    Where there are several the last by content is kept, whichever was read last.

    Args:
      kind: `item` or `user`.
      table: Snapshots in canonical columns, normalised.

    Returns:
      Those that are kept, sorted, and dead letters.
    """
    features = _features(table)
    keys = [ranks(table[f"{kind}_id"])[0], numbers(table["valid_from"])]
    order = np.lexsort([*keys, *features][::-1])
    table = table.take(pa.array(order))
    new = is_first([key[order] for key in keys])
    last = np.append(new[1:], True) if len(order) else new
    content = is_first([key[order] for key in (*keys, *features)])
    differs = np.append(content[1:], True) if len(order) else new
    # Of equal ones all but the last are duplicates.
    return set_aside(kind, table, {Reason.DUPLICATE: ~differs, Reason.REPLACED: differs & ~last})


def changes(kind: str, table: pa.Table) -> pa.Table:
    """Those of `unique` snapshots that say something else than the one before them of their id."""
    said = is_first([ranks(table[f"{kind}_id"])[0], *_features(table)])
    return table.filter(pa.array(said))


def _features(table: pa.Table) -> list[np.ndarray]:
    return [
        ranks(table[name])[0] if table[name].type == pa.string() else numbers(table[name])
        for name in table.schema.names[2:]
    ]


class Snapshots:
    """Snapshots of one kind.

    Args:
      kind: `item` or `user`.
      table: As `changes` leaves them.
    """

    def __init__(self, kind: str, table: pa.Table) -> None:
        names = table[f"{kind}_id"].combine_chunks()
        first = is_first([_run_of(names)]) if len(names) else np.array([], bool)
        self._table = table
        self._names = names.filter(pa.array(first))
        self._of = np.cumsum(first) - 1
        since = numbers(table["valid_from"])
        self._moments = np.unique(since)
        self._width = len(self._moments) + 1
        self._keys = self._of * self._width + np.searchsorted(self._moments, since)

    @property
    def features(self) -> list[str]:
        """The columns of the features."""
        return self._table.schema.names[2:]

    def as_of(
        self, names: Column, times: np.ndarray, counts: np.ndarray | None = None
    ) -> tuple[dict[str, pa.Array], int]:
        """The features that held for each of some ids at a time.

        Args:
          names: [n] ids.
          times: [m] when.
          counts: [m] for how many of the ids each time is; None is one for each.

        Returns:
          Feature -> [n] values, "" or 0 where nothing was known, and for how many that is so.
        """
        encoded = pc.dictionary_encode(names)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        known = numbers(pc.index_in(encoded.dictionary, value_set=self._names))
        distinct, turn = np.unique(
            np.searchsorted(self._moments, times, side="right"), return_inverse=True
        )
        turn = turn if counts is None else np.repeat(turn, counts)
        code = numbers(encoded.indices)
        if len(known) * len(distinct) <= len(code):  # each pair of id and time is looked up once
            pairs = self._rows(np.repeat(known, len(distinct)), np.tile(distinct, len(known)))
            row = pairs[code * len(distinct) + turn]
        else:
            row = self._rows(known[code], distinct[turn])
        there = row >= 0
        rows = pa.array(row, mask=~there)
        values = {}
        for name in self.features:
            found = self._table[name].take(rows)
            nothing = "" if found.type == pa.string() else 0.0
            values[name] = pc.fill_null(found, pa.scalar(nothing, found.type)).combine_chunks()
        return values, int(len(there) - there.sum())

    def _rows(self, of: np.ndarray, when: np.ndarray) -> np.ndarray:
        """The last snapshot of ids before the moments of some numbers; -1 where there is none."""
        row = np.searchsorted(self._keys, of * self._width + when) - 1
        there = (of >= 0) & (row >= 0) & (np.append(self._of, -1)[row] == of)
        return np.where(there, row, -1)


def _run_of(names: pa.Array) -> np.ndarray:
    return numbers(pc.dictionary_encode(names).indices)
