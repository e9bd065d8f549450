"""The candidates of a list, each in view of all."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.self_attention_block import SelfAttentionBlock


@tf.keras.utils.register_keras_serializable("piano_tf")
class ListEncoder(tf.keras.layers.Layer):
    """Pre-norm self-attention over [node; e_1 .. e_N].

    e_i = W_x [x_i; p; e(q); x_i * e(q); x_i * p] + E_pos[initial rank]. The node is IAN's token,
    which reads the list through the same blocks. Known of PIANO (arXiv 2606.16641) and of
    RankFormer (arXiv 2306.05808): a learned token aggregates the list; e_i and the sizes are ours.

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
        self.projection = tf.keras.layers.Dense(units, name="projection")
        self.position = tf.keras.layers.Embedding(max_rank, units, name="position")
        self.stack = [
            SelfAttentionBlock(units, heads, dropout, name=f"block_{number}")
            for number in range(blocks)
        ]
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def call(
        self,
        items: tf.Tensor,
        query: tf.Tensor,
        interest: tf.Tensor,
        node: tf.Tensor,
        rank: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes lists.

        Args:
          items: [B, N, D] candidates x_i.
          query: [B, D] e(q).
          interest: [B, D] refined interest p.
          node: [B, D] IAN_0.
          rank: [B, N] initial ranks from 0.
          mask: [B, N] boolean, True = real.
          training: Whether dropout is on.

        Returns:
          Node z_0 [B, D] and items z [B, N, D].
        """
        query = tf.broadcast_to(query[:, tf.newaxis], tf.shape(items))
        interest = tf.broadcast_to(interest[:, tf.newaxis], tf.shape(items))
        joined = tf.concat([items, interest, query, items * query, items * interest], axis=-1)
        entries = self.projection(joined) + self.position(tf.minimum(rank, self.max_rank - 1))
        sequence = tf.concat([node[:, tf.newaxis], entries], axis=1)
        seen = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
        for block in self.stack:
            sequence = block(sequence, seen, training=training)
        sequence = self.norm(sequence)
        return sequence[:, 0], sequence[:, 1:]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "blocks": self.blocks,
            "dropout": self.dropout,
            "max_rank": self.max_rank,
        }
