"""Dense layers one after another."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.dropout import Dropout


@tf.keras.utils.register_keras_serializable("piano_tf")
class FeedForward(tf.keras.layers.Layer):
    """relu(W x + b) and dropout, layer upon layer.

    Args:
      widths: Of the layers, from the first to the last.
      dropout: Share of units dropped in training.
    """

    def __init__(self, widths: Sequence[int], dropout: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.widths = list(widths)
        self.rate = dropout
        self.stack = [
            Dense(width, "relu", name=f"dense_{number}") for number, width in enumerate(self.widths)
        ]
        self.dropout = Dropout(dropout)

    def call(self, vectors: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[..., W] to [..., last width]."""
        for dense in self.stack:
            vectors = self.dropout(dense(vectors), training=training)
        return vectors

    def get_config(self) -> dict:
        return {**super().get_config(), "widths": [*self.widths], "dropout": self.rate}
