"""QDIR among pre-trained vectors: how each candidate matches the past that bears on the query."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.layers.pretrained_vectors import Pretrained
from piano_tf.masks import masked_softmax

_SHARPNESS = (2.0, 5.0, 10.0, 20.0)  # Of heads at the start, over and over.
_SCALE = 5.0  # Cosines with a mixture of vectors are small.


@tf.keras.utils.register_keras_serializable("piano_tf")
class InterestMatch(tf.keras.layers.Layer):
    r"""Attends from the present query to past ones, and compares what is found with candidates.

    Attention over vectors that are trained with it learns listeners by heart where logs are small.
    Here only the attention is learned; what it compares, and what it finds, are pre-trained vectors
    v of length 1 [ours]. Per head h, over the real entries of the history, and a null slot of the
    learned logit n_h where there is one:

      alpha_h = softmax_t(s_h cos(v(q), v(q_t)) + MLP_h([cos(v(q), v(q_t)); q = q_t; E[a_t, age]])),
      p_h = sum_t alpha_ht v(i_t),
      r_hi = sum_t alpha_ht [i_t = i],
      m_hi = v(i) . p_h - r_hi |v(i)|^2,

    once for taste and once for intent. p_h is the refined interest, m_hi how well candidate i
    matches it but for i's own repeats, which r_hi says; where nobody asks for repeats (`same_item`
    is None), r is left out and m_hi = v(i) . p_h. The result is relu(W [m; r] + b). s_h
    begins at 2, 5, 10, 20, so that heads look near and far from the start.

    Args:
      units: D, width of the result.
      heads: Attention heads.
      keys: What cos compares with v(q): `query`, v(q_t); `item`, v(i_t) in intent's space.
      null_slot: Whether a listener may attend to nothing.
    """

    def __init__(
        self, units: int, heads: int, keys: str = "query", null_slot: bool = True, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.heads = heads
        self.keys = keys
        self.null_slot = null_slot
        self.hidden = Dense(4 * heads, "relu", name="hidden")
        self.logits = Dense(heads, name="logits")
        self.projection = Dense(units, "relu", name="projection")

    def build(self, input_shape) -> None:
        sharpness = [_SHARPNESS[head % len(_SHARPNESS)] for head in range(self.heads)]
        self.sharpness = self.add_weight(
            "sharpness", [self.heads], initializer=tf.keras.initializers.Constant(sharpness)
        )
        if self.null_slot:
            self.null = self.add_weight("null", [self.heads], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        pretrained: Pretrained,
        past_mask: tf.Tensor,
        same_item: tf.Tensor | None = None,
        same_query: tf.Tensor | None = None,
        circumstances: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Matches candidates with the past.

        Args:
          pretrained: The vectors of a batch.
          past_mask: [B, H] boolean, True = real.
          same_item: [B, N, H] boolean, past items equal to a candidate; None leaves r out.
          same_query: [B, H] boolean, past queries equal to the present one, where that may count.
          circumstances: [B, H, D] of an action and its age, where these may count.

        Returns:
          [B, N, D]; what stands at padding means nothing.
        """
        dtype = self.compute_dtype
        now, past = (tf.cast(vectors, dtype) for vectors in pretrained.spaces())
        keys = pretrained.past_query if self.keys == "query" else pretrained.past_intent
        near = tf.cast(pretrained.cosines_to_query(keys), dtype)[..., tf.newaxis]
        known = [near]
        if same_query is not None:
            known.append(tf.cast(same_query, dtype)[..., tf.newaxis])
        if circumstances is not None:
            known.append(circumstances)
        attention = self._attention(near, tf.concat(known, axis=-1), past_mask)
        interest = tf.matmul(attention, past)
        found = tf.matmul(now, interest, transpose_b=True)
        if same_item is None:
            found = tf.unstack(found)
        else:
            repeats = tf.matmul(tf.cast(same_item, dtype), attention, transpose_b=True)
            found -= repeats * tf.reduce_sum(tf.square(now), axis=-1, keepdims=True)
            found = [*tf.unstack(found), repeats]
        return self.projection(tf.concat(found, axis=-1) * _SCALE)

    def _attention(self, near: tf.Tensor, known: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """alpha [B, heads, H], which sums to 1 less the null slot's share."""
        alike = near * tf.cast(self.sharpness, near.dtype)
        learned = self.logits(self.hidden(tf.reshape(known, [-1, known.shape[-1]])))
        logits = tf.transpose(alike + tf.reshape(learned, tf.shape(alike)), [0, 2, 1])
        mask = mask[:, tf.newaxis]
        if not self.null_slot:
            return masked_softmax(logits, mask)
        null = tf.cast(self.null, near.dtype)[:, tf.newaxis]
        null = tf.broadcast_to(null, tf.shape(logits[..., :1]))
        mask = tf.pad(mask, [[0, 0], [0, 0], [1, 0]], constant_values=True)
        return masked_softmax(tf.concat([null, logits], axis=-1), mask)[..., 1:]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "keys": self.keys,
            "null_slot": self.null_slot,
        }
