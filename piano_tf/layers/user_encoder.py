"""u: the listener's profile, before the query refines it."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import Axis, InputSpec
from piano_tf.layers.columns import embedding_tables, vectors_of
from piano_tf.layers.dense import Dense


@tf.keras.utils.register_keras_serializable("piano_tf")
class UserEncoder(tf.keras.layers.Layer):
    """Who asks, where, and what they acted on before [ours].

    u = W [E_id[user]; user and context features; mean over the history of e(i_t)] + b.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      units: D, width of each table and of the result.
      ids: Whether listeners have trained vectors of their own.
    """

    def __init__(self, inputs: InputSpec | dict, units: int, ids: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs = InputSpec.model_validate(inputs)
        self.units = units
        self.ids = ids
        left_out = ("", "query") if ids else ("", "query", "user_id")
        self._columns = [
            column
            for column in self.inputs.features.columns(labels=False)
            if column.axis is Axis.LIST and column.table not in left_out
        ]
        self.tables = embedding_tables(self.inputs, self._columns, units)
        self.projection = Dense(units, name="projection")

    def call(
        self, batch: Mapping[str, tf.Tensor], history: tf.Tensor, history_mask: tf.Tensor
    ) -> tf.Tensor:
        """Encodes listeners.

        Args:
          batch: Encoded inputs.
          history: [B, H, D] past items.
          history_mask: [B, H] boolean, True = real.

        Returns:
          [B, D].
        """
        real = tf.cast(history_mask, history.dtype)[..., tf.newaxis]
        count = tf.maximum(tf.reduce_sum(real, axis=1), 1)
        past = tf.reduce_sum(history * real, axis=1) / count
        known = vectors_of(batch, self._columns, self.tables, self.compute_dtype)
        return self.projection(tf.concat([past, *known], axis=-1))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "units": self.units,
            "ids": self.ids,
        }
