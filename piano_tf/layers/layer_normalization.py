"""Layer normalisation in fewer operations."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("piano_tf")
class LayerNormalization(tf.keras.layers.Layer):
    """`tf.keras.layers.LayerNormalization` of the last axis, with the same weights and values.

    gamma (x - mean x) / sqrt(mean (x - mean x)^2 + epsilon) + beta, in float32 whatever the policy.
    Keras multiplies out, and subtracts the mean twice.

    Args:
      epsilon: Above 0.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tf.TensorShape) -> None:
        size = [input_shape[-1]]
        whole = {"experimental_autocast": False}  # not halved before it is used
        self.gamma = self.add_weight("gamma", size, initializer="ones", **whole)
        self.beta = self.add_weight("beta", size, initializer="zeros", **whole)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[..., D] to [..., D]."""
        x = tf.cast(inputs, tf.float32)
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normal = centred * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta
        return tf.cast(normal, inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "epsilon": self.epsilon}
