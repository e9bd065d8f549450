"""x_i and e(i_t): candidates and past items as vectors, over shared embedding tables."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import Axis, InputSpec
from piano_tf.layers.columns import embedding_tables, vectors_of


@tf.keras.utils.register_keras_serializable("piano_tf")
class ItemEncoder(tf.keras.layers.Layer):
    """Embeds every declared feature of an item and projects them together [ours].

    x_i = W [E_id[i]; E_f[i_f] for string features; i_f for floats] + b, with one W for candidates
    and one for past items (a log may know less of these), and the same tables E for both.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      units: D, width of each table and of the result.
    """

    def __init__(self, inputs: InputSpec | dict, units: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs = InputSpec.model_validate(inputs)
        self.units = units
        columns = self.inputs.features.columns(labels=False)
        self._candidate = [c for c in columns if c.axis is Axis.ITEM]
        known = {column.table for column in self._candidate}
        self._history = [c for c in columns if c.axis is Axis.HISTORY and c.table in known]
        self.tables = embedding_tables(self.inputs, self._candidate, units)
        self.candidate_projection = tf.keras.layers.Dense(units, name="candidate_projection")
        self.history_projection = tf.keras.layers.Dense(units, name="history_projection")

    def call(self, batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes candidates and past items.

        Args:
          batch: Encoded inputs (see `piano_tf.data.encoding.encode`).

        Returns:
          Candidates [B, N, D] and past items [B, H, D]; what stands at padding means nothing.
        """
        candidates, history = (
            tf.concat(vectors_of(batch, columns, self.tables, self.compute_dtype), axis=-1)
            for columns in (self._candidate, self._history)
        )
        return self.candidate_projection(candidates), self.history_projection(history)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "units": self.units,
        }
