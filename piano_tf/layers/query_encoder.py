"""e(q): a query as one vector."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.compositional_embedding import CompositionalEmbedding
from piano_tf.layers.dense import Dense


@tf.keras.utils.register_keras_serializable("piano_tf")
class QueryEncoder(tf.keras.layers.Layer):
    """Mean of the embeddings of a query's real tokens [ours]; current and past queries share it.

    e(q) = sum_t E[q_t] / max(1, number of real tokens) + W intent(q), where intent(q) is the
    query's pre-trained vector, if there is one. An empty query is the zero vector.

    Args:
      rows: Rows of the embedding table, padding (id 0) included.
      units: D, width of the result.
      ids: Whether tokens have trained vectors E of their own; without, e(q) = W intent(q).
      compositional: Whether those are of two small tables (`CompositionalEmbedding`).

    >>> layer = QueryEncoder(rows=5, units=2)
    >>> layer(tf.constant([[1, 2, 0], [0, 0, 0]])).numpy()[1]
    array([0., 0.], dtype=float32)
    """

    def __init__(
        self, rows: int, units: int, ids: bool = True, compositional: bool = False, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.units = units
        self.ids = ids
        self.compositional = compositional
        # Unit variance: with Keras's small default no two queries would differ enough at the start
        # for attention between them to choose.
        if ids and compositional:
            self.embedding = CompositionalEmbedding(rows, units, stddev=1.0, name="token")
        elif ids:
            start = tf.keras.initializers.RandomNormal(stddev=1.0)
            self.embedding = tf.keras.layers.Embedding(rows, units, start, name="token")
        self.projection = Dense(units, use_bias=False, name="projection")

    def call(self, tokens: tf.Tensor, pretrained: tf.Tensor | None = None) -> tf.Tensor:
        """Encodes queries.

        Args:
          tokens: [..., T] token ids, 0 pads.
          pretrained: [..., P] pre-trained vectors; needed where `ids` is False.

        Returns:
          [..., D].
        """
        parts = []
        if self.ids:
            vectors = self.embedding(tokens)
            real = tf.cast(tokens != 0, vectors.dtype)[..., tf.newaxis]
            count = tf.maximum(tf.reduce_sum(real, axis=-2), 1)
            parts.append(tf.reduce_sum(vectors * real, axis=-2) / count)
        if pretrained is not None:
            parts.append(self.projection(tf.cast(pretrained, self.compute_dtype)))
        return tf.add_n(parts)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "rows": self.rows,
            "units": self.units,
            "ids": self.ids,
            "compositional": self.compositional,
        }
