"""Dropout that draws half the random bits."""

from __future__ import annotations

import random

import tensorflow as tf

_LEVELS = 1 << 16


@tf.keras.utils.register_keras_serializable("piano_tf")
class Dropout(tf.keras.layers.Layer):
    """Zeroes units at random in training and divides the others by the share kept.

    `tf.keras.layers.Dropout`, but that 16 random bits decide about a unit and not 32, for to draw
    them takes most of its time; and that they come from a generator of the layer's own, whose state
    a checkpoint of the model holds, and whose seed is drawn by Python's `random`, which
    `tf.keras.utils.set_random_seed` sets.

    Args:
      rate: Share of units dropped, rounded to a multiple of 1 / 65536; at least 0 and below 1.
    """

    def __init__(self, rate: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        # Of the scope in which the model is made: each replica of a strategy draws for itself.
        self.generator = tf.random.Generator.from_seed(random.getrandbits(62))

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Of any shape, and that shape."""
        dropped = min(round(self.rate * _LEVELS), _LEVELS - 1)
        if not training or not dropped:
            return inputs
        shape, size = tf.shape(inputs), tf.size(inputs)
        drawn = tf.bitcast(self.generator.uniform_full_int([(size + 3) // 4], tf.uint64), tf.uint16)
        kept = tf.reshape(tf.reshape(drawn, [-1])[:size], shape) >= tf.constant(dropped, tf.uint16)
        return inputs * (tf.cast(kept, inputs.dtype) * (_LEVELS / (_LEVELS - dropped)))

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate}
