"""A dense layer over vectors of any number of axes, as one product of matrices."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("piano_tf")
class Dense(tf.keras.layers.Dense):
    """`tf.keras.layers.Dense`, with the same weights, values and arguments, in fewer operations.

    Where there are more than two axes Keras contracts tensors, whose shapes it works out anew in a
    dozen operations of each layer; here the vectors are rows of one matrix, so that TensorFlow also
    fuses product, bias and activation.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[..., W] to [..., units]."""
        if inputs.shape.rank == 2:
            return super().call(inputs)
        rows = super().call(tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(rows, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
