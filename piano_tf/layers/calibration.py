"""Logits that can be believed: one sigmoid per output, fitted after training."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import CLICK, CONVERSION, LIST_CLICK, LIST_CONVERSION, OUTPUTS

_AT_MOST = {CONVERSION: CLICK, LIST_CONVERSION: LIST_CLICK}


@tf.keras.utils.register_keras_serializable("piano_tf")
class Calibration(tf.keras.layers.Layer):
    """Platt's sigmoid on each output: logit' = slope * logit + intercept, with slope > 0.

    A listwise loss looks at differences within a list only, so that a model that orders well may
    still say 0.3 of what happens one time in twenty. The sigmoid mends that and keeps each output's
    order (J. Platt, Probabilistic Outputs for Support Vector Machines, 1999). A conversion is a
    click too: its logit is held at or below click's [ours]. Nothing is changed until `assign`; what
    is assigned is saved and exported with the model, and not trained. `piano_tf.calibration` finds
    it on validation.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.slope = self.add_weight("slope", [len(OUTPUTS)], initializer="ones", trainable=False)
        self.intercept = self.add_weight(
            "intercept", [len(OUTPUTS)], initializer="zeros", trainable=False
        )

    def call(self, logits: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Calibrates some of `piano_tf.features.OUTPUTS`; a conversion comes with its click."""
        found: dict[str, tf.Tensor] = {}
        for number, name in enumerate(OUTPUTS):  # clicks stand before conversions
            if name in logits:
                found[name] = self.slope[number] * logits[name] + self.intercept[number]
                if name in _AT_MOST:
                    found[name] = tf.minimum(found[name], found[_AT_MOST[name]])
        return found

    def assign(self, output: str, slope: float, intercept: float) -> None:
        """Sets the sigmoid of one output."""
        number = OUTPUTS.index(output)
        self.slope[number].assign(slope)
        self.intercept[number].assign(intercept)

    def reset(self) -> None:
        """Changes nothing again."""
        self.slope.assign(tf.ones_like(self.slope))
        self.intercept.assign(tf.zeros_like(self.intercept))
