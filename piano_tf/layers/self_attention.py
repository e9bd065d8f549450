"""Multi-head attention of a list's entries to one another."""

from __future__ import annotations

import math

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.dropout import Dropout
from piano_tf.masks import real_logits


@tf.keras.utils.register_keras_serializable("piano_tf")
class SelfAttention(tf.keras.layers.Layer):
    """softmax(Q K' / sqrt(d)) V in each head of width d, then one projection (arXiv 1706.03762).

    The equations and the start of `tf.keras.layers.MultiHeadAttention`, in fewer operations: Q, K
    and V come from one product of matrices, and heads are a batch of products.

    Args:
      units: D, width of the vectors.
      heads: Attention heads; divides `units`.
      dropout: Share of attention dropped in training.
    """

    def __init__(self, units: int, heads: int, dropout: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        if units % heads:
            raise ValueError(f"units {units} is not a multiple of heads {heads}")
        self.units = units
        self.heads = heads
        self.rate = dropout
        # Glorot's ranges of Keras's kernels, which have an axis for the heads.
        self.projection = Dense(
            3 * units,
            kernel_initializer=_within(6 / (units * (heads + units // heads))),
            name="projection",
        )
        self.output_projection = Dense(
            units, kernel_initializer=_within(6 / (units * (1 + heads))), name="output"
        )
        self.dropout = Dropout(dropout)

    def call(self, vectors: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Lets the entries of each list see one another.

        Args:
          vectors: [B, S, D], or [B S, D], one list after another.
          mask: [B, S] boolean, True = real; nothing attends to the rest, and a list without any
            means nothing.
          training: Whether dropout is on.

        Returns:
          As `vectors`; what stands at padding means nothing.
        """
        lists, size = tf.unstack(tf.shape(mask))
        width = self.units // self.heads
        parts = tf.reshape(self.projection(vectors), [lists, size, 3, self.heads, width])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))  # [B, heads, S, d]
        logits = tf.matmul(query * width**-0.5, key, transpose_b=True)
        attention = tf.nn.softmax(real_logits(logits, mask[:, tf.newaxis, tf.newaxis]))
        found = tf.matmul(self.dropout(attention, training=training), value)
        found = tf.reshape(tf.transpose(found, [0, 2, 1, 3]), tf.shape(vectors))
        return self.output_projection(found)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "dropout": self.rate,
        }


def _within(square: float) -> tf.keras.initializers.Initializer:
    """Evenly between minus and plus the square root."""
    return tf.keras.initializers.RandomUniform(-math.sqrt(square), math.sqrt(square))
