"""Strings as integers that sort alike, so that rules can work on numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROWS_AT_ONCE = 1 << 14

Column: TypeAlias = Union[pa.Array, pa.ChunkedArray]  # noqa: UP007 - for mypy, of untyped classes


def ranks(*columns: Column) -> list[np.ndarray]:
    """Ranks of the values of several columns among the values of all of them.

    Args:
      columns: Of one type, [n_i] each.

    Returns:
      [n_i] int64 each: equal values have equal ranks, smaller ones smaller ranks, nulls -1.
      Strings compare by their bytes.

    >>> [ranks.tolist() for ranks in ranks(pa.array(["b", None]), pa.array(["a", "b"]))]
    [[1, -1], [0, 1]]
    """
    chunks = [
        chunk
        for column in columns
        for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column])
    ]
    joint = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    encoded = pc.dictionary_encode(joint)
    ascending = pc.sort_indices(encoded.dictionary).to_numpy()
    rank_of = np.empty(len(ascending) + 1, np.int64)
    rank_of[ascending] = np.arange(len(ascending))
    rank_of[-1] = -1
    indices = pc.fill_null(encoded.indices, len(ascending)).to_numpy()
    ends = np.cumsum([len(column) for column in columns])
    return np.split(rank_of[indices], ends[:-1])


def numbers(column: Column, *, null: int = -1) -> np.ndarray:
    """An integer or boolean column [n] as NumPy, with `null` where there is no value."""
    if column.null_count:
        column = pc.fill_null(column, null)
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)


def mask(column: Column) -> np.ndarray:
    """A boolean column [n] without nulls as NumPy."""
    return numbers(column).astype(bool)


def is_null(column: Column) -> np.ndarray:
    """Which of a column's values [n] are missing."""
    return mask(pc.is_null(column))


def flat(column: Column) -> tuple[np.ndarray, pa.Array]:
    """The lengths [n] of a list column, and all its values one after the other."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return numbers(array.value_lengths()).astype(np.int64), array.flatten()


def slices_of(table: pa.Table) -> Iterator[pa.Table]:
    """A table in slices, at least one, for work that takes much more memory than its rows."""
    for start in range(0, max(table.num_rows, 1), _ROWS_AT_ONCE):
        yield table.slice(start, _ROWS_AT_ONCE)


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several runs of the given lengths begins."""
    return np.cumsum(lengths) - lengths


def within(lengths: np.ndarray) -> np.ndarray:
    """The place of each value within its run.

    >>> within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(lengths.sum()) - np.repeat(starts(lengths), lengths)


def is_first(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Of rows in the order of their keys, which differ from the row before them."""
    new = np.zeros(len(keys[0]), bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return new
