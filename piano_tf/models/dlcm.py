"""DLCM: Deep Listwise Context Model (SIGIR 2018, arXiv 1804.05936)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class DLCM(Reranker):
    """A GRU reads the list from the last rank to the first; items are scored in view of its end.

    o_i is the state at item i, s the one after rank 1, and the local ranking function

      phi(o_i, s) = V (o_i . tanh(W s + b)),

    o_i against K vectors made of s, weighted by V. Inputs are [c_i; z_i], z_i two elu layers over
    the context c_i, without positions: the reading order is one. How we differ: one function for
    click and one for conversion given click, each with a constant so that it is a logit; the losses
    common to all models for attention rank (cross-entropy of softmax scores against weights exp(y)
    of the relevant items). The list-level outputs take items as independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, name="context")
        self.abstraction = [
            layers.Dense(c.width, "elu", name=f"abstraction_{number}") for number in range(2)
        ]
        self.dropout = layers.Dropout(c.dropout)
        self.gru = tf.keras.layers.GRU(
            c.width, return_sequences=True, return_state=True, name="gru"
        )
        self.click, self.conversion_given_click = (
            _LocalRanking(c.heads, name=name) for name in ("click", "conversion_given_click")
        )

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        context = self.context(lists)
        abstract = context
        for dense in self.abstraction:
            abstract = self.dropout(dense(abstract), training=training)
        states, end = self.read(
            tf.concat([context, abstract], axis=-1), lists.mask, training=training
        )
        click = self.click(states, end)
        items = click, layers.entire_space_logit(click, self.conversion_given_click(states, end))
        return items, None

    def read(
        self, vectors: tf.Tensor, mask: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """States o [B, N, D] in the list's order, and s [B, D], from vectors [B, N, W].

        Real items are turned around and padding stays last, where the mask keeps it out of the
        state.
        """
        length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        turned = tf.reverse_sequence(vectors, length, seq_axis=1, batch_axis=0)
        states, end = self.gru(turned, mask=mask, training=training)
        return tf.reverse_sequence(states, length, seq_axis=1, batch_axis=0), end


class _LocalRanking(tf.keras.layers.Layer):
    """phi(o_i, s) with K = `units`, in float32 for it is a logit."""

    def __init__(self, units: int, **kwargs) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = units
        self.score = layers.Dense(1, name="score", dtype="float32")

    def build(self, input_shape) -> None:
        width = input_shape[-1]
        self.projection = layers.Dense(
            self.units * width, "tanh", name="projection", dtype="float32"
        )
        super().build(input_shape)

    def call(self, states: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        wanted = tf.reshape(self.projection(end), [-1, self.units, states.shape[-1]])
        return tf.squeeze(self.score(tf.einsum("bnd,bkd->bnk", states, wanted)), axis=-1)
