"""QDIR: which past preferences matter to the present query."""

from __future__ import annotations

import math

import tensorflow as tf

_ACTIONS = 3  # padding, click, conversion
_AGE_BUCKETS = 16


@tf.keras.utils.register_keras_serializable("piano_tf")
class QueryDrivenInterestRefiner(tf.keras.layers.Layer):
    r"""Cross-attention from the present query to the listener's past queries.

    Q = W_Q e(q), K_t = W_K (e(q_t) + E_action[a_t] + E_age[bucket of log age]),
    V_t = W_V [e(q_t); e(i_t)]; a learned null slot (k_0, v_0) stands beside the history, so that
    a listener with no related past can attend to nothing. Per head of width d_h:

      alpha = softmax(Q K^T / sqrt(d_h)) over the real entries and the null slot,
      c = sum_t alpha_t V_t,  g = sigmoid(W_g [e(q); c; u]),  p = LayerNorm(u + g * W_O c).

    Known of PIANO (arXiv 2606.16641): cross-attention over historical queries that aligns past
    intents with the present one and refines the user profile. The equations, the null slot, the
    gate, action and age in the keys, and W_Q = W_K = I at the start are ours.

    Args:
      units: D, width of queries, items, user and result.
      heads: Attention heads; divides `units`.
    """

    def __init__(self, units: int, heads: int, **kwargs) -> None:
        super().__init__(**kwargs)
        if units % heads:
            raise ValueError(f"units {units} is not a multiple of heads {heads}")
        self.units = units
        self.heads = heads
        self.action = tf.keras.layers.Embedding(_ACTIONS, units, name="action")
        self.age = tf.keras.layers.Embedding(_AGE_BUCKETS, units, name="age")
        # Attention starts as plain similarity: a past query equal to the present one stands out
        # before anything is learnt.
        aligned = {"use_bias": False, "kernel_initializer": "identity"}
        self.query_projection = tf.keras.layers.Dense(units, **aligned, name="query")
        self.key_projection = tf.keras.layers.Dense(units, **aligned, name="key")
        self.value_projection = tf.keras.layers.Dense(units, use_bias=False, name="value")
        self.output_projection = tf.keras.layers.Dense(units, use_bias=False, name="output")
        self.gate = tf.keras.layers.Dense(units, activation="sigmoid", name="gate")
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def build(self, input_shape) -> None:
        self.null_key = self.add_weight("null_key", [self.units], initializer="glorot_uniform")
        self.null_value = self.add_weight("null_value", [self.units], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        query: tf.Tensor,
        user: tf.Tensor,
        history_query: tf.Tensor,
        history_item: tf.Tensor,
        history_action: tf.Tensor,
        history_age: tf.Tensor,
        history_mask: tf.Tensor,
        return_attention: bool = False,
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Refines the profile.

        Args:
          query: [B, D] e(q) of the present query.
          user: [B, D] profile u.
          history_query: [B, H, D] e(q_t), newest first.
          history_item: [B, H, D] e(i_t).
          history_action: [B, H] 1 for a click, 2 for a conversion, 0 at padding.
          history_age: [B, H] days before the request.
          history_mask: [B, H] boolean, True = real.
          return_attention: Whether to return alpha too.

        Returns:
          p [B, D]; with `return_attention` also alpha [B, heads, H + 1], the null slot first.
        """
        keys = history_query + self.action(history_action) + self.age(age_bucket(history_age))
        keys = self._with_null(self.null_key, self.key_projection(keys))
        values = self.value_projection(tf.concat([history_query, history_item], axis=-1))
        values = self._with_null(self.null_value, values)
        mask = tf.pad(history_mask, [[0, 0], [1, 0]], constant_values=True)

        scale = 1 / math.sqrt(self.units // self.heads)
        logits = tf.einsum(
            "bhd,bthd->bht", self._split(self.query_projection(query)), self._split(keys)
        )
        logits = tf.where(mask[:, tf.newaxis], logits * scale, logits.dtype.min)
        attention = tf.nn.softmax(logits, axis=-1)
        found = tf.einsum("bht,bthd->bhd", attention, self._split(values))
        found = tf.reshape(found, [-1, self.units])

        gate = self.gate(tf.concat([query, found, user], axis=-1))
        refined = self.norm(user + gate * self.output_projection(found))
        return (refined, attention) if return_attention else refined

    def _with_null(self, null: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
        """[D] and [B, H, D] to [B, H + 1, D]."""
        first = tf.cast(null, entries.dtype)
        first = tf.tile(first[tf.newaxis, tf.newaxis], [tf.shape(entries)[0], 1, 1])
        return tf.concat([first, entries], axis=1)

    def _split(self, vectors: tf.Tensor) -> tf.Tensor:
        """[..., D] to [..., heads, D / heads]."""
        shape = tf.concat([tf.shape(vectors)[:-1], [self.heads, self.units // self.heads]], axis=0)
        return tf.reshape(vectors, shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units, "heads": self.heads}


def age_bucket(days: tf.Tensor) -> tf.Tensor:
    """Bucket of log age: floor(log2(1 + hours)), at most 15 (four years and older).

    >>> age_bucket(tf.constant([0.0, 1 / 24, 1.0, 1e6])).numpy()
    array([ 0,  1,  4, 15], dtype=int32)
    """
    hours = tf.cast(days, tf.float32) * 24
    bucket = tf.cast(tf.math.log1p(hours) / math.log(2), tf.int32)
    return tf.clip_by_value(bucket, 0, _AGE_BUCKETS - 1)
