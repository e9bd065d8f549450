"""Candidates and history look at each other, with a personal decay: MIR's SLAttention."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense
from piano_tf.masks import masked_softmax


@tf.keras.utils.register_keras_serializable("piano_tf")
class CoAttention(tf.keras.layers.Layer):
    """Set-to-list attention both ways with a personal decay (MIR, arXiv 2204.09370).

    Affinity of candidate v_i and past h_t, of whole items and of their features f, g (the `parts`
    equal parts of a vector [ours, for here items are one vector each]):

      A_it = v_i^T W h_t / sqrt(D) + sum_fg w_fg v_if . h_tg / sqrt(D / parts)

    With the listener's own theta_u = softplus(w . u + b) > 0 and entries of age t days,

      alpha_it = A_it's softmax over t times exp(-theta_u log(1 + age_t)), again of sum 1,
      beta_ti  = softmax of A_it over the candidates,
      c_i = sum_t alpha_it h_t,   b_i = sum_t alpha_it sum_j beta_tj v_j.

    How we differ: MIR has maps tanh(V W_v + (Q W_q)^T C) of both sides, with C the tanh of the
    affinity, whose softmax pools them; here the affinities themselves are weights, b_i included,
    which keeps each candidate's own view. The decay multiplies the weight and not the affinity, so
    that of two equal entries the older counts less whatever the sign of A (in the released code
    theta may be negative, and what is long ago then counts more); padding of list and of history
    has no part.

    Args:
      units: D, width of the vectors.
      parts: Into how many features a vector falls; divides `units`.
    """

    def __init__(self, units: int, parts: int, **kwargs) -> None:
        super().__init__(**kwargs)
        if units % parts:
            raise ValueError(f"units {units} is not a multiple of parts {parts}")
        self.units = units
        self.parts = parts
        self.item_affinity = Dense(units, use_bias=False, name="item_affinity")
        self.decay = Dense(1, "softplus", name="decay")

    def build(self, input_shape) -> None:
        self.feature_affinity = self.add_weight(
            "feature_affinity", [self.parts, self.parts], initializer="identity"
        )
        super().build(input_shape)

    def call(
        self,
        candidates: tf.Tensor,
        past: tf.Tensor,
        user: tf.Tensor,
        age: tf.Tensor,
        mask: tf.Tensor,
        past_mask: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Attends both ways.

        Args:
          candidates: [B, N, D] v_i.
          past: [B, H, D] h_t.
          user: [B, D] u.
          age: [B, H] days before the request.
          mask: [B, N] boolean, True = real.
          past_mask: [B, H] boolean, True = real.

        Returns:
          c and b [B, N, D], 0 for who has no history, and alpha [B, N, H].
        """
        affinity = self._affinity(candidates, past)
        since = tf.math.log1p(tf.maximum(tf.cast(age, affinity.dtype), 0.0))
        # exp(A - theta log(1 + age)), normalised: the decay of the weight, in log space.
        decayed = affinity - (self.decay(user) * since)[:, tf.newaxis]
        alpha = masked_softmax(decayed, past_mask[:, tf.newaxis], axis=2)
        beta = masked_softmax(affinity, mask[:, :, tf.newaxis], axis=1)
        seen = tf.einsum("bnh,bnd->bhd", beta, candidates)
        return tf.matmul(alpha, past), tf.matmul(alpha, seen), alpha

    def _affinity(self, candidates: tf.Tensor, past: tf.Tensor) -> tf.Tensor:
        """A [B, N, H]."""
        items = tf.matmul(self.item_affinity(candidates), past, transpose_b=True)
        v, h = self._features(candidates), self._features(past)
        # sum_fg w_fg v_f . h_g = (sum_f w_fg v_f) . h_g
        v = tf.einsum("bnfk,fg->bngk", v, tf.cast(self.feature_affinity, v.dtype))
        features = tf.einsum("bngk,bhgk->bnh", v, h)
        return items / self.units**0.5 + features / (self.units // self.parts) ** 0.5

    def _features(self, vectors: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(vectors)[:-1], [self.parts, self.units // self.parts]], axis=0)
        return tf.reshape(vectors, shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units, "parts": self.parts}
