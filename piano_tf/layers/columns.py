"""Encoded columns as vectors: what the item and the user encoder share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from piano_tf.features import Column, InputSpec
from piano_tf.layers.compositional_embedding import CompositionalEmbedding


def embedding_tables(
    inputs: InputSpec, columns: Sequence[Column], units: int
) -> dict[str, tf.keras.layers.Layer]:
    """A fresh table of width `units` for each vocabulary that the columns name."""
    return {
        column.table: embedding_table(inputs, column.table, units)
        for column in columns
        if column.type == "string"
    }


def embedding_table(inputs: InputSpec, table: str, units: int) -> tf.keras.layers.Layer:
    """A fresh table of width `units` for a vocabulary: full, or of two parts."""
    rows = inputs.rows[table]
    if inputs.encoding.table(table).compositional:
        return CompositionalEmbedding(rows, units, name=table)
    return tf.keras.layers.Embedding(rows, units, name=table)


def vectors_of(
    batch: Mapping[str, tf.Tensor],
    columns: Sequence[Column],
    tables: Mapping[str, tf.keras.layers.Layer],
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
