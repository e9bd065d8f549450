"""QDIR: which past preferences matter to the present query."""

from __future__ import annotations

import math

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.history_attention import HistoryAttention
from piano_tf.layers.layer_normalization import LayerNormalization

_ACTIONS = 3  # padding, click, conversion
_AGE_BUCKETS = 16


@tf.keras.utils.register_keras_serializable("piano_tf")
class QueryDrivenInterestRefiner(tf.keras.layers.Layer):
    r"""Cross-attention from the present query to the listener's past queries.

    `HistoryAttention` from e(q) with keys e(q_t) + E[a_t, bucket of log age] and values
    [e(q_t); e(i_t)] finds c, and

      g = sigmoid(W_g [e(q); c; u]),  p = LayerNorm(u + g * c).

    Known of PIANO (arXiv 2606.16641): cross-attention over historical queries that aligns past
    intents with the present one and refines the user profile. The equations, the gate, and action
    and age in the keys are ours.

    Args:
      units: D, width of queries, items, user and result.
      heads: Attention heads; divides `units`.
      keys: `query`, or `item`: e(i_t) in the place of e(q_t), as item-only models have it.
      null_slot: Whether a listener may attend to nothing.
      gate: Whether g is learned; 1 otherwise.
      action_age: Whether keys know what was done, and when.
    """

    def __init__(
        self,
        units: int,
        heads: int,
        keys: str = "query",
        null_slot: bool = True,
        gate: bool = True,
        action_age: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.heads = heads
        self.keys = keys
        self.null_slot = null_slot
        self.gate = gate
        self.action_age = action_age
        if action_age:
            self.action_age_table = tf.keras.layers.Embedding(
                _ACTIONS * _AGE_BUCKETS, units, name="action_age"
            )
        self.attention = HistoryAttention(units, heads, null_slot, name="attention")
        if gate:
            self.gate_projection = Dense(units, "sigmoid", name="gate")
        self.norm = LayerNormalization(epsilon=1e-6, name="norm")

    def call(
        self,
        query: tf.Tensor,
        user: tf.Tensor,
        past_queries: tf.Tensor,
        past_items: tf.Tensor,
        past_action: tf.Tensor,
        past_age: tf.Tensor,
        past_mask: tf.Tensor,
        same_query: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Refines the profile.

        Args:
          query: [B, D] e(q) of the present query.
          user: [B, D] profile u.
          past_queries: [B, H, D] e(q_t), newest first.
          past_items: [B, H, D] e(i_t).
          past_action: [B, H] 1 for a click, 2 for a conversion, 0 at padding.
          past_age: [B, H] days before the request.
          past_mask: [B, H] boolean, True = real.
          same_query: [B, H] boolean, past queries equal to the present one; None leaves the term
            for exact matches out.

        Returns:
          p [B, D], and the attention alpha [B, heads, 1 + H], the null slot first.
        """
        keys = past_queries if self.keys == "query" else past_items
        if self.action_age:
            keys += self.circumstances(past_action, past_age)
        found, attention = self.attention(
            query[:, tf.newaxis],
            keys,
            tf.concat([past_queries, past_items], axis=-1),
            past_mask,
            None if same_query is None else same_query[:, tf.newaxis],
        )
        found = found[:, 0]
        if self.gate:
            found *= self.gate_projection(tf.concat([query, found, user], axis=-1))
        return self.norm(user + found), attention[:, :, 0]

    def circumstances(self, past_action: tf.Tensor, past_age: tf.Tensor) -> tf.Tensor:
        """[B, H, D] E[a_t, bucket of log age]."""
        action = tf.cast(past_action, tf.int32)
        return self.action_age_table(action * _AGE_BUCKETS + age_bucket(past_age))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "keys": self.keys,
            "null_slot": self.null_slot,
            "gate": self.gate,
            "action_age": self.action_age,
        }


def age_bucket(days: tf.Tensor) -> tf.Tensor:
    """Bucket of log age: floor(log2(1 + hours)), at most 15 (four years and older).

    >>> age_bucket(tf.constant([0.0, 1 / 24, 1.0, 1e6])).numpy()
    array([ 0,  1,  4, 15], dtype=int32)
    """
    hours = tf.cast(days, tf.float32) * 24
    bucket = tf.cast(tf.math.log1p(hours) / math.log(2), tf.int32)
    return tf.clip_by_value(bucket, 0, _AGE_BUCKETS - 1)
