"""Logits that can be believed: a curve per output, fitted after training."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import CLICK, CONVERSION, LIST_CLICK, LIST_CONVERSION, OUTPUTS

_AT_MOST = {CONVERSION: CLICK, LIST_CONVERSION: LIST_CLICK}


@tf.keras.utils.register_keras_serializable("piano_tf")
class Calibration(tf.keras.layers.Layer):
    """Beta calibration of each output (M. Kull et al., AISTATS 2017).

    A listwise loss looks at differences within a list only, so that a model that orders well may
    still say 0.3 of what happens one time in twenty. With p = sigmoid(x) for a logit x,

      x' = a log p - b log(1 - p) + c = a x + (b - a) softplus(x) + c,   a, b > 0,

    mends that and keeps the order of the output. a is the slope where p is small, b where it is
    large; Platt's sigmoid is a = b. A conversion is a click too, so that its logit is then held at
    or below click's [ours]. a = b = 1 and c = 0 until `assign`; what is assigned is saved and
    exported with the model, and not trained. `piano_tf.calibration` finds it on validation.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        shape = {"shape": [len(OUTPUTS)], "trainable": False}
        self.slope = self.add_weight("slope", initializer="ones", **shape)
        self.bend = self.add_weight("bend", initializer="zeros", **shape)
        self.intercept = self.add_weight("intercept", initializer="zeros", **shape)

    def call(self, logits: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Calibrates some of `piano_tf.features.OUTPUTS`; a conversion comes with its click."""
        found: dict[str, tf.Tensor] = {}
        curves = zip(
            OUTPUTS, *map(tf.unstack, (self.slope, self.bend, self.intercept)), strict=True
        )
        for name, slope, bend, intercept in curves:  # clicks stand before conversions
            if name in logits:
                x = logits[name]
                found[name] = slope * x + bend * tf.nn.softplus(x) + intercept
                if name in _AT_MOST:
                    found[name] = tf.minimum(found[name], found[_AT_MOST[name]])
        return found

    def assign(self, output: str, a: float, b: float, c: float) -> None:
        """Sets the curve of one output."""
        number = OUTPUTS.index(output)
        self.slope[number].assign(a)
        self.bend[number].assign(b - a)
        self.intercept[number].assign(c)

    def reset(self) -> None:
        """Sets every curve to x' = x."""
        for output in OUTPUTS:
            self.assign(output, 1.0, 1.0, 0.0)
