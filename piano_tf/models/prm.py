"""PRM: Personalized Re-ranking for Recommendation (RecSys 2019, arXiv 1904.06813)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig
from piano_tf.features import Axis, InputSpec
from piano_tf.masks import mask_of
from piano_tf.models.base import Reranker, independent_list_logit, initial_rank, outputs_of


@tf.keras.utils.register_keras_serializable("piano_tf")
class PRM(Reranker):
    """A post-norm Transformer over the candidates, with learned positions.

    E_i = W [x_i; pv_i] + position, then blocks, then a score per item. In the paper pv_i is the
    last hidden vector of a click model trained beforehand. How we differ: pv_i is a user vector
    (listener, context, mean of the history) joined with the query's and trained along, until the
    pre-training stage is there; and the head gives click and entire-space conversion, as for every
    model here. The list-level outputs take items as independent, for PRM has no list head.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(inputs, config, **kwargs)
        c = self.config
        self.query_encoder = layers.QueryEncoder(self.inputs_spec.rows["query"], c.width)
        self.item_encoder = layers.ItemEncoder(self.inputs_spec, c.width)
        self.user_encoder = layers.UserEncoder(self.inputs_spec, c.width)
        self.projection = tf.keras.layers.Dense(c.width, name="projection")
        self.position = tf.keras.layers.Embedding(c.max_rank, c.width, name="position")
        self.blocks = [
            layers.SelfAttentionBlock(
                c.width, c.heads, c.dropout, pre_norm=False, name=f"block_{number}"
            )
            for number in range(c.blocks)
        ]
        self.head = layers.EntireSpaceHead(c.width)

    def call(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        mask = mask_of(batch, Axis.ITEM)
        items, history_items = self.item_encoder(batch)
        user = self.user_encoder(batch, history_items, mask_of(batch, Axis.HISTORY))
        listener = tf.concat([user, self.query_encoder(batch["query"])], axis=-1)
        listener = tf.repeat(listener[:, tf.newaxis], tf.shape(items)[1], axis=1)
        vectors = self.projection(tf.concat([items, listener], axis=-1))
        vectors += self.position(tf.minimum(initial_rank(batch), self.config.max_rank - 1))
        for block in self.blocks:
            vectors = block(vectors, mask, training=training)
        click, conversion = self.head(vectors)
        lists = independent_list_logit(click, mask), independent_list_logit(conversion, mask)
        return outputs_of((click, conversion), lists)
