"""Frozen vectors of items and queries, learnt beforehand from past interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from piano_tf.features import InputSpec

TASTE = "taste"
INTENT = "intent"
WORDS = "words"


class Pretrained(NamedTuple):
    """The pre-trained vectors of a batch, each of length 1, or 0 where nothing is known.

    Attributes:
      taste, past_taste: [B, N, P] and [B, H, P]: near where the same listeners chose both items.
      intent, past_intent: [B, N, P] and [B, H, P]: near where the same queries led to both items.
      query, past_query: [B, P] and [B, H, P]: in the space of `intent`.
    """

    taste: tf.Tensor
    past_taste: tf.Tensor
    intent: tf.Tensor
    past_intent: tf.Tensor
    query: tf.Tensor
    past_query: tf.Tensor

    def spaces(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Candidates [2, B, N, P] and past items [2, B, H, P], of taste and then of intent."""
        now = tf.stack([self.taste, self.intent])
        return now, tf.stack([self.past_taste, self.past_intent])

    def cosines_to_query(self, vectors: tf.Tensor) -> tf.Tensor:
        """[B, any] of vectors [B, any, P] of candidates' intent, past queries or past intents."""
        return tf.reduce_sum(vectors * self.query[:, tf.newaxis], axis=-1)


@tf.keras.utils.register_keras_serializable("piano_tf")
class PretrainedVectors(tf.keras.layers.Layer):
    """Looks up pre-trained vectors, each listener's in the tables learnt without that listener.

    A list of training has its own clicks among the interactions that vectors are learnt from. What
    such vectors say of it would be far too good, and a model would trust it. So listeners fall into
    folds, the vectors of a fold are learnt from the interactions of all others, and they are used
    for the fold's lists, in training and in serving alike [ours; cross-fitting]. How they are
    learnt: `piano_tf.pretraining`. All are 0 until `assign`.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      units: P, width of the vectors.
      folds: K, how many tables there are of each kind.
    """

    def __init__(self, inputs: InputSpec | dict, units: int, folds: int, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.inputs = InputSpec.model_validate(inputs)
        self.units = units
        self.folds = folds
        rows = self.inputs.rows
        self.tables = {
            name: self.add_weight(
                name, [folds, rows[vocabulary], units], initializer="zeros", trainable=False
            )
            for name, vocabulary in ((TASTE, "item_id"), (INTENT, "item_id"), (WORDS, "query"))
        }

    def assign(self, tables: Mapping[str, tf.Tensor]) -> None:
        """Sets the vectors: `taste` and `intent` [K, items, P], `words` [K, tokens, P]."""
        for name, table in self.tables.items():
            table.assign(tables[name])

    def call(self, batch: Mapping[str, tf.Tensor]) -> Pretrained:
        """Looks up an encoded batch; what stands at padding is 0."""
        fold = batch["user_id"] % self.folds
        taste, intent, words = (
            tf.reshape(self.tables[name], [-1, self.units]) for name in (TASTE, INTENT, WORDS)
        )
        items = self._rows(TASTE, fold, batch["item_id"])
        past = self._rows(TASTE, fold, batch["history_item_id"])
        # The present query and past ones at once, [B, 1 + H, T].
        tokens = tf.concat([batch["query"][:, tf.newaxis], batch["history_query"]], axis=1)
        queries = tf.reduce_sum(tf.gather(words, self._rows(WORDS, fold, tokens)), axis=-2)
        queries = tf.math.l2_normalize(queries, axis=-1)
        return Pretrained(
            taste=tf.gather(taste, items),
            past_taste=tf.gather(taste, past),
            intent=tf.gather(intent, items),
            past_intent=tf.gather(intent, past),
            query=queries[:, 0],
            past_query=queries[:, 1:],
        )

    def _rows(self, table: str, fold: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Of ids [B, ...] in a table whose folds lie one after another; row 0, padding, is 0."""
        fold = tf.reshape(fold, [-1, *[1] * (ids.shape.rank - 1)])
        return fold * self.tables[table].shape[1] + ids

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "inputs": self.inputs.model_dump(mode="json"),
            "units": self.units,
            "folds": self.folds,
        }
