"""MIR: Multi-Level Interaction Reranking (SIGIR 2022, arXiv 2204.09370)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import InputSpec
from piano_tf.models.base import Logits, Reranker


@tf.keras.utils.register_keras_serializable("piano_tf")
class MIR(Reranker):
    """Candidates as a set, history as a list, and attention between the two, both ways.

    Self-attention lets candidates see one another, a bidirectional LSTM past items; then
    `layers.CoAttention` of both, and logits = head(relu layers([context_i; v_i; c_i; b_i])).
    Candidates have no positions: permuting them permutes the scores. How we differ: decay, masks
    and maps as the layer says; one self-attention block, and features that are parts of a vector;
    click and entire-space conversion for click alone. The list-level outputs take items as
    independent.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.encoder = layers.ListInputEncoder(self.inputs_spec, c)
        self.context = layers.CandidateContext(c.width, name="context")
        self.projection = layers.Dense(c.width, name="projection")
        self.block = layers.SelfAttentionBlock(c.width, c.heads, c.dropout, name="block")
        self.past = tf.keras.layers.Bidirectional(
            tf.keras.layers.LSTM(c.width, return_sequences=True), merge_mode="sum", name="past"
        )
        self.co_attention = layers.CoAttention(c.width, c.heads, name="co_attention")
        self.network = layers.FeedForward([4 * c.width, 2 * c.width], c.dropout, name="network")
        self.head = layers.EntireSpaceHead(c.width)

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        lists = self.encoder(batch)
        context = self.context(lists)
        vectors = self.block(self.projection(context), lists.mask, training=training)
        # One more entry of padding, for a recurrent layer needs a step to take.
        past = tf.pad(lists.past_items, [[0, 0], [0, 1], [0, 0]])
        past_mask = tf.pad(lists.past_mask, [[0, 0], [0, 1]])
        past = self.past(past, mask=past_mask, training=training)
        found, seen, _ = self.co_attention(
            candidates=vectors,
            past=past,
            user=lists.user,
            age=tf.pad(lists.past_age, [[0, 0], [0, 1]]),
            mask=lists.mask,
            past_mask=past_mask,
        )
        joined = tf.concat([context, vectors, found, seen], axis=-1)
        items = self.head(self.network(joined, training=training))
        return items, None
