"""What of a history bears on each candidate: DIN's local activation unit."""

from __future__ import annotations

import tensorflow as tf

from piano_tf.layers.dense import Dense


@tf.keras.utils.register_keras_serializable("piano_tf")
class TargetAttention(tf.keras.layers.Layer):
    """c_i = sum_t a(x_i, h_t) h_t over the real entries (DIN, arXiv 1706.06978).

    a(x, h) = w . relu(W [x; h; x * h] + b) + b'. As in the paper the weights are not normalised,
    so that c_i is the larger, the more of the history bears on the candidate. How we differ: relu
    for Dice, whose batch normalisation would let the other lists of a batch in; x - h is left out
    of the unit's input, for W reaches it from x and h.

    Args:
      units: D, width of the unit's hidden layer.
    """

    def __init__(self, units: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.from_target = Dense(units, name="from_target")
        self.from_past = Dense(units, use_bias=False, name="from_past")
        self.from_product = Dense(units, use_bias=False, name="from_product")
        self.activation_weight = Dense(1, name="activation_weight")

    def call(
        self, targets: tf.Tensor, past: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Attends.

        Args:
          targets: [B, N, D] candidates x_i.
          past: [B, H, D] past items h_t.
          mask: [B, H] boolean, True = real.

        Returns:
          c [B, N, D] and a [B, N, H], 0 at padding.
        """
        product = targets[:, :, tf.newaxis] * past[:, tf.newaxis]
        hidden = tf.nn.relu(
            # W [x; h; x * h] part by part: only the product is of every pair.
            self.from_target(targets)[:, :, tf.newaxis]
            + self.from_past(past)[:, tf.newaxis]
            + self.from_product(product)
        )
        weights = tf.squeeze(self.activation_weight(hidden), axis=-1)
        weights = tf.where(mask[:, tf.newaxis], weights, 0.0)
        return tf.einsum("bnh,bhd->bnd", weights, past), weights

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}
