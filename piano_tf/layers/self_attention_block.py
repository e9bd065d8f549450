"""A Transformer encoder block over a masked list."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.dropout import Dropout
from piano_tf.layers.layer_normalization import LayerNormalization
from piano_tf.layers.self_attention import SelfAttention


@tf.keras.utils.register_keras_serializable("piano_tf")
class SelfAttentionBlock(tf.keras.layers.Layer):
    """Multi-head self-attention and a two-layer network, each with a residual.

    Pre-norm: x + f(LayerNorm(x)); post-norm, as in the first Transformer and in PRM:
    LayerNorm(x + f(x)).

    Args:
      units: D, width of the vectors; the network's hidden layer has 4 D.
      heads: Attention heads; divides `units`.
      dropout: Share of units dropped in training.
      pre_norm: Where the normalisation stands.
    """

    def __init__(
        self, units: int, heads: int, dropout: float = 0.0, pre_norm: bool = True, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.heads = heads
        self.rate = dropout
        self.pre_norm = pre_norm
        self.attention = SelfAttention(units, heads, dropout, name="attention")
        self.hidden = Dense(4 * units, activation="relu", name="hidden")
        self.output_projection = Dense(units, name="output")
        self.attention_norm = LayerNormalization(epsilon=1e-6, name="attention_norm")
        self.network_norm = LayerNormalization(epsilon=1e-6, name="network_norm")
        self.dropout = Dropout(dropout)

    def call(self, vectors: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Lets the entries of each list see one another.

        Args:
          vectors: [B, S, D].
          mask: [B, S] boolean, True = real; nothing attends to the rest.
          training: Whether dropout is on.

        Returns:
          [B, S, D]; what stands at padding means nothing.
        """
        # Rows of one matrix throughout, of which only attention makes lists again.
        rows = tf.reshape(vectors, [-1, self.units])
        x = self.attention_norm(rows) if self.pre_norm else rows
        x = self.attention(x, mask, training=training)
        x = rows + self.dropout(x, training=training)
        if not self.pre_norm:
            x = self.attention_norm(x)
        y = self.network_norm(x) if self.pre_norm else x
        y = self.output_projection(self.hidden(y))
        y = x + self.dropout(y, training=training)
        y = y if self.pre_norm else self.network_norm(y)
        return tf.reshape(y, tf.shape(vectors))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "dropout": self.rate,
            "pre_norm": self.pre_norm,
        }
