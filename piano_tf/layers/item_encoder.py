"""x_i and e(i_t): candidates and past items as vectors, over shared embedding tables."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf.features import Axis, InputSpec
from piano_tf.layers.columns import embedding_tables, vectors_of
from piano_tf.layers.dense import Dense
from piano_tf.layers.pretrained_vectors import Pretrained


@tf.keras.utils.register_keras_serializable("piano_tf")
class ItemEncoder(tf.keras.layers.Layer):
    """Embeds every declared feature of an item and projects them together [ours].

    x_i = W [E_id[i]; E_f[i_f] for string features; i_f and i_f - max_j j_f for floats; taste_i;
    intent_i; relu(W_m match_i)] + b, with one W for candidates and one for past items (a log may
    know less of these, and a past item has no list), and the same tables for both. A float's
    distance from the list's largest says what its value cannot: how the list's best compares.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      units: D, width of each table and of the result.
      ids: Whether items have trained vectors of their own.
    """

    def __init__(self, inputs: InputSpec | dict, units: int, ids: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs = InputSpec.model_validate(inputs)
        self.units = units
        self.ids = ids
        columns = self.inputs.features.columns(labels=False)
        self._candidate = [c for c in columns if c.axis is Axis.ITEM]
        if not ids:
            self._candidate = [c for c in self._candidate if c.table != "item_id"]
        known = {column.table for column in self._candidate}
        self._history = [c for c in columns if c.axis is Axis.HISTORY and c.table in known]
        self._floats = [c.name for c in self._candidate if c.type == "float"]
        self.tables = embedding_tables(self.inputs, self._candidate, units)
        self.match_projection = Dense(units, "relu", name="match_projection")
        self.candidate_projection = Dense(units, name="candidate_projection")
        self.history_projection = Dense(units, name="history_projection")

    def call(
        self,
        batch: Mapping[str, tf.Tensor],
        mask: tf.Tensor,
        pretrained: Pretrained | None = None,
        match: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes candidates and past items.

        Args:
          batch: Encoded inputs (see `piano_tf.data.encoding.encode`).
          mask: [B, N] boolean, True = real candidate.
          pretrained: Pre-trained vectors of the batch, where there are any.
          match: [B, N, M] how candidates match the history, where that is known.

        Returns:
          Candidates [B, N, D] and past items [B, H, D]; what stands at padding means nothing.
        """
        dtype = self.compute_dtype
        candidates = vectors_of(batch, self._candidate, self.tables, dtype)
        history = vectors_of(batch, self._history, self.tables, dtype)
        if self._floats:
            floats = tf.stack([batch[name] for name in self._floats], axis=-1)
            real = mask[..., tf.newaxis]
            largest = tf.reduce_max(tf.where(real, floats, floats.dtype.min), axis=1, keepdims=True)
            candidates.append(tf.cast(tf.where(real, floats - largest, 0.0), dtype))
        if pretrained is not None:
            candidates += [tf.cast(pretrained.taste, dtype), tf.cast(pretrained.intent, dtype)]
            history += [
                tf.cast(pretrained.past_taste, dtype),
                tf.cast(pretrained.past_intent, dtype),
            ]
        if match is not None:
            candidates.append(self.match_projection(tf.cast(match, dtype)))
        return (
            self.candidate_projection(tf.concat(candidates, axis=-1)),
            self.history_projection(tf.concat(history, axis=-1)),
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "units": self.units,
            "ids": self.ids,
        }
