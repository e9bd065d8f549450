"""A candidate, who asks, and for what, as one vector."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.list_inputs import ListInputs


@tf.keras.utils.register_keras_serializable("piano_tf")
class CandidateContext(tf.keras.layers.Layer):
    """[x_i; u; e(q); x_i * u; x_i * e(q); E_pos[initial rank]] [ours].

    What a model of one candidate at a time sees of a request. The products are the cross features
    that a feed-forward network is slow to find by itself.

    Args:
      units: D, width of the vectors.
      max_rank: Ranks from this one on share one position embedding; None leaves positions out.
    """

    def __init__(self, units: int, max_rank: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.max_rank = max_rank
        if max_rank is not None:
            self.position = tf.keras.layers.Embedding(max_rank, units, name="position")

    def call(self, lists: ListInputs) -> tf.Tensor:
        """Joins a batch of lists to [B, N, 6 D], or [B, N, 5 D] without positions."""
        items = lists.items
        user = tf.broadcast_to(lists.user[:, tf.newaxis], tf.shape(items))
        query = tf.broadcast_to(lists.query[:, tf.newaxis], tf.shape(items))
        joined = [items, user, query, items * user, items * query]
        if self.max_rank is not None:
            joined.append(self.position(tf.minimum(lists.rank, self.max_rank - 1)))
        return tf.concat(joined, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units, "max_rank": self.max_rank}
