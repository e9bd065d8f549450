"""Attention over a history with a null slot, what QDIR's two passes share."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.masks import masked_softmax

_SHARPNESS = 10.0  # of attention at the start


@tf.keras.utils.register_keras_serializable("piano_tf")
class HistoryAttention(tf.keras.layers.Layer):
    r"""Multi-head attention from S questions to the H entries of a history.

    Per head of width d_h, with Q = W_Q x, K_t = W_K k_t, V_t = W_V v_t and a learned null slot
    (k_0, v_0), so that who has no related past can attend to nothing:

      alpha = softmax(s_h cos(Q, K) + m) over the real entries and the null slot,
      c = W_O sum_t alpha_t V_t.

    Cosines and a learned s_h, from 10, stand in the place of products and 1 / sqrt(d_h), as A.
    Henry et al. have it (Query-Key Normalization, arXiv 2010.04245), so that short vectors are told
    apart as well as long ones. m_t = w_h where a question and an entry are the same, and 0
    elsewhere, w_h learned per head from 0. W_Q = W_K = I at the start: attention begins as plain
    similarity, so that a past equal to the present stands out before anything is learnt. Null slot,
    m and the start are ours.

    Args:
      units: D, width of questions, keys and the result.
      heads: Attention heads; divides `units`.
      null_slot: Whether there is one. Without it, who has no past gets c = 0.
    """

    def __init__(self, units: int, heads: int, null_slot: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        if units % heads:
            raise ValueError(f"units {units} is not a multiple of heads {heads}")
        self.units = units
        self.heads = heads
        self.null_slot = null_slot
        aligned = {"use_bias": False, "kernel_initializer": "identity"}
        self.query_projection = Dense(units, **aligned, name="query")
        self.key_projection = Dense(units, **aligned, name="key")
        self.value_projection = Dense(units, use_bias=False, name="value")
        self.output_projection = Dense(units, use_bias=False, name="output")
        # w: has no weights before it is told for the first time what is the same.
        self.match = Dense(heads, use_bias=False, kernel_initializer="zeros", name="match")

    def build(self, input_shape) -> None:
        self.sharpness = self.add_weight(
            "sharpness", [self.heads], initializer=tf.keras.initializers.Constant(_SHARPNESS)
        )
        if self.null_slot:
            self.null_key = self.add_weight("null_key", [self.units], initializer="glorot_uniform")
            self.null_value = self.add_weight("null_value", [self.units], initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        questions: tf.Tensor,
        keys: tf.Tensor,
        values: tf.Tensor,
        mask: tf.Tensor,
        same: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Attends.

        Args:
          questions: [B, S, D].
          keys: [B, H, D].
          values: [B, H, V].
          mask: [B, H] boolean, True = real.
          same: [B, S, H] boolean, where an entry is the same as what asks; None leaves m out.

        Returns:
          c [B, S, D], and alpha [B, heads, S, 1 + H], the null slot first (0 where there is none).
        """
        asking = self._split(self.query_projection, questions)
        asked = self._split(self.key_projection, keys)
        told = self._split(self.value_projection, values)
        if self.null_slot:
            asked, told = self._after(self.null_key, asked), self._after(self.null_value, told)
            mask = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
        asking, asked = (
            tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-6) for vectors in (asking, asked)
        )
        sharpness = tf.cast(self.sharpness, asking.dtype)[:, tf.newaxis, tf.newaxis]
        logits = tf.matmul(asking * sharpness, asked, transpose_b=True)
        if same is not None:
            if self.null_slot:
                same = tf.pad(same, [[0, 0], [0, 0], [1, 0]])
            match = self.match(tf.cast(same, logits.dtype)[..., tf.newaxis])
            logits += tf.transpose(match, [0, 3, 1, 2])
        attention = masked_softmax(logits, mask[:, tf.newaxis, tf.newaxis])
        found = tf.transpose(tf.matmul(attention, told), [0, 2, 1, 3])
        found = self.output_projection(tf.reshape(found, [-1, self.units]))
        if not self.null_slot:
            attention = tf.pad(attention, [[0, 0], [0, 0], [0, 0], [1, 0]])
        return tf.reshape(found, tf.shape(questions)), attention

    def _split(self, projection: Dense, vectors: tf.Tensor) -> tf.Tensor:
        """[B, S, any] to [B, heads, S, D / heads], projected."""
        lists, size, _ = tf.unstack(tf.shape(vectors))
        width = self.units // self.heads
        parts = tf.reshape(projection(vectors), [lists, size, self.heads, width])
        return tf.transpose(parts, [0, 2, 1, 3])

    def _after(self, null: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
        """[D] and [B, heads, H, D / heads] to [B, heads, 1 + H, D / heads]."""
        first = tf.reshape(tf.cast(null, entries.dtype), [1, self.heads, 1, -1])
        return tf.concat([tf.tile(first, [tf.shape(entries)[0], 1, 1, 1]), entries], axis=2)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "heads": self.heads,
            "null_slot": self.null_slot,
        }
