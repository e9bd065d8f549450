"""Counting rows a batch at a time."""

from __future__ import annotations

import collections

import numpy as np
import pyarrow as pa
import pytest

from piano_tf.data.counting import COUNT, count_rows


@pytest.mark.parametrize("batches", [1, 31, 32, 33, 100])
def test_counts_are_those_of_all_rows_at_once(batches: int) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [(f"query {a}", f"item {b}") for a, b in rng.integers(0, 3, [5, 2])] for _ in range(batches)
    ]
    tables = (
        pa.table([list(column) for column in zip(*batch, strict=True)], names=["query", "item"])
        for batch in rows
    )
    found = count_rows(tables)
    assert found.column_names == ["query", "item", COUNT]
    counted = {(row["query"], row["item"]): row[COUNT] for row in found.to_pylist()}
    assert counted == collections.Counter(row for batch in rows for row in batch)
