"""The candidates of a list, each in view of all."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.layer_normalization import LayerNormalization
from piano_tf.layers.self_attention_block import SelfAttentionBlock


@tf.keras.utils.register_keras_serializable("piano_tf")
class ListEncoder(tf.keras.layers.Layer):
    """Pre-norm self-attention over [node; e_1 .. e_N].

    e_i = W_x [x_i; x_i - mean_j x_j; p; e(q); x_i * e(q); x_i * p; c_i] + E_pos[initial rank], with
    c_i what was found for the candidate in the history, if anything. The node is IAN's token, which
    reads the list through the same blocks. Known of PIANO (arXiv 2606.16641) and of RankFormer
    (arXiv 2306.05808): a learned token aggregates the list; e_i and the sizes are ours.

    Args:
      units: D, width of the vectors.
      heads: Attention heads; divides `units`.
      blocks: L, number of blocks.
      dropout: Share of units dropped in training.
      max_rank: Ranks from this one on share one position embedding.
    """

    def __init__(
        self,
        units: int,
        heads: int,
        blocks: int,
        dropout: float = 0.0,
        max_rank: int = 200,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.heads = heads
        self.blocks = blocks
        self.dropout = dropout
        self.max_rank = max_rank
        self.projection = Dense(units, name="projection")
        self.position = tf.keras.layers.Embedding(max_rank, units, name="position")
        self.stack = [
            SelfAttentionBlock(units, heads, dropout, name=f"block_{number}")
            for number in range(blocks)
        ]
        self.norm = LayerNormalization(epsilon=1e-6, name="norm")

    def call(
        self,
        items: tf.Tensor,
        query: tf.Tensor,
        interest: tf.Tensor,
        found: tf.Tensor | None,
        node: tf.Tensor | None,
        rank: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Encodes lists.

        Args:
          items: [B, N, D] candidates x_i.
          query: [B, D] e(q).
          interest: [B, D] refined interest p.
          found: [B, N, any] c_i, or None.
          node: [B, D] IAN_0, or None.
          rank: [B, N] initial ranks from 0.
          mask: [B, N] boolean, True = real.
          training: Whether dropout is on.

        Returns:
          Node z_0 [B, D], None where there was none, and items z [B, N, D].
        """
        real = tf.cast(mask, items.dtype)[..., tf.newaxis]
        count = tf.maximum(tf.reduce_sum(real, axis=1, keepdims=True), 1)
        contrast = items - tf.reduce_sum(items * real, axis=1, keepdims=True) / count
        query = tf.broadcast_to(query[:, tf.newaxis], tf.shape(items))
        interest = tf.broadcast_to(interest[:, tf.newaxis], tf.shape(items))
        joined = [items, contrast, interest, query, items * query, items * interest]
        joined += [] if found is None else [found]
        sequence = self.projection(tf.concat(joined, axis=-1))
        sequence += self.position(tf.minimum(rank, self.max_rank - 1))
        if node is not None:
            sequence = tf.concat([node[:, tf.newaxis], sequence], axis=1)
            mask = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
        for block in self.stack:
            sequence = block(sequence, mask, training=training)
        sequence = self.norm(sequence)
        return (None, sequence) if node is None else (sequence[:, 0], sequence[:, 1:])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "blocks": self.blocks,
            "dropout": self.dropout,
            "max_rank": self.max_rank,
        }
