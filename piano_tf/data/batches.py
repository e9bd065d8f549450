"""A log's lists as padded batches: raw NumPy columns, and encoded `tf.data` for `model.fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from piano_tf.data.encoding import Batch, Encoder
from piano_tf.data.logs import read_batches, rows_of, split_files
from piano_tf.features import LABELS, Axis, Column, FeatureSpec

_NUMPY = {"string": object, "float": np.float32, "int64": np.int64}
SHUFFLED_AT_ONCE = 10_000
"""Lists among which the next one is drawn: what is shuffled stays in memory."""
_TENSOR = {"string": tf.string, "float": tf.float32, "int64": tf.int64}


def padded(batch: pa.RecordBatch, spec: FeatureSpec, *, labels: bool = True) -> dict:
    """Columns of a batch as NumPy arrays, lists padded to the longest with "" and 0.

    Args:
      batch: B lists in the contract's columns.
      spec: The columns to take.
      labels: Whether `click` and `conversion` are among them.

    Returns:
      Column name -> [B], [B, N] or [B, H].

    >>> batch = pa.RecordBatch.from_pydict({"item_id": [["a", "b"], ["c"]]})
    >>> pad(batch.column(0), Column("item_id", "string", Axis.ITEM))
    array([['a', 'b'],
           ['c', '']], dtype=object)
    """
    return {
        column.name: pad(batch.column(batch.schema.get_field_index(column.name)), column)
        for column in spec.columns(labels=labels)
    }


def pad(array: pa.Array, column: Column) -> np.ndarray:
    """One column as a NumPy array: [B], or lists padded to [B, longest]."""
    type = _NUMPY[column.type]
    if column.axis is Axis.LIST:
        return array.to_numpy(zero_copy_only=False).astype(type, copy=False)
    lengths = np.diff(array.offsets.to_numpy())
    real = np.arange(lengths.max(initial=0)) < lengths[:, np.newaxis]
    dense = np.full(real.shape, "" if column.type == "string" else 0, type)
    dense[real] = array.flatten().to_numpy(zero_copy_only=False)
    return dense


def raw_specs(spec: FeatureSpec, *, labels: bool = True) -> dict[str, tf.TensorSpec]:
    """Column name -> the TensorSpec of its padded batch."""
    return {
        column.name: tf.TensorSpec(
            [None] if column.axis is Axis.LIST else [None, None],
            _TENSOR[column.type],
            name=column.name,
        )
        for column in spec.columns(labels=labels)
    }


def raw_batches(log_dir: Path, split: str, spec: FeatureSpec, rows: int) -> Iterator[dict]:
    """Padded raw batches of a split, at most `rows` lists each, in the order of the log."""
    for batch in read_batches(split_files(log_dir, split), rows=rows):
        yield padded(batch, spec)


def dataset(
    log_dir: Path,
    split: str,
    encoder: Encoder,
    *,
    batch_size: int = 128,
    shuffle_seed: int | None = None,
    cache: Path | None = None,
) -> tf.data.Dataset:
    """Encoded batches of (inputs, labels) for `fit`, `evaluate` and `predict`.

    Args:
      log_dir: A folder written by `piano logs`.
      split: `train`, `validation` or `test`.
      encoder: Turns raw columns into inputs.
      batch_size: B; the last batch may be smaller, none is dropped.
      shuffle_seed: Shuffles lists, anew each epoch; None keeps the order of the log.
      cache: File in which the encoded lists are kept after the first epoch.

    Returns:
      Of inputs (see `encode`) and labels: `click` and `conversion` -> [B, N] float32, 0 at padding.

    Raises:
      LogError: The split has no files, or one is not Parquet.
    """
    for file in split_files(log_dir, split):  # now, and not in the middle of training
        rows_of(file)
    lists = tf.data.Dataset.from_generator(
        lambda: raw_batches(log_dir, split, encoder.features, rows=1024),
        output_signature=raw_specs(encoder.features),
    ).map(lambda raw: (encoder(raw), labels_of(raw)), num_parallel_calls=tf.data.AUTOTUNE)
    lists = lists.unbatch()
    if cache is not None:
        lists = lists.cache(str(cache))
    return batched(lists, batch_size=batch_size, shuffle_seed=shuffle_seed)


def labels_of(raw: Mapping[str, tf.Tensor]) -> Batch:
    """The labels of a raw batch, as floats."""
    return {label: tf.cast(raw[label], tf.float32) for label in LABELS}


def batched(
    lists: tf.data.Dataset, *, batch_size: int, shuffle_seed: int | None
) -> tf.data.Dataset:
    """Single encoded lists to padded, prefetched batches; 0 pads every encoded feature."""
    if shuffle_seed is not None:
        lists = lists.shuffle(SHUFFLED_AT_ONCE, seed=shuffle_seed, reshuffle_each_iteration=True)
    return lists.padded_batch(batch_size).prefetch(tf.data.AUTOTUNE)
