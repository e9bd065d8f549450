"""Vectors of more ids than a table has room for: two small tables, combined."""

from __future__ import annotations

import math

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("piano_tf")
class CompositionalEmbedding(tf.keras.layers.Layer):
    """E[i] = Q[i // m] * R[i mod m], element by element, with m = ceil(sqrt(rows)).

    No two ids have the same pair of rows, so that each has a vector of its own for 2 sqrt(rows)
    rows instead of `rows`. Ids that share one of the two learn together: neighbours in a
    vocabulary by frequency, any two in a space of hashes.

    Source: the quotient-remainder trick of H. Shi et al., Compositional Embeddings Using
    Complementary Partitions for Memory-Efficient Recommendation Systems, KDD 2020, arXiv
    1909.02107. The start is ours: products of two normal factors, as wide as the full table's.

    Args:
      rows: How many ids, padding (id 0) included.
      units: D, width of the vectors.
      stddev: Of the vectors at the start; that of Keras's own tables unless given.

    >>> layer = CompositionalEmbedding(rows=10_000_000_001, units=2)
    >>> layer(tf.constant([[0, 10_000_000_000]], tf.int64)).shape
    TensorShape([1, 2, 2])
    >>> [weight.shape[0] for weight in layer.weights]
    [100000, 100001]
    """

    def __init__(self, rows: int, units: int, stddev: float = 0.05 / 3**0.5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.units = units
        self.stddev = stddev

    def build(self, shape: tf.TensorShape) -> None:
        quotients, remainders = table_rows(self.rows)
        start = tf.keras.initializers.RandomNormal
        for name, rows in (("quotient", quotients), ("remainder", remainders)):
            initializer = start(stddev=self.stddev**0.5)
            setattr(self, name, self.add_weight(name, [rows, self.units], initializer=initializer))
        super().build(shape)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up ids: [...] int64 to [..., D]."""
        _, remainders = table_rows(self.rows)
        ids = tf.cast(ids, tf.int64)
        quotient, remainder = (
            tf.cast(tf.gather(table, rows), self.compute_dtype)
            for table, rows in (
                (self.quotient, ids // remainders),
                (self.remainder, ids % remainders),
            )
        )
        return quotient * remainder

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "rows": self.rows,
            "units": self.units,
            "stddev": self.stddev,
        }


def table_rows(rows: int) -> tuple[int, int]:
    """Rows of the quotients' and of the remainders' table.

    >>> table_rows(10)
    (3, 4)
    """
    remainders = math.isqrt(rows - 1) + 1
    return -(-rows // remainders), remainders
