"""Adam in one operation a variable."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("piano_tf")
class FusedAdam(tf.keras.optimizers.Adam):
    """Adam (D. Kingma and J. Ba, ICLR 2015, arXiv 1412.6980): Keras's own, but for rounding.

    Keras 2.15 writes a step as some twenty operations a variable, and over a hundred where its
    gradient is of single rows of a table: half the operations of a whole training step here. This
    one is TensorFlow's kernel. Rows that a batch did not touch move on by their momentum, as in
    Keras, so that nothing is lost by making a dense gradient of such rows first.

    Args:
      learning_rate: As in Keras.
    """

    def __init__(self, learning_rate=0.001, **kwargs) -> None:
        super().__init__(learning_rate, **kwargs)
        if self.amsgrad:
            raise ValueError("amsgrad: got True, expected False")

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Moves a variable and its two moments by one step."""
        if isinstance(gradient, tf.IndexedSlices):
            gradient = tf.math.unsorted_segment_sum(
                gradient.values, gradient.indices, variable.shape[0]
            )
        number = self._index_dict[self._var_key(variable)]
        beta_1, beta_2 = (tf.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].handle,
            v=self._velocities[number].handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=gradient,
        )
