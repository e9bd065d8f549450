"""Click and conversion as one chain over everything shown, in log space throughout."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from piano_tf.layers.dense import Dense


def entire_space_logit(click: tf.Tensor, conversion_given_click: tf.Tensor) -> tf.Tensor:
    """Logit of P(click and conversion) = P(click) P(conversion | click) (ESMM, arXiv 1804.07931).

    With p = sigmoid(a) sigmoid(b), (1 - p) / p = (1 + e^-a) (1 + e^-b) - 1, which is
    e^-a (1 + (1 + e^a) e^-b), so that logit = a - log(1 + e^(log(1 + e^a) - b)), to within a
    rounding of a: no probability is formed, and nothing overflows.

    Args:
      click: [...] logit a.
      conversion_given_click: [...] logit b.

    Returns:
      [...] logits, never above `click`.

    >>> entire_space_logit(tf.constant(0.0), tf.constant(0.0)).numpy() == -np.log(np.float32(3))
    True
    """
    return click - tf.nn.softplus(tf.nn.softplus(click) - conversion_given_click)


@tf.keras.utils.register_keras_serializable("piano_tf")
class EntireSpaceHead(tf.keras.layers.Layer):
    """A click logit and an entire-space conversion logit from each vector.

    Each of the two logits has a hidden layer of its own [ours]. float32 whatever the policy, for
    probabilities near 0 and 1 leave the range of half precision.

    Args:
      units: Width of the hidden layers.
    """

    def __init__(self, units: int, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = units
        self.click_hidden = Dense(units, "relu", name="click_hidden", dtype="float32")
        self.click = Dense(1, name="click", dtype="float32")
        self.conversion_hidden = Dense(units, "relu", name="conversion_hidden", dtype="float32")
        self.conversion_given_click = Dense(1, name="conversion_given_click", dtype="float32")

    def call(
        self, vectors: tf.Tensor, for_conversion: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Predicts.

        Args:
          vectors: [..., D].
          for_conversion: [..., D] what conversion given click is predicted from; `vectors` too
            where there is none.

        Returns:
          Logits [...] of click, and of click and conversion.
        """
        for_conversion = vectors if for_conversion is None else for_conversion
        click = _in_turn((self.click_hidden, self.click), vectors)
        given = _in_turn((self.conversion_hidden, self.conversion_given_click), for_conversion)
        return click, entire_space_logit(click, given)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


def _in_turn(stack: Sequence[Dense], vectors: tf.Tensor) -> tf.Tensor:
    """[..., W] through layers, the last of width 1, as rows of one matrix: [...]."""
    rows = tf.reshape(vectors, [-1, vectors.shape[-1]])
    for dense in stack:
        rows = dense(rows)
    return tf.reshape(rows, tf.shape(vectors)[:-1])
