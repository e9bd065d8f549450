"""Sorted parts as one, without all of it in memory at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def merged(parts: Sequence[pa.Table], by: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Merges tables.

    Only the columns in `by` are read of all rows; of the others, what a slice needs.

    Args:
      parts: Of one schema, each sorted by `by`.
      by: Columns without nulls.
      rows: How many rows a slice has, but for the last.

    Yields:
      Slices, one after the other in the order of `by`.
    """
    if not parts:
        return
    keys = pa.concat_tables([part.select(by) for part in parts])
    order = pc.sort_indices(keys, [(name, "ascending") for name in by]).to_numpy()
    ends = np.cumsum([part.num_rows for part in parts])
    part_of = np.searchsorted(ends, order, side="right")
    taken = np.zeros(len(parts), np.int64)
    for start in range(0, len(order), rows):
        chosen = part_of[start : start + rows]
        counts = np.bincount(chosen, minlength=len(parts))
        # As the parts are sorted, what a slice has of each stands together.
        joined = pa.concat_tables(
            part.slice(first, count)
            for part, first, count in zip(parts, taken.tolist(), counts.tolist(), strict=True)
            if count
        )
        place = np.empty(len(chosen), np.int64)
        place[np.argsort(chosen, kind="stable")] = np.arange(len(chosen))
        yield joined.take(pa.array(place))
        taken += counts
