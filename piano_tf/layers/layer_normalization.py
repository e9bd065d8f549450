"""Layer normalisation in fewer operations."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("piano_tf")
class LayerNormalization(tf.keras.layers.LayerNormalization):
    """`tf.keras.layers.LayerNormalization` over the last axis, with the same weights and values.

    gamma (x - mean x) / sqrt(mean (x - mean x)^2 + epsilon) + beta, in float32 whatever the policy.
    Keras multiplies out, and subtracts the mean twice.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[..., D] to [..., D]."""
        x, gamma, beta = (tf.cast(one, tf.float32) for one in (inputs, self.gamma, self.beta))
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normal = centred * tf.math.rsqrt(variance + self.epsilon) * gamma + beta
        return tf.cast(normal, inputs.dtype)
