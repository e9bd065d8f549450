"""What every adapter returns: shown lists in the contract's columns, a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from piano_tf.data.splits import SplitRule
from piano_tf.features import Axis, FeatureSpec


@dataclasses.dataclass(frozen=True)
class Source:
    """Shown lists from somewhere, not yet checked, split or written.

    Attributes:
      spec: The optional columns that the lists have.
      batches: The lists, a few thousand a batch, in any order; can be read once.
      total: How many lists there are, where that is known beforehand, for progress bars.
      rule: Where to cut, for a source made to be cut in one place; else it is anyone's choice.
    """

    spec: FeatureSpec
    batches: Iterator[pa.RecordBatch]
    total: int | None = None
    rule: SplitRule | None = None


def record_batch(
    spec: FeatureSpec,
    values: Mapping[str, Sequence | np.ndarray | pa.Array],
    lengths: Mapping[Axis, np.ndarray],
) -> pa.RecordBatch:
    """Lists in the contract's columns from flat values.

    Args:
      spec: The columns.
      values: Column name -> its values, of all lists one after the other.
      lengths: Axis of candidates and of history -> [B] how many of them each list has.

    >>> spec = FeatureSpec(dataset="shop")
    >>> flat = {column.name: [] for column in spec.columns()}
    >>> record_batch(spec, flat, {Axis.ITEM: np.array([], int), Axis.HISTORY: np.array([], int)}).num_rows
    0
    """  # noqa: E501
    offsets = {
        axis: pa.array(np.concatenate([[0], np.cumsum(length)]), pa.int32())
        for axis, length in lengths.items()
    }
    arrays = []
    for column in spec.columns():
        found = values[column.name]
        array = found if isinstance(found, pa.Array) else pa.array(found)
        if column.axis is Axis.LIST:
            arrays.append(array.cast(column.arrow_type))
        else:
            array = array.cast(column.arrow_type.value_type)
            arrays.append(pa.ListArray.from_arrays(offsets[column.axis], array))
    return pa.RecordBatch.from_arrays(arrays, schema=spec.arrow_schema)
