"""What every adapter returns: shown lists in the contract's columns, a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow as pa

from piano_tf.features import FeatureSpec


@dataclasses.dataclass(frozen=True)
class Source:
    """Shown lists from somewhere, not yet checked, split or written.

    Attributes:
      spec: The optional columns that the lists have.
      batches: The lists, a few thousand a batch, in any order; can be read once.
      total: How many lists there are, where that is known beforehand, for progress bars.
    """

    spec: FeatureSpec
    batches: Iterator[pa.RecordBatch]
    total: int | None = None
