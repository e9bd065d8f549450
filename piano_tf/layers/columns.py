"""Encoded columns as vectors: what the item and the user encoder share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from piano_tf.features import Column, InputSpec


def embedding_tables(
    inputs: InputSpec, columns: Sequence[Column], units: int
) -> dict[str, tf.keras.layers.Embedding]:
    """A fresh table of width `units` for each vocabulary that the columns name."""
    return {
        column.table: tf.keras.layers.Embedding(inputs.rows[column.table], units, name=column.table)
        for column in columns
        if column.type == "string"
    }


def vectors_of(
    batch: Mapping[str, tf.Tensor],
    columns: Sequence[Column],
    tables: Mapping[str, tf.keras.layers.Embedding],
    dtype: tf.DType | str,
) -> list[tf.Tensor]:
    """Each column as vectors.

    Args:
      batch: Encoded inputs; a column's are [...].
      columns: Which.
      tables: Vocabulary name -> its table.
      dtype: Of the floats.

    Returns:
      Per column [..., units] of a string's ids, [..., 1] of a float.
    """
    return [
        tables[column.table](batch[column.name])
        if column.type == "string"
        else tf.cast(batch[column.name][..., tf.newaxis], dtype)
        for column in columns
    ]
